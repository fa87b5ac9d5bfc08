from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from bulkprobe.errors import UserError
from bulkprobe.params import load_params

TOP = Path(__file__).resolve().parents[1]


@pytest.fixture
def content() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((TOP / "params.yaml").read_text(encoding="utf-8"))
    return loaded


def save(folder: Path, content: Any) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_released_file_is_valid_and_its_penalties_are_sorted(tmp_path: Path) -> None:
    shutil.copy(TOP / "params.yaml", tmp_path)
    params = load_params(tmp_path / "params.yaml")
    assert params.cohort.source == "simulated"
    assert params.probe_mutation.penalties == sorted(params.probe_mutation.penalties, reverse=True)


def test_sections_carry_the_names_of_the_stages(content: dict[str, Any]) -> None:
    stages = yaml.safe_load((TOP / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(content) - {"base", "encoders"} <= set(stages)


def test_an_unknown_key_names_section_key_and_nearest_match(tmp_path: Path, content: dict[str, Any]) -> None:
    content["splits"]["n_split"] = 3
    with pytest.raises(UserError, match=r"section splits has the unknown key 'n_split'; did you mean 'n_splits'\?"):
        load_params(save(tmp_path, content))


def test_an_unknown_key_of_an_encoder_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    content["encoders"]["pca"]["modle"] = "pca"
    with pytest.raises(UserError, match=r"section encoders\.pca has the unknown key 'modle'; did you mean 'model'\?"):
        load_params(save(tmp_path, content))


def test_an_unknown_section_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    content["zzz"] = {}
    with pytest.raises(UserError, match=r"section the top level has the unknown key 'zzz'; known keys: base, fetch"):
        load_params(save(tmp_path, content))


def test_a_missing_key_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    del content["splits"]["scheme"]
    with pytest.raises(UserError, match=r"splits\.scheme is missing; add it"):
        load_params(save(tmp_path, content))


def test_an_impossible_value_is_shown_with_what_was_expected(tmp_path: Path, content: dict[str, Any]) -> None:
    content["splits"]["test_fraction"] = 1.5
    with pytest.raises(UserError, match=r"splits\.test_fraction is 1\.5, but input should be less than 1"):
        load_params(save(tmp_path, content))


def test_penalties_must_be_positive(tmp_path: Path, content: dict[str, Any]) -> None:
    content["probe_survival"]["penalties"] = [1.0, 0.0]
    with pytest.raises(UserError, match=r"probe_survival\.penalties is .* penalties must be distinct positive numbers"):
        load_params(save(tmp_path, content))


def test_the_reference_of_comparisons_must_be_an_encoder(tmp_path: Path, content: dict[str, Any]) -> None:
    content["compare"]["reference"] = "pcs"
    with pytest.raises(UserError, match=r"compare\.reference is 'pcs', but .* has no such name: give one of .*pca"):
        load_params(save(tmp_path, content))


@pytest.mark.parametrize(("key", "value"), [("n_boot", 5), ("level", 1.0), ("level", 0.05)])
def test_draws_and_level_of_comparisons_have_bounds(
    tmp_path: Path, content: dict[str, Any], key: str, value: float
) -> None:
    content["compare"][key] = value
    with pytest.raises(UserError, match=rf"compare\.{key} is {value}, but input should be"):
        load_params(save(tmp_path, content))


def test_two_problems_are_both_told(tmp_path: Path, content: dict[str, Any]) -> None:
    content["splits"]["n_splits"] = "many"
    content["splits"]["scheme"] = "year"
    with pytest.raises(UserError, match=r"splits\.n_splits is 'many'.*splits\.scheme is 'year'"):
        load_params(save(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not valid YAML"), ("- 1\n", "holds list, but a mapping of sections")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_params(path)


def test_a_missing_file_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the command in the project's top folder"):
        load_params(tmp_path / "params.yaml")
