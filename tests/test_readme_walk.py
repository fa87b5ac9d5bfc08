"""From a featureCounts table and a clinical CSV to a C-index, by the commands of README.md and nothing else."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bulkprobe import cli
from real_counts import write_lab_files
from workspace import inside

TOP = Path(__file__).resolve().parents[1]


def blocks(kind: str) -> list[str]:
    text = (TOP / "README.md").read_text(encoding="utf-8")
    section = text.split("### From featureCounts to a C-index")[1].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)


@pytest.mark.shared
@pytest.mark.slow
def test_readme_leads_to_a_c_index(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(TOP / "params.yaml", tmp_path / "params.yaml")
    write_lab_files(shared / "real", "ACC", tmp_path)
    write_lab_files(shared / "real", "UCS", tmp_path / "ucs")
    (tmp_path / "lab.yaml").write_text(blocks("yaml")[0])
    shutil.copyfile(tmp_path / "lab.yaml", tmp_path / "ucs/lab.yaml")

    def run(command: str) -> str:
        with inside(tmp_path):
            monkeypatch.setattr("sys.argv", shlex.split(command))
            with pytest.raises(SystemExit) as ended:
                cli.main()
        said = capsys.readouterr()
        assert ended.value.code == 0, (command, said.err, ended.value.code)
        return said.out

    mine, others = blocks("console")
    for block, prepare in ((mine, None), (others, "bulkprobe cohort --files ucs/lab.yaml --output other")):
        if prepare:
            run(prepare)
        said = ""
        for line in block.splitlines():
            if line.startswith("$ "):
                said = run(line[2:])
            else:  # what README.md shows: the same words and people; the value to two decimals
                words, shown = _split(line)
                found = next(part for part in said.splitlines() if _split(part)[0] == words)
                assert _split(found)[1] == pytest.approx(shown, abs=0.01)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert len(table) == 57
    assert set(table.label) == {"ACC/OS"}


def _split(line: str) -> tuple[str, list[float]]:
    return re.sub(r"\d\.\d{3}", "#", line), [float(value) for value in re.findall(r"\d\.\d{3}", line)]
