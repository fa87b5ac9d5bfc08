from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import made_counts, made_genes

from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.encoders.cellfm import CARD, ENCODER, gene_vectors, load
from bulkprobe.errors import Unfit, UserError
from bulkprobe.nn.mindspore import list_mindspore, read_mindspore, write_mindspore
from bulkprobe.nn.samples import Sample, Samples
from bulkprobe.untrained.cellfm import WEIGHTS, twin, write

GENES = made_genes(300, 3)
COUNTS = made_counts(4, 300, 4)
GOLDEN = Path("golden/cellfm/public")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cellfm")
    write(made, GENES, 7)
    return made


def view(table: pd.DataFrame = GENES, n_samples: int = 4, scale: str = "counts") -> CohortView:
    return CohortView(table, pd.DataFrame({"sample_id": [f"S{i}" for i in range(n_samples)]}), scale)


def start(folder: Path, table: pd.DataFrame = GENES, **options: Any) -> Samples:
    return ENCODER.start(view(table), options, Weights(folder, threads=1))


def vectors(folder: Path, table: pd.DataFrame = GENES, counts: np.ndarray = COUNTS, **options: Any) -> np.ndarray:
    return start(folder, table, **options).embed(counts, view(table, len(counts)).obs)


def copy(folder: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> Path:
    """The checkpoint with other tensors."""
    (to / "csv").mkdir(parents=True)
    for path in (folder / "csv").iterdir():
        (to / "csv" / path.name).write_bytes(path.read_bytes())
    source = folder / WEIGHTS
    write_mindspore(to / WEIGHTS, change(read_mindspore(source, list_mindspore(source))).items())
    return to


# Upstream's numbers


@pytest.fixture
def golden(shared: Path) -> tuple[CohortView, np.ndarray, dict[str, np.ndarray], Weights, dict[str, Any]]:
    case = shared / GOLDEN
    genes = pd.read_csv(case / "genes.tsv", sep="\t", keep_default_na=False)
    counts = np.load(case / "counts.npz")["counts"].astype(np.float32)
    expected = dict(np.load(case / "expected.npz", allow_pickle=True))
    config = json.loads((case / "case.json").read_text())
    options = {
        "draw_by": "position",
        "draw_seed": config["sampling_seed"],
        "max_genes": config["config"]["max_genes"],
    }
    return view(genes, len(counts)), counts, expected, Weights(case / "checkpoint", threads=1), options


@pytest.mark.shared
@pytest.mark.parametrize(("pooling", "key"), [("published", "embedding"), ("mean", "embedding_gene_mean")])
def test_embeddings_are_upstreams(golden: Any, pooling: str, key: str) -> None:
    view, counts, expected, weights, options = golden
    session = ENCODER.start(view, {**options, "pooling": pooling}, weights)
    # Scale 3.4; the case states 1e-4, this is what float32 in another order of adding gives.
    np.testing.assert_allclose(session.embed(counts, view.obs), expected[key], rtol=0, atol=1e-5)


@pytest.mark.shared
def test_tokens_are_upstreams(golden: Any) -> None:
    view, counts, expected, weights, options = golden
    session = ENCODER.start(view, options, weights)
    _, _, vocabulary = load(weights.folder)
    names = expected["var_names_after_mapping"].astype(str)
    for row, sample in enumerate(view.obs.sample_id):
        tokens = session.tokens(counts[row], Sample(sample, row))
        n = expected["n_tokens"][row]
        assert [vocabulary[names[column]] for column in tokens.columns] == expected["token_ids"][row][:n].tolist()
        np.testing.assert_array_equal(tokens.values, expected["values"][row][:n])
    assert session.attributes["genes_renamed"] == 40


@pytest.mark.shared
def test_layers_are_upstreams(golden: Any) -> None:
    _, _, expected, weights, _ = golden
    network, genes, _ = load(weights.folder)
    n = expected["n_tokens"][0]
    ids, values = (torch.from_numpy(expected[key][0][:n]) for key in ("token_ids", "values"))
    by_gene, by_value = network.tables(genes, torch.arange(len(genes)), 1)
    with torch.inference_mode():
        embedded = network.value.table(network.value(values[:64]))
        np.testing.assert_allclose(embedded, expected["sample0_value_embedding"], rtol=0, atol=1e-4)  # scale 20
        final = network(by_gene, by_value, ids.long(), values, False)
        np.testing.assert_allclose(final[:256], expected["sample0_final_hidden"], rtol=0, atol=1e-5)
        cls = network(by_gene, by_value, ids.long(), values, True)
        np.testing.assert_allclose(cls, final[:1], rtol=0, atol=1e-5)
        x = torch.cat([network.cls_token[0], genes[ids.long()] + network.value.table(network.value(values))])
        np.testing.assert_allclose(x[:128], expected["sample0_layer0_input"], rtol=0, atol=1e-4)
        layer = network.stack()[0]
        done = layer(x, layer.kvqu(x))
        np.testing.assert_allclose(done[:128], expected["sample0_layer0_output"], rtol=0, atol=1e-5)


# What is read of a sample


def test_counts_are_capped_rounded_half_to_even_and_logged(folder: Path) -> None:
    counts = np.zeros((1, 300), np.float32)
    counts[0, :5] = [1, 3, 5, 199_982, 9]  # 200,000: halved
    tokens = start(folder).tokens(counts[0], Sample("S0", 0))
    halves = {1: 2, 2: 2, 3: 99_991, 4: 4}  # 0.5 → 0, 1.5 → 2, 2.5 → 2, 4.5 → 4
    assert set(tokens.columns) == set(halves)
    total = sum(halves.values())
    for column, value in zip(tokens.columns, tokens.values, strict=True):
        assert value == pytest.approx(np.log1p(halves[column] / total * 1e4), rel=1e-6)


def test_the_cap_counts_genes_that_the_model_does_not_know(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, GENES.head(299), 7)
    counts = np.full((1, 300), 100, np.float32)
    counts[0, 299] = 20_000_000  # half a count is left of the others, which goes to the even 0
    with pytest.raises(
        UserError,
        match="sample S0: of the 299 genes that the model knows none has counts left after the cap of 100,000",
    ):
        vectors(tmp_path, counts=counts)
    assert np.isfinite(vectors(folder, counts=counts)).all()


def test_few_counts_are_not_scaled(folder: Path) -> None:
    counts = np.zeros((1, 300), np.float32)
    counts[0, [7, 9]] = [1, 3]
    tokens = start(folder).tokens(counts[0], Sample("S0", 0))
    np.testing.assert_allclose(sorted(tokens.values), np.log1p([2500, 7500]), rtol=1e-6)


def test_tokens_stand_in_the_order_of_symbols(folder: Path) -> None:
    tokens = start(folder).tokens(COUNTS[0], Sample("S0", 0))
    symbols = GENES.symbol.to_numpy()[tokens.columns]
    assert symbols.tolist() == sorted(symbols)


def test_old_symbols_and_bare_ensembl_ids_find_their_gene(folder: Path) -> None:
    old = GENES.copy()
    old.loc[0, "symbol"] = f"{GENES.symbol[0]}-before"
    old.loc[1, "symbol"] = f"{GENES.symbol[1]}-other"
    old.loc[2, "symbol"] = ""
    old.loc[3, "symbol"] = GENES.ensembl_id[3]
    session = start(folder, old)
    np.testing.assert_array_equal(session.embed(COUNTS, view(old).obs), vectors(folder))
    assert session.attributes["genes_renamed"] == 4
    assert session.attributes["genes_matched"] == 300
    assert session.known.tolist() == list(range(300))


def test_of_a_symbol_that_stands_twice_the_first_column_counts(folder: Path) -> None:
    twice = pd.concat([GENES, GENES.head(5)], ignore_index=True)
    counts = np.concatenate([COUNTS, np.zeros((4, 5), np.float32)], axis=1)
    np.testing.assert_array_equal(vectors(folder, twice, counts), vectors(folder))


# Drawing genes


def test_top_takes_the_highest_and_ties_by_symbol(folder: Path) -> None:
    counts = np.ones((1, 300), np.float32)
    counts[0, 100:140] = 5
    session = start(folder, genes="top", max_genes=50)
    columns = set(session.tokens(counts[0], Sample("S0", 0)).columns)
    rest = sorted((symbol, column) for column, symbol in enumerate(GENES.symbol) if not 100 <= column < 140)
    assert columns == {*range(100, 140), *(column for _, column in rest[:10])}


def test_all_reads_all_and_below_the_limit_nothing_is_drawn(folder: Path) -> None:
    everything = vectors(folder, genes="all", max_genes=10)
    for kind in ("sample", "top"):
        np.testing.assert_array_equal(vectors(folder, genes=kind, draw_seed=1), everything)


def test_a_draw_belongs_to_the_sample_or_to_the_row(folder: Path) -> None:
    session = start(folder, max_genes=60)
    here = session.tokens(COUNTS[0], Sample("A", 0)).columns
    assert len(here) == 60
    np.testing.assert_array_equal(here, session.tokens(COUNTS[0], Sample("A", 3)).columns)
    assert set(here) != set(session.tokens(COUNTS[0], Sample("B", 0)).columns)
    other = start(folder, max_genes=60, draw_seed=1)
    assert set(here) != set(other.tokens(COUNTS[0], Sample("A", 0)).columns)
    by_row = start(folder, max_genes=60, draw_by="position")
    np.testing.assert_array_equal(
        by_row.tokens(COUNTS[0], Sample("A", 1)).columns, by_row.tokens(COUNTS[0], Sample("B", 1)).columns
    )
    shifted = start(folder, max_genes=60, draw_by="position", draw_seed=1)
    np.testing.assert_array_equal(
        by_row.tokens(COUNTS[0], Sample("A", 1)).columns, shifted.tokens(COUNTS[0], Sample("A", 0)).columns
    )


@pytest.mark.parametrize("draw_by", ["sample_id", "position"])
def test_several_draws_are_averaged_and_the_first_is_the_single_one(folder: Path, draw_by: str) -> None:
    one, two, many = (vectors(folder, max_genes=60, draw_by=draw_by, draws=n)[0].astype(np.float64) for n in (1, 2, 40))
    second = 2 * two - one
    assert np.abs(second - one).max() > 1e-3
    rest = (40 * many - one - second) / 38
    assert np.linalg.norm(rest - many) < np.linalg.norm(one - many)


def test_genes_that_a_cohort_measures_besides_do_not_move_a_draw(folder: Path) -> None:
    """Unexpressed ones, of which the model knows some: the numbers that decide belong to genes."""
    some = COUNTS.copy()
    some[:, 200:] = 0
    whole = vectors(folder, counts=some, max_genes=60, draws=2)
    part = vectors(folder, GENES.head(200), some[:, :200], max_genes=60, draws=2)
    np.testing.assert_allclose(part, whole, rtol=0, atol=1e-6)


# Options and input that do not fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "concat"}, "option pooling is 'concat', expected one of published, cls, mean, max, median"),
        ({"genes": "most"}, "option genes is 'most', expected one of sample, top, all"),
        ({"positions": "all"}, "has no option positions"),
        ({"max_genes": 0}, "option max_genes is 0, expected a whole number of at least 1"),
        ({"draws": 1.5}, "option draws is 1.5, expected a whole number of at least 1"),
        ({"draw_seed": -1}, "option draw_seed is -1, expected a whole number of at least 0"),
        ({"draw_seed": 2**33}, "option draw_seed is 8589934592, expected at most 2147483648"),
        ({"min_coverage": "half"}, "option min_coverage is 'half', expected a share between 0 and 1"),
        ({"heads": 5}, "5 heads do not divide a width of 48; set heads to one that does"),
        ({"heads": "many"}, "'many' heads do not divide a width of 48"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(folder, **options)


def test_the_number_of_heads_can_be_given(folder: Path) -> None:
    assert np.abs(vectors(folder, heads=6) - vectors(folder)).max() == 0
    assert np.abs(vectors(folder, heads=4) - vectors(folder)).max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "median"])
def test_every_pooling_gives_a_vector_a_sample(folder: Path, pooling: str) -> None:
    found = vectors(folder, pooling=pooling)
    assert found.shape == (4, 48)
    assert (np.abs(found - vectors(folder)).max() == 0) == (pooling == "cls")


def test_input_that_cannot_be_read_is_unfit(folder: Path) -> None:
    with pytest.raises(Unfit, match="encoder cellfm cannot read expression on the scale 'tpm': it needs counts"):
        ENCODER.start(view(scale="tpm"), {}, Weights(folder))
    strange = GENES.assign(symbol=[f"AT{i}G" for i in range(300)])
    with pytest.raises(Unfit, match="encoder cellfm knows 0 of 300 genes"):
        start(folder, strange)
    with pytest.raises(UserError, match="encoder cellfm needs weights"):
        ENCODER.start(view(), {})


def test_a_sample_without_counts_is_named(folder: Path) -> None:
    counts = COUNTS.copy()
    counts[2] = 0
    with pytest.raises(UserError, match="sample S2: of the 300 genes that the model knows none has counts left"):
        vectors(folder, counts=counts)


# The checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if "0.ffn.u" not in k}, r"missing: layers.0.gate.weight; not expected"),
        (lambda t: {k: v for k, v in t.items() if k != "cls_token"}, "missing: cls_token"),
        (lambda t: {k: v for k, v in t.items() if k != "gene_emb"}, r"has no table gene_emb \(rows, width\)"),
        (lambda t: {k: v for k, v in t.items() if not k.startswith("encoder.0")}, "has layers 1 of"),
        (lambda t: {k: v for k, v in t.items() if not k.startswith("encoder.")}, "has layers none of"),
        (lambda t: {**t, "encoder.0.attn.g_proj.weight": torch.ones(2, 2)}, "tensors that this model does not have"),
        (lambda t: {**t, "cls_token": torch.ones(1, 1, 40)}, r"cls_token is \(1, 1, 40\), expected \(1, 1, 48\)"),
        (lambda t: {**t, "gene_emb": torch.ones(320, 48)}, r"no list of genes for an embedding of 320 rows \(expand"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    broken = copy(folder, tmp_path / "broken", change)
    with pytest.raises(UserError, match=message):
        start(broken)


def test_training_state_of_any_name_is_passed_over(folder: Path, tmp_path: Path) -> None:
    more = {"loss_scale": torch.tensor(1024.0), "epoch_num": torch.tensor([3]), "moment1.gene_emb": torch.ones(304, 48)}
    other = copy(folder, tmp_path / "more", lambda tensors: {**tensors, **more})
    np.testing.assert_array_equal(vectors(other), vectors(folder))


def test_half_precision_weights_are_read(folder: Path, tmp_path: Path) -> None:
    half = copy(
        folder, tmp_path / "half", lambda t: {k: v.half() if v.is_floating_point() else v for k, v in t.items()}
    )
    np.testing.assert_allclose(vectors(half), vectors(folder), rtol=0, atol=0.02)


def test_files_that_are_missing_or_damaged_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has none of CellFM_80M_weight.ckpt, base_weight.ckpt"):
        start(tmp_path)
    other = copy(folder, tmp_path / "other", lambda tensors: tensors)
    (other / "csv/updated_hgcn.tsv").unlink()
    with pytest.raises(UserError, match=r"updated_hgcn.tsv is missing"):
        start(other)
    (other / "csv/expand_gene_info.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"expand_gene_info.csv is no list of genes"):
        start(other)
    (other / "csv/expand_gene_info.csv").unlink()
    with pytest.raises(UserError, match=r"no list of genes for an embedding of 304 rows \(none at all\)"):
        start(other)
    (other / WEIGHTS).write_bytes(b"\x80\x02cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="is no whole MindSpore checkpoint"):
        start(other)


def test_the_vocabulary_is_the_one_that_fits_the_embedding(folder: Path, tmp_path: Path) -> None:
    other = copy(folder, tmp_path / "other", lambda tensors: tensors)
    (other / WEIGHTS).rename(other / "base_weight.ckpt")
    (other / "csv/expand_gene_info.csv").rename(other / "csv/gene_info.csv")
    (other / "csv/expand_gene_info.csv").write_text("HGNC_gene\nA\nB\n")
    np.testing.assert_array_equal(vectors(other), vectors(folder))


def test_gene_vectors_are_rows_of_the_embedding(folder: Path) -> None:
    names, found = gene_vectors(folder)
    source = folder / WEIGHTS
    table = read_mindspore(source, {"it": list_mindspore(source)["gene_emb"]})["it"].numpy()
    assert names == GENES.symbol.tolist()
    np.testing.assert_array_equal(found, table[1:301])  # row 0 is padding


# Without anything learned


def test_equal_seeds_write_equal_bytes(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "same", GENES, 7)
    write(tmp_path / "other", GENES, 8)
    for name in (WEIGHTS, "csv/expand_gene_info.csv", "csv/updated_hgcn.tsv"):
        content = (folder / name).read_bytes()
        assert (tmp_path / "same" / name).read_bytes() == content
        assert ((tmp_path / "other" / name).read_bytes() == content) == (name != WEIGHTS)


def test_samples_differ_without_training(folder: Path) -> None:
    found = vectors(folder)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)[np.triu_indices(4, 1)]
    assert distances.min() > 0.1 * np.linalg.norm(found, axis=1).mean()


def test_heads_that_do_not_divide_the_width_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 heads do not divide a width of 48"):
        write(tmp_path, GENES, 1, heads=5)
    write(tmp_path, GENES, 1, heads=4)  # in no file: the same bytes


@pytest.mark.parametrize("sizes", [{"width": 16, "depth": 1}, {"width": 64, "depth": 5}])
def test_sizes_are_read_from_the_checkpoint(tmp_path: Path, sizes: dict[str, int]) -> None:
    write(tmp_path, GENES, 1, **sizes)
    session = start(tmp_path)
    assert session.attributes["depth"] == sizes["depth"]
    assert session.embed(COUNTS, view().obs).shape == (4, sizes["width"])
    whole = start(tmp_path, pooling="mean").embed(COUNTS, view().obs)
    assert np.isfinite(whole).all()


def test_a_twin_has_the_sizes_and_the_vocabulary_and_nothing_learned(folder: Path, tmp_path: Path) -> None:
    twin(folder, tmp_path, 1)
    before, after = list_mindspore(folder / WEIGHTS), list_mindspore(tmp_path / WEIGHTS)
    shapes = {name: entry.shape for name, entry in before.items() if not name.startswith("moment")}
    assert {name: entry.shape for name, entry in after.items()} == shapes
    assert gene_vectors(tmp_path)[0] == gene_vectors(folder)[0]
    assert not np.isclose(gene_vectors(tmp_path)[1], gene_vectors(folder)[1]).all()
    assert np.abs(vectors(tmp_path) - vectors(folder)).max() > 0.1


def test_the_card_says_what_a_release_needs() -> None:
    for release in CARD.releases:
        assert [Path(file.path).suffix for file in release.files] == [".ckpt", ".csv", ".tsv"]
        assert all(file.sha256 and file.urls for file in release.files)
    assert CARD.flop is not None
    assert CARD.memory is not None
    assert CARD.flop(10_000) == CARD.flop(2048) > CARD.flop(500) > 0
    assert CARD.memory(500) > 0
    assert not CARD.redistribute
