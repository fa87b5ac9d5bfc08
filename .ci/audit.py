"""Audit of the dependencies: known vulnerabilities where their data can be reached, and what can be said offline.

    python .ci/audit.py [--offline]

pip-audit (pinned, in an environment of its own) asks the advisory databases about every pin of requirements.lock. On
machines that do not reach them that part is left out, and the last line says so. What is always checked: every
dependency is pinned once, to a version that pyproject.toml allows; the installed versions are the pinned ones and fit
each other (`pip check`); nothing that users install is under the GPL.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
PATIENCE = 120  # seconds for the databases
_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.!+-]+)")
_GPL = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
_LESSER = re.compile(r"LGPL|Lesser|exception|EPL|MIT|BSD|Apache|MPL", re.IGNORECASE)  # of two licences one may choose


def pins_of(lock: str) -> tuple[dict[str, Version], list[str]]:
    """Return version by name, and what is wrong with a lock file."""
    pins: dict[str, Version] = {}
    wrong = []
    for line in (line.split("#")[0].strip() for line in lock.splitlines()):
        match = _PIN.fullmatch(line)
        if not line:
            continue
        if match is None:
            wrong.append(f"requirements.lock: {line!r} is no exact pin")
            continue
        name = canonicalize_name(match[1])
        if name in pins:
            wrong.append(f"requirements.lock pins {name} twice")
        pins[name] = Version(match[2])
    return pins, wrong


def unmet(required: Iterable[str], pins: Mapping[str, Version]) -> list[str]:
    """Return what the project asks for and the pins do not give."""
    wrong = []
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            wrong.append(f"{requirement.name} is not pinned in requirements.lock")
        elif not requirement.specifier.contains(pin, prereleases=False):
            wrong.append(f"requirements.lock has {requirement.name} {pin}, pyproject.toml asks for {requirement}")
    return wrong


def closure(required: Iterable[str]) -> set[str]:
    """Return the installed distributions that some requirements bring with them."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in required]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": extra})):
            continue
        found.add(name)
        try:
            texts = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [(Requirement(text), extra) for text in texts for extra in (*requirement.extras, "")]
    return found


def is_gpl(about: metadata.PackageMetadata) -> bool:
    """Whether a distribution says that it is under the GPL or AGPL, and offers nothing else."""
    said = [about.get("License-Expression") or "", (about.get("License") or "").strip().partition("\n")[0]]
    said += [text for text in about.get_all("Classifier") or [] if text.startswith("License")]
    return any(_GPL.search(text) for text in said) and not any(_LESSER.search(text) for text in said)


def installed(pins: Mapping[str, Version], shipped: Iterable[str]) -> list[str]:
    """Return where the environment differs from the pins, and what of it users could not take under our licence."""
    wrong = []
    for name, pin in pins.items():
        try:
            have = Version(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue  # a pin of another platform
        if have.public != pin.public:
            wrong.append(f"{name} {have} is installed, {pin} is pinned")
    for name in sorted(shipped):
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        if is_gpl(about):
            wrong.append(f"{name} is under the GPL and is no development dependency")
    return wrong


def known_vulnerabilities(lock: Path) -> list[str] | None:
    """Ask the advisory databases; None where they, or pip-audit, cannot be reached."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            venv.create(scratch, with_pip=True)
            python = Path(scratch) / "bin" / "python"
            quiet = ["--quiet", "--disable-pip-version-check"]
            subprocess.run([python, "-m", "pip", "install", *quiet, PIP_AUDIT], check=True, timeout=PATIENCE)
            asked = subprocess.run(
                [python, "-m", "pip_audit", "-r", lock, "--no-deps", "--disable-pip", "--format", "json",
                 "--progress-spinner", "off", "--timeout", "15"],
                capture_output=True, text=True, check=False, timeout=PATIENCE,
            )  # fmt: skip
            entries = json.loads(asked.stdout)["dependencies"]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as problem:
            print(f"pip-audit has no answer: {' '.join(str(problem).split())[:160]}")
            return None
    # A database that knows none of the packages was not reached either (a mirror without advisories).
    if not any("vulns" in entry for entry in entries):
        print(f"pip-audit has no answer: {str(entries[0].get('skip_reason', ''))[:160] if entries else 'no packages'}")
        return None
    return [
        f"{entry['name']} {entry['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version'}"
        for entry in entries
        for flaw in entry.get("vulns", ())
    ]


def main() -> int:
    """Print what was found; status 1 where anything is wrong."""
    lock = ROOT / "requirements.lock"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    pins, wrong = pins_of(lock.read_text(encoding="utf-8"))
    wrong += unmet([*project["dependencies"], *(text for texts in optional.values() for text in texts)], pins)
    users = [*project["dependencies"], *(text for name, texts in optional.items() if name != "dev" for text in texts)]
    wrong += installed(pins, closure(users))
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    wrong += check.stdout.splitlines() if check.returncode else []
    flaws = None if "--offline" in sys.argv[1:] else known_vulnerabilities(lock)
    for line in [*wrong, *(flaws or ())]:
        print(f"audit: {line}")
    asked = "pip-audit asked the advisory databases" if flaws is not None else (
        "the advisory databases were NOT asked (not reachable from here): pins, ranges, pip check and licences only"
    )  # fmt: skip
    print(f"audit of {len(pins)} pins: {len(wrong) + len(flaws or ())} problems; {asked}")
    return 1 if wrong or flaws else 0


if __name__ == "__main__":
    sys.exit(main())
