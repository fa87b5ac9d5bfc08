"""CONTRIBUTING's six steps, followed from scratch for a toy model in a copy of the checkout."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import TOP, make_copy, stages_named

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]
TOY = Path(__file__).parent / "toy_model"


def insert_after(path: Path, line: str, added: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(line) == 1
    path.write_text(text.replace(line, line + added), encoding="utf-8")


def test_the_six_steps_are_complete(tmp_path: Path) -> None:
    study = make_copy(tmp_path)
    study.run("git", "init", "--quiet")
    study.dvc("init", "--quiet", "--force")
    params = study.params()
    params["encoders"] = {"pca": params["encoders"]["pca"], "cancer_type": params["encoders"]["cancer_type"]}
    write = study.folder / "params.yaml"
    write.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    study.dvc("repro")
    source = study.folder / "src" / "bulkprobe"

    shutil.copyfile(TOY / "encoder.py", source / "encoders" / "toy.py")  # step 1
    shutil.copyfile(TOY / "untrained.py", source / "untrained" / "toy.py")  # step 2
    insert_after(
        source / "encoders" / "__init__.py", "MODELS = {\n", '    "toy": "bulkprobe.encoders.toy",\n'
    )  # step 3
    insert_after(source / "untrained" / "__init__.py", "WRITERS = {\n", '    "toy": "bulkprobe.untrained.toy",\n')
    params["encoders"]["toy"] = {
        "model": "toy", "release": "untrained", "enabled": True, "options": {}
    }  # fmt: skip
    write.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    shutil.copytree(TOP / "tests", study.folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))  # step 4
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/encoders/test_foundation.py", "-k", "toy"]
    said = study.run(*command, "-p", "no:cacheprovider").stdout
    assert int(re.search(r"(\d+) passed", said)[1]) >= 15  # type: ignore[index]

    ran = stages_named(study.dvc("repro").stdout)  # step 5
    own = {"weights@toy", "embed@toy", "probe_mutation@toy", "probe_survival@toy"}
    assert own <= ran
    assert not {name for name in ran if name.startswith(("embed@", "probe"))} - own
    metrics = json.loads((study.folder / "metrics" / "mutation" / "toy.json").read_text())
    assert metrics["untrained"] is True
    assert "Toy bag of genes" in (study.folder / "metrics" / "report.html").read_text()


def test_the_guide_names_what_the_steps_touch() -> None:
    guide = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in ("MODELS", "WRITERS", "params.yaml", "test_foundation.py", "IGNORED", "gene_vectors", "evidence"):
        assert name in guide.partition("## Add an encoder in six steps")[2]
