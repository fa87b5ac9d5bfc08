"""Probing and the depth ladder on workers: the numbers of one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from bulkprobe import cli
from bulkprobe.stages import shift
from workspace import copy_workspace, inside, shared_workspace

pytestmark = pytest.mark.xdist_group("workspace")


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_workspace(tmp_path_factory)


def test_probes_on_two_workers(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "survival.json"
    with inside(made):
        command = ["bulkprobe", "probe", "data/embeddings/pca.zarr", "--cohort", "data/cohort", "--task", "survival"]
        options = ["--splits", "data/splits.parquet", "--output", str(output), "--cluster", "local", "--workers", "2"]
        monkeypatch.setattr(sys, "argv", [*command, *options])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    assert output.read_bytes() == (made / "metrics" / "survival" / "pca.json").read_bytes()


def test_the_depth_ladder_on_two_workers(made: Path, tmp_path: Path) -> None:
    place = copy_workspace(made, tmp_path / "place")
    params = yaml.safe_load((place / "params.yaml").read_text())
    params["embed"] |= {"cluster": "local", "workers": 2}
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    result = place / "metrics" / "shift" / "pca.json"
    before = result.read_bytes()
    result.unlink()
    with inside(place, "pca"):
        shift.main()
    assert result.read_bytes() == before
    assert [path.name for path in result.parent.iterdir()] == ["pca.json"]
