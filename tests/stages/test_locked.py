"""Hashing against dvc.lock on a pipeline of a few lines: what is found, and that `dvc status` finds it too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from bulkprobe.errors import UserError
from bulkprobe.stages.locked import Hashed, check_lock
from workspace import inside

pytestmark = [
    pytest.mark.xdist_group("locked"),
    pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning"),  # DVC's, of pygtrie
]
PIPELINE = r"""
stages:
  each:
    foreach: ${names}
    do:
      cmd: mkdir -p out/${item}/deep; cd out/${item}; printf ${item} > a.txt; printf 'x\r\ny\r\n' > deep/b.txt
      params: [names]
      outs: ["out/${item}"]
  score:
    cmd: echo {} > score.json; echo k > kept.txt
    deps: [raw.csv, lib, folder, out/p]
    params: [{params.yaml: null}, {other.toml: [x.y]}]
    metrics: [{score.json: {cache: false}}]
    outs: [{kept.txt: {persist: true}}]
  nothing:
    cmd: "true"
    deps: [raw.csv]
"""
FILES = {
    "dvc.yaml": PIPELINE,
    "params.yaml": "names: [p, q]\nsmall: 1e-05\n",
    "other.toml": "[x]\ny = 3\n",
    "raw.csv": "a,b\n",
    "lib/code.py": "x\n",
    "lib/__pycache__/code.pyc": "junk",
    "folder/f": "f",
    "added.txt": "data\n",
    ".dvcignore": "__pycache__\n",
}


@pytest.fixture(autouse=True)
def _no_dvc_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG"):
        monkeypatch.setenv(f"DVC_{name}_DIR", str(tmp_path / name))


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline after its run, with a file and a folder added, and a file imported from beside it."""
    made = tmp_path_factory.mktemp("locked") / "study"
    for name, content in FILES.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(content)
    (made.parent / "source.txt").write_text("theirs\n")
    with pytest.MonkeyPatch.context() as patch, inside(made):
        patch.setenv("DVC_SITE_CACHE_DIR", str(made.parent / "site"))
        with Repo.init(no_scm=True) as repo:
            repo.add(["added.txt", "folder"])
            repo.imp_url(str(made.parent / "source.txt"), out="imported.txt")
            repo.reproduce()
    return made


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "study"))


def check(folder: Path) -> Hashed:
    with inside(folder):
        return check_lock()


def found(folder: Path) -> list[str]:
    return [f"{finding.kind} {finding.stage}: {finding.what}" for finding in check(folder).findings]


def replace(path: Path, text: str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_text(text)


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    replace(path, text.replace(before, after))


def test_what_was_just_made_is_well(made: Path) -> None:
    seen = check(made)
    assert seen.findings == []
    assert (seen.stages, seen.outputs, seen.files) == (7, 7, 9)


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a file that is ignored": (lambda s: (s / "lib/__pycache__/more.pyc").write_text("junk"), []),
    "an ignored file in an output": (lambda s: (s / "out/q/__pycache__").mkdir(), []),
    "an added file": (lambda s: replace(s / "added.txt", "date\n"), ["changed added.txt.dvc: added.txt"]),
    "one more in an added folder": (
        lambda s: (s / "folder/g").write_text("g"),
        ["changed folder.dvc: folder (added g)"],
    ),
    "a file of a foreach stage": (
        lambda s: replace(s / "out/q/deep/b.txt", "x\ny\n"),  # other line ends are other bytes
        ["changed each@q: out/q (changed deep/b.txt)"],
    ),
    "one that is gone": (lambda s: (s / "out/p/a.txt").unlink(), ["changed each@p: out/p (missing a.txt)"]),
    "a file in the place of a folder": (lambda s: replace(s / "folder", "f"), ["changed folder.dvc: folder"]),
    "a metric that git keeps": (lambda s: replace(s / "score.json", "[]"), ["changed score: score.json"]),
    "a metric that is gone": (lambda s: (s / "score.json").unlink(), ["missing score: score.json"]),
    "an output that stays": (lambda s: (s / "kept.txt").unlink(), ["missing score: kept.txt"]),
    "an input": (
        lambda s: replace(s / "raw.csv", "b,c\n"),
        [
            "stale nothing: was run with other raw.csv than is here",
            "stale score: was run with other raw.csv than is here",
        ],
    ),
    "an input that is gone": (
        lambda s: shutil.rmtree(s / "lib"),
        ["stale score: was run with lib, not here now"],
    ),
    "a parameter, and all of a file are": (
        lambda s: edit(s / "params.yaml", "1e-05", "2e-05"),
        ["stale score: was run with other params.yaml: small than is here"],
    ),
    "a parameter of another file": (
        lambda s: edit(s / "other.toml", "3", "4"),
        ["stale score: was run with other other.toml: x.y than is here"],
    ),
    "a file of parameters that is gone": (
        lambda s: (s / "other.toml").unlink(),
        ["stale score: was run with other other.toml: x.y than is here"],
    ),
    "one more item": (
        lambda s: edit(s / "params.yaml", "[p, q]", "[p, q, r]"),
        [
            "not locked each@r: out/r",
            *(
                f"stale {name}: was run with other params.yaml: names than is here"
                for name in ("each@p", "each@q", "score")
            ),
        ],
    ),
    "a command and its input": (
        lambda s: (edit(s / "dvc.yaml", '"true"', '"false"'), replace(s / "raw.csv", "c\n")),
        [
            "stale nothing: was run with another command; was run with other raw.csv than is here",
            "stale score: was run with other raw.csv than is here",
        ],
    ),
    "no dvc.lock": (
        lambda s: (s / "dvc.lock").unlink(),
        [
            "not locked each@p: out/p",
            "not locked each@q: out/q",
            "not locked score: kept.txt, score.json",
            "not locked nothing: it has never run",
        ],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_found_and_that_dvc_finds_it_too(study: Path, change: str) -> None:
    make, expected = CHANGES[change]
    make(study)
    assert found(study) == expected
    with inside(study), Repo() as repo:
        theirs = set(repo.status())
    ours = {finding.stage for finding in check(study).findings}
    # DVC also names what would run again because of the others, as `score`, which reads folder and out/p.
    assert ours <= theirs <= ours | {"score"}
    assert bool(ours) == bool(theirs)


def test_what_cannot_be_read_is_named_and_the_rest_still_checked(study: Path) -> None:
    (study / "folder/link").symlink_to("nowhere")  # here and below `dvc status` itself gives up
    replace(study / "added.txt", "date\n")
    assert found(study) == [
        "changed added.txt.dvc: added.txt",
        "changed folder.dvc: folder (cannot be read: No such file or directory: folder/link)",
    ]
    (study / "folder/link").unlink()
    shutil.rmtree(study / "out/q")
    (study / "out/q").symlink_to("nowhere")
    assert found(study) == ["changed added.txt.dvc: added.txt", "missing each@q: out/q"]


def test_one_bit_behind_a_link_into_the_cache_is_found(study: Path) -> None:
    with inside(study), Repo() as repo, repo.config.edit() as config:
        config["cache"]["type"] = ["symlink"]
    with inside(study), Repo() as repo:
        repo.checkout(force=True, relink=True)
    assert (study / "kept.txt").is_symlink()
    assert found(study) == []
    cached = (study / "kept.txt").resolve()
    assert study in cached.parents
    before = cached.stat()
    cached.chmod(0o644)
    cached.write_text("l\n")
    os.utime(cached, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found(study) == ["changed score: kept.txt"]


def test_a_lock_of_older_dvc_is_read_by_its_own_hashes(study: Path) -> None:
    """DVC 2 wrote no `hash: md5`, and took line ends for the same."""
    lock = yaml.safe_load((study / "dvc.lock").read_text())
    for stage in lock["stages"].values():
        for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
            entry.pop("hash", None)
    replace(study / "dvc.lock", yaml.safe_dump(lock))
    assert [line.split(" (")[0] for line in found(study)] == ["changed each@p: out/p", "changed each@q: out/q"]
    for stage in lock["stages"].values():
        for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
            if entry["path"].startswith("out/"):
                entry["hash"] = "md5"
    replace(study / "dvc.lock", yaml.safe_dump(lock))
    assert found(study) == []


def test_where_an_import_came_from_is_not_looked_at(study: Path) -> None:
    """It may lie on a server: only `dvc update` asks there. The bytes that came are checked."""
    content = yaml.safe_load((study / "imported.txt.dvc").read_text())
    content["deps"][0] = {"checksum": "12345", "size": 7, "hash": "md5", "path": "http://127.0.0.1:9/source.txt"}
    replace(study / "imported.txt.dvc", yaml.safe_dump(content))
    assert found(study) == []
    content["deps"][0]["path"] = str(study / "gone.txt")
    replace(study / "imported.txt.dvc", yaml.safe_dump(content))
    replace(study / "imported.txt", "ours\n")
    assert found(study) == ["changed imported.txt.dvc: imported.txt"]


@pytest.mark.parametrize("name", ["dvc.lock", "dvc.yaml", "added.txt.dvc", "other.toml"])
@pytest.mark.parametrize("text", ["a: [", "outs: {}\nstages: 3\nschema: '9.9'\n", "\0"])
def test_damaged_records_are_one_sentence(study: Path, name: str, text: str) -> None:
    replace(study / name, text)
    with pytest.raises(UserError, match=r"DVC cannot read this study|^dvc\.lock is not YAML") as said:
        check(study)
    assert "\n" not in str(said.value)


def test_from_a_folder_below_paths_are_said_from_there(study: Path) -> None:
    replace(study / "added.txt", "date\n")
    with inside(study / "folder"):
        assert [finding.what for finding in check_lock().findings] == ["../added.txt"]


def test_a_folder_in_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this folder is in no DVC project"):
        check(tmp_path)
