"""Stage `shift` on the small pipeline: pseudo-cells, a single-cell file, a toy model with a tokeniser, absence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from bulkprobe.cohort.store import open_expression
from bulkprobe.encoders.base import Card, CohortView, Weights
from bulkprobe.errors import Unfit, UserError
from bulkprobe.files import read_json
from bulkprobe.nn.samples import Sample, Samples, Tokens
from bulkprobe.params import load_params
from bulkprobe.stages import paths, shift
from bulkprobe.stages.shift_subject import Subject, open_subject
from bulkprobe.store import write_absent
from pipeline import write_params
from workspace import copy_workspace, inside, shared_workspace

LENGTH = 40  # tokens of the toy model


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the small pipeline, stood in, with stand-ins for the blocks that are tested elsewhere."""
    copied = copy_workspace(shared_workspace(tmp_path_factory), tmp_path / "study")
    for module, name in (("shift_ladder", "run_ladder"), ("shift_feeding", "run_feeding")):
        stand_in = ModuleType(f"bulkprobe.stages.{module}")
        setattr(stand_in, name, lambda subject, name=name: {"reason": None, "ran": f"{name} {subject.name}"})
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    with inside(copied, "pca"):
        yield copied


def set_shift(folder: Path, **values: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["shift"] |= values
    write_params(folder, params)


def numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        for value in content.values():
            yield from numbers(value)
    elif isinstance(content, list):
        for value in content:
            yield from numbers(value)
    elif isinstance(content, float):
        yield content


# ---------------------------------------------------------------- pca


def test_pseudo_cells_of_a_baseline(folder: Path) -> None:
    assert shift.main() == "metrics/shift/pca.json is written"
    path = paths.metrics_path("shift", "pca")
    found, first = read_json(path), path.read_bytes()
    shift.main()
    assert path.read_bytes() == first
    assert (found["encoder"], found["kind"], found["absent"], found["simulated"]) == ("pca", "baseline", None, True)
    assert (found["parameters"], found["parameters_reason"]) == (None, "a baseline has no weights")
    assert found["input"]["reason"] == "this encoder has no tokeniser"
    reference = found["reference"]
    assert (reference["kind"], reference["n"], reference["left_out"]) == ("pseudo_cells", 40, 0)
    assert "in depth alone" in reference["said"]
    assert 3500 < reference["median_counts"] < 7000
    space = found["space"]
    assert (space["n_bulk"], space["n_reference"], space["width"]) == (40, 40, 8)
    assert "tumours alone" in space["transform"]
    assert space["domain_auroc"]["value"] > 0.95  # zeros of shallow cells are plain to see
    assert space["mmd"]["p"] < 0.01
    assert space["nearest"]["median"] > 1
    assert 1 <= space["bulk"]["effective_rank"] <= 8
    assert found["nuisance"]["library_size"]["n"] > 200
    assert found["nuisance"]["site"]["reason"] or found["nuisance"]["site"]["value"] is not None
    assert found["ladder"] == {"reason": None, "ran": "run_ladder pca"}
    assert found["feeding"] == {"reason": "not asked for: shift.encoders.pca.feeding is false in params.yaml"}
    assert all(round(number, 6) == number for number in numbers(found))


def single_cells(folder: Path, change: float = 0.0) -> None:
    """Write the cohort's own samples as if they were cells, TPM of half the genes raised by a share of `change`."""
    store = open_expression(paths.COHORT / "expression.zarr")
    layers = {"tpm": store.read("tpm")}
    layers["tpm"][:, ::2] *= 1 + change
    layers["tpm"] *= 1e6 / layers["tpm"].sum(axis=1, keepdims=True)
    obs = pd.DataFrame(index=pd.Index(store.sample_ids, dtype=object))
    var = store.var.drop(columns="length")
    data = anndata.AnnData(store.read("X"), obs=obs, var=var, layers=layers, uns={"scale": "counts"})
    paths.INPUTS.mkdir(parents=True, exist_ok=True)
    data.write_h5ad(paths.INPUTS / "cells.h5ad")
    set_shift(folder, reference="cells.h5ad", samples=None)


def test_a_file_equal_to_the_cohort_cannot_be_told_from_it(folder: Path) -> None:
    single_cells(folder)
    found = shift.run(subject("pca"))
    reference, space = found["reference"], found["space"]
    assert (reference["kind"], reference["file"], len(reference["sha256"])) == ("file", "cells.h5ad", 64)
    assert "100.0%" in reference["said"]
    assert space["n_reference"] > space["n_bulk"]  # samples that are not probed lie in the file too
    assert space["domain_auroc"]["low"] <= 0.5 <= space["domain_auroc"]["high"]
    assert space["mmd"]["value"] < 0.01
    assert space["nearest"]["median"] <= 1


def test_a_file_that_differs_is_told_apart(folder: Path) -> None:
    single_cells(folder, change=3.0)
    assert shift.run(subject("pca"))["space"]["domain_auroc"]["value"] > 0.9


def test_a_reference_that_is_no_counts_or_not_there_is_refused(folder: Path) -> None:
    set_shift(folder, reference="missing.h5ad")
    with pytest.raises(UserError, match="there is nothing at"):
        shift.run(subject("pca"))
    single_cells(folder)
    data = anndata.read_h5ad(paths.INPUTS / "cells.h5ad")
    data.X, data.uns["scale"] = data.layers["tpm"], "tpm"
    data.write_h5ad(paths.INPUTS / "cells.h5ad")
    with pytest.raises(UserError, match="counts were expected"):
        shift.run(subject("pca"))


def test_an_absent_encoder_says_so_everywhere(folder: Path) -> None:
    write_absent(paths.store_path("pca"), "switched off", {"encoder": "pca", "model": "pca"})
    shift.main()
    found = read_json(paths.metrics_path("shift", "pca"))
    assert (found["absent"], found["parameters"]) == ("switched off", None)
    assert all(found[block] == {"reason": "switched off"} for block in shift.BLOCKS)


def test_an_encoder_that_is_not_listed_is_refused(folder: Path) -> None:
    with inside(folder, "expression"), pytest.raises(UserError, match=r"shift\.encoders has no 'expression'"):
        shift.main()


def test_labels_are_not_read(folder: Path) -> None:
    found = subject("pca")
    shuffled = found.cohort.mutations.sample(frac=1, random_state=0)
    blind = replace(found.cohort, mutations=shuffled.iloc[:0], survival=found.cohort.survival.iloc[:0])
    assert shift.run(found) == shift.run(replace(found, cohort=blind, metrics={}, splits=found.splits.iloc[:0]))


# ---------------------------------------------------------------- a toy model with a tokeniser


def subject(name: str) -> Subject:
    found = open_subject(name, load_params())
    assert isinstance(found, Subject)
    return found


class Toy:
    """Reads the largest of the genes it knows; the vector is their share of counts, scaled to a frozen total."""

    card = Card(
        "toy",
        "Toy",
        "foundation",
        "none",
        ("counts",),
        "none",
        reads="log count",
        defaults={"target_sum": "cohort_median", "layer": "X"},
    )
    started: list[dict[str, Any]] = []  # noqa: RUF012

    def start(self, cohort: CohortView, options: dict[str, Any], weights: Weights | None = None) -> Samples:
        self.started.append(dict(options))
        symbols = cohort.var["symbol"].to_numpy(str)
        known = np.flatnonzero(np.arange(len(symbols)) % 3 > 0)
        if "GENE0" in symbols:
            raise Unfit("toy knows none of these genes")

        def tokens(values: np.ndarray, sample: Sample) -> Tokens:
            found = known[values[known] > 0]
            if len(found) < 3:
                raise UserError("nothing to read")
            columns = found[np.argsort(-values[found], kind="stable")][:LENGTH]
            return Tokens(columns, np.log1p(values[columns]))

        def encode(values: np.ndarray, sample: Sample) -> torch.Tensor:
            tokens(values, sample)
            return torch.from_numpy(values[known[:12]] / values.sum() * 100)

        target = options.get("target_sum", 7.0)
        attributes = {"target_sum": target, "target_sum_from": "cohort_median", "parameters_used": 99}
        layer = str(options.get("layer", "X"))
        return Samples(12, layer, attributes, encode, tokens, known=known)


def toy_subject(options: dict[str, Any] | None = None) -> Subject:
    found = subject("pca")
    toy = Toy()
    Toy.started.clear()
    entry = found.entry.model_copy(update={"options": options or {}})
    session = toy.start(found.view, entry.options)
    everything = np.arange(len(found.obs))
    store = replace(
        found.store, embedding=session.embed(found.values_of(everything, session), found.obs), attributes={}
    )
    return replace(found, encoder=toy, entry=entry, session=session, store=store)


def test_a_tokeniser_is_compared_on_both_sides(folder: Path) -> None:
    set_shift(folder, cell_depth=3000)
    found = shift.run(toy_subject())
    block = found["input"]
    assert (found["kind"], found["parameters"], found["parameters_reason"]) == ("foundation", 99, None)
    assert (block["bulk"]["n"], block["reference"]["n"]) == (40, 40)
    assert block["reads"] == "log count"
    assert block["bulk"]["tokens"]["median"] == LENGTH
    assert block["bulk"]["lost_to_vocabulary"]["median"] == pytest.approx(1 / 3, abs=0.03)
    assert block["bulk"]["lost_to_length"]["median"] > block["reference"]["lost_to_length"]["median"]
    assert block["bulk"]["zero_fraction"]["median"] < block["reference"]["zero_fraction"]["median"]
    assert block["total_variation"] > 0.5
    assert sum(block["histogram"]["bulk"]) == pytest.approx(1, abs=1e-4)
    assert set(block["biomarkers"]) == {"TP53", "KRAS"}
    assert all(entry["measured"] for entry in block["biomarkers"].values())


def test_cells_without_anything_to_read_are_counted(folder: Path) -> None:
    set_shift(folder, cell_depth=100)
    made = toy_subject()
    known = made.session.known
    # Most counts lie in one gene that the toy does not know, so that a shallow cell may hold next to nothing else.
    kept = made.expression.read

    def read(layer: str, rows: np.ndarray) -> np.ndarray:
        values = kept(layer, rows)
        values[:, known] = np.minimum(values[:, known], 1 + (rows % 2)[:, None] * 100)
        return values

    cohort = SimpleNamespace(
        read=read, scale="counts", blocks=made.expression.blocks, sample_ids=made.expression.sample_ids
    )
    found = shift.run(replace(made, expression=cohort))  # type: ignore[arg-type]
    reference = found["reference"]
    assert reference["left_out"] > 0
    assert reference["n"] + reference["left_out"] == 40
    assert found["space"]["n_reference"] == reference["n"] == found["input"]["reference"]["n"]


def test_a_model_reads_a_file_by_itself_with_what_it_took_from_the_cohort(folder: Path) -> None:
    single_cells(folder)
    found = shift.run(toy_subject())
    assert Toy.started == [{}, {"target_sum": 7.0}]
    assert found["space"]["domain_auroc"]["low"] <= 0.5 <= found["space"]["domain_auroc"]["high"]
    assert found["input"]["total_variation"] < 0.05


def test_counts_per_million_stand_in_for_tpm(folder: Path) -> None:
    single_cells(folder)
    data = anndata.read_h5ad(paths.INPUTS / "cells.h5ad")
    del data.layers["tpm"]
    data.write_h5ad(paths.INPUTS / "cells.h5ad")
    made = toy_subject({"layer": "tpm"})
    found = shift.run(made)
    assert "counts per million" in found["reference"]["said"]
    assert found["space"]["n_reference"] == len(made.expression.sample_ids)


def test_a_file_that_a_model_cannot_read_leaves_the_bulk_side(folder: Path) -> None:
    single_cells(folder)
    data = anndata.read_h5ad(paths.INPUTS / "cells.h5ad")
    names = [f"GENE{number}" for number in range(data.n_vars)]
    var = pd.DataFrame(index=pd.Index(names, dtype=object))
    anndata.AnnData(data.X, obs=data.obs, var=var, uns=data.uns).write_h5ad(paths.INPUTS / "cells.h5ad")
    for made, said in ((toy_subject(), "toy knows none"), (subject("pca"), "none of the cohort's genes")):
        found = shift.run(made)
        assert said in found["reference"]["reason"]
        assert said in found["space"]["mmd"]["reason"]
        assert found["space"]["bulk"]["effective_rank"] > 1
        assert found["space"]["reference"] is None


def test_a_cohort_without_counts_has_no_pseudo_cells(folder: Path) -> None:
    made = subject("pca")
    found = shift.run(replace(made, expression=replace(made.expression, scale="tpm")))
    assert "only counts can be thinned" in found["reference"]["reason"]
    assert found["space"]["domain_auroc"]["value"] is None
    assert "without counts" in found["nuisance"]["library_size"]["reason"]
    assert found["nuisance"]["n_expressed"]["value"] is not None
