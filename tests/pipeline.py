"""Copies of the checkout in which the whole pipeline runs on a small cohort."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parents[1]
ENCODERS = ("pca", "expression", "cancer_type")
MEASURED = "pca"  # whose shift and biology are measured
TYPES = ["KIRC", "GBMLGG"]
# Small, with labels of every kind: probed, too few positives, too few patients, and one of a single cancer type, about
# which the cancer type itself says nothing.
SMALL: dict[str, Any] = {
    "cohort": {"simulated": {"patients": 260, "genes": 320}},
    "splits": {"n_splits": 3, "inner_folds": 2},
    "encoders": {
        "pca": {"model": "pca", "release": None, "enabled": True, "options": {"components": 8}},
        "expression": {"model": "expression", "release": None, "enabled": True, "options": {}},
        "cancer_type": {"model": "cancer_type", "release": None, "enabled": True, "options": {}},
    },
    "probe_mutation": {
        "genes": ["TP53", "KRAS"],
        "hotspot_genes": ["KRAS"],
        "within_type": {"BRCA": ["TP53"], "RCC": ["TP53"], "COADREAD": ["TP53", "KRAS"]},
        "min_positives": 5,
        "penalties": [0.1, 0.01],
    },
    "probe_survival": {"types": TYPES, "endpoints": ["OS"], "min_events": 5, "penalties": [1.0, 0.1]},
    "gene_sets": {"least": 3},
    "shift": {
        "samples": 40,
        "depths": [100_000, 1000],
        "feeding_types": None,
        "encoders": {"pca": {"model": "pca", "ladder": True, "feeding": False}},
    },
    "biology": {"random_sets": 20, "encoders": {"pca": {"model": "pca", "contextual": False}}},
    "compare": {"n_boot": 50},
}


def small_params() -> dict[str, Any]:
    """The checkout's params.yaml, made small."""
    params: dict[str, Any] = yaml.safe_load((TOP / "params.yaml").read_text(encoding="utf-8"))
    small = copy.deepcopy(SMALL)
    params["cohort"]["simulated"] = small.pop("cohort")["simulated"]
    params["encoders"] = small.pop("encoders")
    for section, values in small.items():
        params[section] |= values
    return params


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """Replace params.yaml; it may be a link, so it is never opened in place."""
    aside = folder / "params.yaml.new"
    aside.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    aside.replace(folder / "params.yaml")


def checkout_files(top: Path) -> list[str]:
    """What git tracks or would track, also with a dirty work tree; without git, everything that is not an output."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=top, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        names = done.stdout.split("\0")
    else:
        wanted = [top / name for name in ("src", "dvc.yaml", "params.yaml", ".dvc/config", ".dvc/plots", ".dvcignore")]
        wanted += [top / name for name in (".gitignore", ".dvc/.gitignore", "data/inputs", "models/README.md")]
        found = [path for part in wanted for path in ([part] if part.is_file() else part.rglob("*")) if path.is_file()]
        names = [path.relative_to(top).as_posix() for path in found if "__pycache__" not in path.parts]
    # Results of the checkout itself are not wanted: the copy makes its own.
    own = ("dvc.lock", "metrics/", "tests/")
    return [name for name in names if name and not name.startswith(own) and (top / name).is_file()]


class Copy:
    """A checkout of its own: its folder, and commands run in it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        home.mkdir(parents=True, exist_ok=True)
        bin_folder = str(Path(sys.executable).parent)
        kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV") if key in os.environ}
        self.env = {
            **kept,
            "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]),
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Tester",
            "GIT_AUTHOR_EMAIL": "tester@example.org",
            "GIT_COMMITTER_NAME": "Tester",
            "GIT_COMMITTER_EMAIL": "tester@example.org",
            "COLUMNS": "200",
        }

    def run(
        self, *command: str, check: bool = True, timeout: float = 600, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy; with `check`, its output is shown where it fails."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def dvc(self, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run dvc with this interpreter."""
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check, **env)

    def commit(self, message: str) -> None:
        """Commit everything that git tracks or would track."""
        who = ("-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
        self.run("git", "add", "--all")
        self.run("git", *who, "commit", "--quiet", "--allow-empty", "--message", message)

    def params(self) -> dict[str, Any]:
        """The copy's params.yaml."""
        content: dict[str, Any] = yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))
        return content


def make_copy(folder: Path, top: Path = TOP) -> Copy:
    """Copy the checkout `top` to `folder`/study, under git, with the small params.yaml; nothing has run in it."""
    study = Copy(folder / "study", folder / "home")
    for name in checkout_files(top):
        target = study.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(top / name, target)
    write_params(study.folder, small_params())
    study.run("git", "init", "--quiet", "--initial-branch=main")
    study.commit("the checkout")
    return study


def stages_named(output: str) -> set[str]:
    """The stages that `dvc repro` (or its dry run) says it runs."""
    marks = ("Running stage '", "Would run stage '")
    return {line.split("'")[1] for line in output.splitlines() if line.strip().startswith(marks)}
