"""scFoundation against upstream's own numbers, and its rules on made-up genes."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.encoders.scfoundation import CARD, ENCODER, Config, Network, gene_vectors, load, tokenise
from bulkprobe.errors import UserError
from bulkprobe.nn.rename import parameters_of
from bulkprobe.nn.samples import Sample, Samples
from bulkprobe.untrained.scfoundation import CHECKPOINT, N_GENES, VOCABULARY, twin, write
from encoders.made import made_counts, made_genes, made_view

S0 = Sample("S0", 0)
GENES = made_genes(200, 1)
COUNTS = made_counts(4, 200, 2)
SIZES = {"width": 8, "depth": 2, "heads": 2, "bins": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small stand-in of the genes above."""
    made = tmp_path_factory.mktemp("scfoundation")
    write(made, GENES, 3, **SIZES)
    return made


def view_of(genes: pd.DataFrame, counts: np.ndarray) -> CohortView:
    obs = pd.DataFrame({"sample_id": [f"S{i}" for i in range(len(counts))]})
    return CohortView(genes, obs, "counts", (), lambda layer: iter([counts]))


def started(folder: Path, genes: pd.DataFrame = GENES, counts: np.ndarray = COUNTS, **options: Any) -> Samples:
    return ENCODER.start(view_of(genes, counts), options, Weights(folder, threads=1))


def embedded(folder: Path, genes: pd.DataFrame = GENES, counts: np.ndarray = COUNTS, **options: Any) -> np.ndarray:
    return started(folder, genes, counts, **options).embed(counts, view_of(genes, counts).obs)


# Against upstream's own numbers.


def golden(case: Path) -> tuple[CohortView, np.ndarray, np.lib.npyio.NpzFile]:
    genes = pd.read_csv(case / "genes.tsv", sep="\t")
    counts = np.load(case / "counts.npz")["counts"].astype(np.float32)
    return view_of(genes, counts), counts, np.load(case / "expected.npz")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("options", "array"),
    [
        ({}, "embedding"),
        ({"pooling": "max"}, "embedding_pool_max"),
        ({"route": "singlecell"}, "embedding_singlecell_t4"),
        ({"key": "rde"}, "embedding_rde_key"),
    ],
)
def test_embeddings_equal_upstream(shared: Path, options: dict[str, str], array: str) -> None:
    for case in sorted((shared / "golden" / "scfoundation").iterdir()):
        view, counts, expected = golden(case)
        session = ENCODER.start(view, options, Weights(case / "checkpoint", threads=1))
        found = session.embed(counts, view.obs)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[array], rtol=0, atol=2e-5)


@pytest.mark.shared
def test_tokens_and_states_equal_upstream(shared: Path) -> None:
    for case in sorted((shared / "golden" / "scfoundation").iterdir()):
        view, counts, expected = golden(case)
        session = ENCODER.start(view, {}, Weights(case / "checkpoint"))
        target = json.loads((case / "case.json").read_text(encoding="utf-8"))["median_target_sum"]
        assert session.attributes["target_sum"] == target
        symbols = pd.read_csv(case / "checkpoint" / VOCABULARY, sep="\t")["gene_name"].tolist()
        for row, want in zip(counts, expected["input_values"], strict=True):
            read = session.tokens(row, S0)
            dense = np.zeros(len(symbols), np.float32)
            dense[[symbols.index(view.var["symbol"][column]) for column in read.columns]] = read.values
            np.testing.assert_array_equal(dense > 0, want[:-2] > 0)
            np.testing.assert_allclose(dense, want[:-2], rtol=1e-6)
        in_order = pd.Series(counts[0], index=view.var["symbol"]).reindex(symbols).fillna(0.0)
        places, values = tokenise(in_order.to_numpy(np.float64), target)
        np.testing.assert_array_equal(places, expected["position_ids_sample0"])
        np.testing.assert_allclose(values, expected["token_values_sample0"], rtol=1e-6)
        network, _ = load(case / "checkpoint", "cell", len(symbols))
        with torch.inference_mode():
            token_ids, token_values = torch.from_numpy(places), torch.from_numpy(values)
            entry = network.value(token_values) + network.place(token_ids)
            parts = {
                "encoder_input_sample0": entry,
                "block0_sample0": network.blocks[0](entry),
                "final_sample0": network(token_ids, token_values),
            }
        for name, part in parts.items():
            np.testing.assert_allclose(part.numpy(), expected[name], rtol=0, atol=2e-5, err_msg=name)


# Tokens.


def test_tokens_by_hand() -> None:
    counts = np.array([0.0, 30.0, 0.0, 10.0])
    places, values = tokenise(counts, 80.0)  # doubled: 60 and 20
    logs = np.log([61.0, 21.0])
    assert places.tolist() == [1, 3, 4, 5]
    np.testing.assert_allclose(values, [*logs, np.log10(logs.sum()), np.log10(logs.sum())], rtol=1e-6)
    places, values = tokenise(counts, None)
    assert places.tolist() == [1, 3, 4, 5]
    np.testing.assert_allclose(values, [np.log(7501.0), np.log(2501.0), 4.0, np.log10(40.0)], rtol=1e-6)


def test_of_a_symbol_that_stands_twice_the_first_column_counts(folder: Path) -> None:
    twice = pd.concat([GENES, GENES.iloc[[5, 9]]], ignore_index=True)
    counts = np.concatenate([COUNTS, COUNTS[:, [9, 5]] + 7], axis=1)
    session = started(folder, twice, counts)
    assert session.tokens(counts[0], S0).columns.max() < len(GENES)
    np.testing.assert_array_equal(embedded(folder, twice, counts), embedded(folder))


def test_the_library_is_what_the_model_knows(folder: Path) -> None:
    """Counts in unknown genes change nothing, and neither do symbols in another case."""
    more = pd.concat([GENES, pd.DataFrame({"symbol": [GENES.symbol[0].lower() + "x"], "length": [900.0]})])
    counts = np.concatenate([COUNTS, np.full((4, 1), 1e6, np.float32)], axis=1)
    assert started(folder, more, counts).attributes["target_sum"] == np.median(COUNTS.sum(axis=1))


def test_the_target_is_the_median_of_the_primary_tumours(folder: Path) -> None:
    view = made_view(GENES, COUNTS)
    view.obs["for_probing"] = [True, False, True, False]
    session = ENCODER.start(view, {}, Weights(folder))
    sizes = COUNTS.sum(axis=1, dtype=np.float64)
    assert session.attributes["target_sum"] == (sizes[0] + sizes[2]) / 2
    assert session.attributes["target_sum_samples"] == 2
    given = ENCODER.start(view, {"target_sum": session.attributes["target_sum"]}, Weights(folder))
    np.testing.assert_array_equal(given.embed(COUNTS, view.obs), session.embed(COUNTS, view.obs))
    assert given.attributes["target_sum_from"] == "option"


def test_samples_without_counts_stay_out_of_the_median(folder: Path) -> None:
    empty = COUNTS.copy()
    empty[1] = 0
    assert started(folder, counts=empty).attributes["target_sum"] == np.median(COUNTS[[0, 2, 3]].sum(axis=1))
    with pytest.raises(UserError, match="no median library size; give --set target_sum=NUMBER"):
        started(folder, counts=np.zeros_like(COUNTS))


def test_an_empty_sample_is_refused_by_name(folder: Path) -> None:
    empty = COUNTS.copy()
    empty[2] = 0
    with pytest.raises(UserError, match=r"^sample S2: none of the genes that scfoundation knows is expressed"):
        embedded(folder, counts=empty)


@pytest.mark.parametrize("option", [{"route": "singlecell"}, {"target_sum": 1.0}])
def test_a_sample_too_shallow_for_the_depth_tokens_is_refused(folder: Path, option: dict[str, Any]) -> None:
    shallow = np.zeros((1, len(GENES)), np.float32)
    shallow[0, 7] = 1
    with pytest.raises(UserError, match=r"sample S0: with 1 counts .* its token of depth is not positive"):
        embedded(folder, counts=shallow, **option)


def test_one_expressed_gene_is_enough(folder: Path) -> None:
    lone = np.zeros((1, len(GENES)), np.float32)
    lone[0, 7] = 1000
    found = embedded(folder, counts=lone)[0].reshape(4, -1)
    np.testing.assert_allclose(found[2], found[3], rtol=1e-6)  # the maximum and the mean of one gene


# Pooling and options.


def test_poolings_are_parts_of_the_published_one(folder: Path) -> None:
    published = embedded(folder).reshape(4, 4, -1)
    np.testing.assert_array_equal(published[:, 3], embedded(folder, pooling="mean"))
    np.testing.assert_array_equal(published[:, :3].max(axis=1), embedded(folder, pooling="max"))
    assert embedded(folder, pooling="median").shape == (4, SIZES["width"])


def test_the_sub_models_and_routes_differ(folder: Path) -> None:
    kinds = [{}, {"key": "rde"}, {"key": "gene"}, {"route": "singlecell"}]
    found = [embedded(folder, **kind) for kind in kinds]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"target_sum": 0}, "target_sum is 0, expected cohort_median or a number above 0"),
        ({"target_sum": True}, "target_sum is True"),
        ({"target_sum": "median"}, "target_sum is 'median'"),
        ({"target_sum": float("nan")}, "target_sum is nan"),
        ({"route": "singlecell", "target_sum": 5}, "route=singlecell scales to 10,000 counts"),
        ({"route": "cell"}, "route is 'cell', expected one of bulk, singlecell"),
        ({"key": "decoder"}, "key is 'decoder', expected one of cell, rde, gene"),
        ({"pooling": "cls"}, "pooling is 'cls', expected one of published, mean, max, median"),
        ({"positions": "all"}, "has no option positions"),
        ({"min_coverage": 1.1}, "min_coverage is 1.1, expected a share between 0 and 1"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(folder: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        started(folder, **option)


def test_scales_other_than_counts_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="cannot read expression on the scale 'tpm': it needs counts"):
        ENCODER.start(made_view(GENES, COUNTS, "tpm"), {}, Weights(folder))


# Checkpoints.


def changed(folder: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a checkpoint with its `cell` sub-model changed."""
    content = torch.load(folder / CHECKPOINT, weights_only=True)
    change(content["cell"])
    torch.save(content, target / CHECKPOINT)
    (target / VOCABULARY).write_bytes((folder / VOCABULARY).read_bytes())
    return target


LAYER = "model.encoder.transformer_encoder.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["state_dict"].pop(f"{LAYER}.linear1.bias"), r"missing: blocks\.1\.up\.bias"),
        (lambda m: m["state_dict"].update({"model.stranger": torch.ones(1)}), r"does not have: model\.stranger"),
        (
            lambda m: m["state_dict"].update({"model.pos_emb.weight": torch.ones(9, 8)}),
            r"place\.weight is \(9, 8\), expected \(19267, 8\)",
        ),
        (lambda m: m.pop("state_dict"), "has no 'state_dict'"),
        (lambda m: m["state_dict"].update({"model.norm.bias": 3}), "no table of tensors"),
        (lambda m: m.pop("config"), "configuration of 'cell' has no 'config'"),
        (lambda m: m["config"]["dataset_config"].pop("rnaseq"), "configuration of 'cell' has no 'rnaseq'"),
        (lambda m: m["config"]["dataset_config"]["rnaseq"].update(bin_num=6), r"of another shape: .*\(5,\)"),
        (
            lambda m: m["config"]["model_config"]["mae_autobin"]["encoder"].update(depth=1),
            r"not expected: blocks\.1\.down\.bias",
        ),
        (
            lambda m: m["config"]["model_config"]["mae_autobin"]["encoder"].update(heads=3),
            "width 8, depth 2, 3 heads and 5 bins",
        ),
        (
            lambda m: m["config"]["model_config"]["mae_autobin"]["encoder"].update(heads="2"),
            r"has sizes \(8, 2, '2', 5\)",
        ),
        (
            lambda m: m["config"]["model_config"]["mae_autobin"]["encoder"].update(module_type="performer"),
            "'cell' is a mae_autobin with a performer, expected",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        started(changed(folder, tmp_path, change))


def test_settings_of_the_data_override_those_of_the_model(folder: Path, tmp_path: Path) -> None:
    made = changed(folder, tmp_path, lambda m: m["config"]["dataset_config"]["rnaseq"].update(bin_alpha=0.0))
    assert load(made, "cell", N_GENES)[1] == Config(8, 2, 2, 5, 0.0)
    assert np.abs(embedded(made) - embedded(folder)).max() > 1e-3


def test_a_key_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / CHECKPOINT, weights_only=True)
    torch.save({"cell": content["cell"]}, tmp_path / CHECKPOINT)
    (tmp_path / VOCABULARY).write_bytes((folder / VOCABULARY).read_bytes())
    assert started(tmp_path).width == 32
    with pytest.raises(UserError, match="configuration of 'rde' has no 'rde'"):
        started(tmp_path, key="rde")


class Hostile:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_run(folder: Path, tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "ran"
    if zipped:
        torch.save({"cell": Hostile(mark)}, tmp_path / CHECKPOINT)
    else:
        (tmp_path / CHECKPOINT).write_bytes(pickle.dumps({"cell": Hostile(mark)}))
    (tmp_path / VOCABULARY).write_bytes((folder / VOCABULARY).read_bytes())
    with pytest.raises(UserError, match="is not a checkpoint that may be read"):
        started(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("symbol\tindex\nTP53\t0\n", "is not the gene list as released: expected gene_name and index"),
        ("gene_name\tindex\nTP53\t1\n", "counting from 0"),
        ("gene_name\tindex\nTP53\t0\nTP53\t1\n", "has repeated genes: TP53"),
        ("", "is not the gene list as released"),
        (None, "is missing: a checkpoint folder must hold the files"),
    ],
)
def test_a_gene_list_that_is_not_as_released_is_refused(
    folder: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    (tmp_path / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes())
    if text is not None:
        (tmp_path / VOCABULARY).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        started(tmp_path)


def test_gene_vectors_are_what_the_encoder_adds(folder: Path) -> None:
    symbols, vectors = gene_vectors(folder)
    table = torch.load(folder / CHECKPOINT, weights_only=True)["cell"]["state_dict"]["model.pos_emb.weight"]
    assert symbols[: len(GENES)] == GENES.symbol.tolist()
    np.testing.assert_array_equal(vectors, table[:N_GENES].numpy())


# The stand-in.


def test_a_stand_in_depends_on_its_seed_alone(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 3), ("other", 4)):
        write(tmp_path / name, GENES, seed, **SIZES)
    for file in (CHECKPOINT, VOCABULARY):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    assert (tmp_path / "other" / CHECKPOINT).read_bytes() != (folder / CHECKPOINT).read_bytes()
    assert len((folder / VOCABULARY).read_text(encoding="utf-8").splitlines()) == N_GENES + 1


def test_a_twin_keeps_sizes_and_genes_and_draws_every_tensor_again(folder: Path, tmp_path: Path) -> None:
    def keep_extra(model: dict[str, Any]) -> None:
        model["state_dict"]["model.decoder.performer.calls_since_last_redraw"] = torch.tensor(17)
        model["optimizer"] = {}

    released = changed(folder, tmp_path, keep_extra)
    twin(released, tmp_path / "twin", 5)
    assert (tmp_path / "twin" / VOCABULARY).read_bytes() == (folder / VOCABULARY).read_bytes()
    old, new = (torch.load(path / CHECKPOINT, weights_only=True) for path in (released, tmp_path / "twin"))
    assert new["cell"]["config"] == old["cell"]["config"]
    for key, model in new.items():
        assert list(model["state_dict"]) == list(old[key]["state_dict"])
        for name, value in model["state_dict"].items():
            before = old[key]["state_dict"][name]
            assert (value.shape, value.dtype) == (before.shape, before.dtype)
            assert torch.equal(value, before) == name.endswith("calls_since_last_redraw"), name
    assert np.abs(embedded(tmp_path / "twin") - embedded(released)).max() > 1e-2
    torch.save({}, released / CHECKPOINT)
    with pytest.raises(UserError, match=re.escape(f"{CHECKPOINT} has no 'cell'")):
        twin(released, tmp_path / "third", 5)


def test_samples_of_a_stand_in_differ(tmp_path: Path) -> None:
    write(tmp_path, GENES, 3)
    assert embedded(tmp_path).std(axis=0).mean() > 0.02


# The card.


def test_the_estimate_of_work_follows_the_card() -> None:
    assert CARD.flop is not None
    assert CARD.flop(14_998) == pytest.approx(10.8e12, rel=0.01)
    assert CARD.memory is not None
    assert CARD.memory(12_000) == pytest.approx(2.95e8, rel=0.01)
    assert CARD.releases[0].width == 4 * Config().width


def test_the_parameters_of_an_embedding_are_those_on_the_card() -> None:
    with torch.device("meta"):
        used = parameters_of(Network(Config(), 19_264))
    left_out = 2 * 768  # the vectors of masked and padded values stand beside the embedding's
    assert f"{used + left_out:,} of the parameters" in CARD.releases[0].note
