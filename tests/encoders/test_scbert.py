"""scBERT: equal to upstream on the golden case, and what it refuses."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.encoders.scbert import (
    CARD,
    ENCODER,
    Config,
    ScBert,
    gene_vectors,
    read_genes,
    read_model,
    tokenise,
)
from bulkprobe.errors import Unfit, UserError
from bulkprobe.nn.samples import Sample, Samples
from bulkprobe.preprocess.vocabulary import align
from bulkprobe.untrained.scbert import twin, write
from encoders.made import made_counts, made_genes, made_view

GENES = made_genes(300, 1)
COUNTS = made_counts(3, 300, 2)
LAYER0 = "performer.net.layers.0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scbert")
    write(made, GENES, 3, depth=2)
    return made


def start(folder: Path, genes: pd.DataFrame = GENES, counts: np.ndarray = COUNTS, **options: Any) -> Samples:
    return ENCODER.start(made_view(genes, counts), options, Weights(folder, threads=1))


def embed(folder: Path, genes: pd.DataFrame = GENES, counts: np.ndarray = COUNTS, **options: Any) -> np.ndarray:
    return start(folder, genes, counts, **options).embed(counts, made_view(genes, counts).obs)


# ---- upstream's numbers

SETTINGS = [
    ({}, "embedding_mean_measured_genes"),
    ({"pooling": "mean", "positions": "all"}, "embedding"),
    ({"positions": "expressed"}, "embedding_mean_nonzero_tokens"),
    ({"pooling": "last"}, "embedding_last_token"),
]


def golden_case(shared: Path) -> tuple[Path, CohortView, np.ndarray, Any, dict[str, Any]]:
    case = shared / "golden/scbert/public"
    genes = pd.read_csv(case / "genes.tsv", sep="\t")
    counts = np.load(case / "counts.npz")["counts"].astype(np.float32)
    facts = json.loads((case / "case.json").read_text())
    return case / "checkpoint", made_view(genes, counts), counts, np.load(case / "expected.npz"), facts


@pytest.mark.shared
@pytest.mark.parametrize(("options", "key"), SETTINGS)
def test_golden_embeddings(shared: Path, options: dict[str, str], key: str) -> None:
    checkpoint, view, counts, expected, _ = golden_case(shared)
    session = ENCODER.start(view, options, Weights(checkpoint, threads=1))
    found = session.embed(counts[:3], view.obs[:3])
    np.testing.assert_allclose(found, expected[key][:3], rtol=0, atol=2e-5 if key.endswith("token") else 5e-6)


@pytest.mark.shared
def test_golden_tokens(shared: Path) -> None:
    checkpoint, view, counts, expected, facts = golden_case(shared)
    symbols = read_genes(checkpoint)
    genes = align(view.var.symbol.tolist(), {symbol: place for place, symbol in enumerate(symbols)}, "first")
    assert genes.n_measured == facts["n_vocab_genes_measured"]
    found = np.stack([tokenise(row, genes, 5) for row in counts])
    np.testing.assert_array_equal(found, expected["token_ids"])
    session = ENCODER.start(view, {}, Weights(checkpoint, threads=1))
    tokens = session.tokens(counts[0], Sample("S0", 0))
    np.testing.assert_array_equal(tokens.values, expected["token_ids"][0][genes.places])
    np.testing.assert_array_equal(tokens.columns, genes.columns)


@pytest.mark.shared
def test_golden_states(shared: Path) -> None:
    checkpoint, _, _, expected, facts = golden_case(shared)
    model, config = read_model(checkpoint)
    sizes = facts["architecture"]
    assert (config.width, config.depth, config.heads) == (sizes["dim"], sizes["depth"], sizes["heads"])
    bins, places = torch.from_numpy(expected["token_ids"][0].astype(np.int64)), expected["positions_sample0"]
    with torch.inference_mode():
        x = (model.bins(bins).double() + model.genes).float()
        np.testing.assert_allclose(x[places].numpy(), expected["input_embedding_sample0"], rtol=0, atol=1e-6)
        block = model.blocks[0](x.clone())
        np.testing.assert_allclose(block[places].numpy(), expected["block0_sample0"], rtol=0, atol=2e-5)
        final = model(bins, torch.from_numpy(places.astype(np.int64)))
    np.testing.assert_allclose(final.numpy(), expected["final_sample0"], rtol=0, atol=5e-5)


# ---- from counts to tokens


def tokens_of(counts: list[float], names: str = "ABCDEFGH") -> list[int]:
    genes = align(list(names), {name: place for place, name in enumerate("ABCDEFGH")}, "first")
    return tokenise(np.array(counts, np.float32), genes, 5).tolist()


def test_bins_begin_at_powers_of_two() -> None:
    # 10,000 counts in all, so that counts are what is binned: 1, 3, 7, 15 and 31 are edges.
    assert tokens_of([0, 1, 2, 3, 7, 15, 31, 9941]) == [0, 1, 1, 2, 3, 4, 5, 5, 0]
    assert tokens_of([0, 0.99, 2.99, 6.99, 14.99, 30.99, 9943.04, 0]) == [0, 0, 1, 2, 3, 4, 5, 0, 0]


def test_the_total_is_that_of_the_models_genes() -> None:
    known = [1.0, 9999, 0, 0, 0, 0, 0]
    assert tokens_of([*known, 1e6], "ABCDEFGz") == tokens_of([*known, 0], "ABCDEFGz") == [1, 5, 0, 0, 0, 0, 0, 0, 0]


def test_of_a_symbol_that_stands_twice_the_first_column_counts(folder: Path) -> None:
    twice = pd.concat([GENES, GENES.iloc[:50]], ignore_index=True)
    counts = np.concatenate([COUNTS, COUNTS[:, 50:100]], axis=1)
    np.testing.assert_array_equal(embed(folder, twice, counts), embed(folder))


def test_an_absent_gene_is_read_as_zero_but_not_pooled(folder: Path) -> None:
    zero = COUNTS.copy()
    zero[:, 200:] = 0
    fewer = GENES.iloc[:200].reset_index(drop=True)
    same = {"positions": "all"}
    np.testing.assert_array_equal(embed(folder, fewer, COUNTS[:, :200], **same), embed(folder, GENES, zero, **same))
    assert np.abs(embed(folder, fewer, COUNTS[:, :200]) - embed(folder, GENES, zero)).max() > 1e-3
    assert start(folder, fewer, COUNTS[:, :200]).attributes["genes_matched"] == 200


def test_a_symbol_is_matched_as_it_stands(folder: Path) -> None:
    genes = GENES.assign(symbol=[s.lower() if i < 30 else s for i, s in enumerate(GENES.symbol)])
    unlike = sum(a != b for a, b in zip(genes.symbol, GENES.symbol, strict=True))
    assert unlike
    assert start(folder, genes).attributes["genes_matched"] == 300 - unlike


def test_poolings_run_over_the_positions_that_are_asked_for(folder: Path) -> None:
    model, config = read_model(folder)
    genes = align(GENES.symbol.tolist(), {s: i for i, s in enumerate(read_genes(folder))}, "first")
    bins = torch.from_numpy(tokenise(COUNTS[0], genes, config.top_bin))
    with torch.inference_mode():
        states = model(bins, torch.arange(301)).numpy()
    expressed = states[np.flatnonzero(bins.numpy())]
    close = {"rtol": 0, "atol": 2e-6}
    np.testing.assert_allclose(embed(folder, positions="expressed")[0], expressed.mean(0), **close)
    np.testing.assert_allclose(embed(folder, pooling="max", positions="expressed")[0], expressed.max(0), **close)
    np.testing.assert_allclose(embed(folder, pooling="median")[0], np.median(states[:-1], axis=0), **close)
    np.testing.assert_allclose(embed(folder, pooling="last")[0], states[-1], **close)
    np.testing.assert_array_equal(embed(folder, pooling="mean"), embed(folder))


def test_tpm_are_read_where_they_are_asked_for(folder: Path) -> None:
    session = start(folder, input="tpm")
    assert session.layer == "tpm"
    assert session.attributes["values"] == "TPM"


def test_a_sample_without_a_known_gene_is_refused(folder: Path) -> None:
    counts = COUNTS.copy()
    counts[1] = 0
    with pytest.raises(UserError, match="sample S1: no gene that scBERT knows is expressed"):
        start(folder).embed(counts, made_view(GENES, COUNTS).obs)


def test_a_flat_sample_has_no_gene_in_a_bin_to_pool_over(tmp_path: Path) -> None:
    # 10,000 / 12,000 is below 1: every gene falls into bin 0.
    genes = pd.DataFrame({"ensembl_id": "", "symbol": [f"G{i}" for i in range(12_000)], "length": 1000.0})
    write(tmp_path, genes, 1, width=8, depth=1, heads=1, head_width=4)
    flat = np.ones((1, 12_000), np.float32)
    with pytest.raises(UserError, match="sample S0: no gene reaches bin 1"):
        embed(tmp_path, genes, flat, positions="expressed")
    assert np.isfinite(embed(tmp_path, genes, flat)).all()


# ---- options and input that do not fit


def test_options_that_do_not_exist_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"scbert has no option layer: its options are pooling, positions"):
        start(folder, layer=0)
    with pytest.raises(UserError, match=r"option pooling is 'cls', expected one of published, mean"):
        start(folder, pooling="cls")


def test_other_scales_and_gene_ids_are_refused(folder: Path) -> None:
    view = made_view(GENES, COUNTS, scale="log1p_tpm")
    with pytest.raises(Unfit, match="scbert cannot read expression on the scale 'log1p_tpm'"):
        ENCODER.start(view, {}, Weights(folder))
    with pytest.raises(Unfit, match="it reads gene symbols, the input begins with ENSG"):
        start(folder, GENES.assign(symbol=GENES.ensembl_id))
    with pytest.raises(UserError, match="scbert needs weights"):
        ENCODER.start(made_view(GENES, COUNTS), {})


# ---- checkpoints


def changed(folder: Path, into: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(folder, into, dirs_exist_ok=True)
    path = into / "panglao_pretrain.pth"
    content = torch.load(path, weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, path)
    return into


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.__delitem__(name)


def put(name: str, *shape: int) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.__setitem__(name, torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(f"{LAYER0}.1.norm.bias"), r"tensors missing: blocks\.0\.norm2\.bias"),
        (drop("performer.net.layers.1.0.fn.to_k.weight"), r"missing: blocks\.1\.qkv\.weight; not expected: blocks"),
        (drop("token_emb.weight"), r"sizes cannot be read from it \('bins.weight'\)"),
        (put("performer.net.layers.0.0.fn.to_q.bias", 24), r"not expected: blocks\.0\.q\.bias"),
        (put("cls", 3), "has tensors that this model does not have: cls"),
        (put("norm.weight", 7), r"of another shape: norm\.weight is \(7,\), expected \(32,\)"),
        (put(f"{LAYER0}.0.fn.to_q.weight", 47, 32), "queries of 47 that heads of 12 do not divide"),
        (put("performer.net.layers.3.1.norm.bias", 32), r"has layers 0, 1, 3 of 'blocks\.\{\}': expected 0, 1, 2"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        start(changed(folder, tmp_path, change))


def test_the_head_and_the_counter_are_left_out(folder: Path, tmp_path: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        state["to_out.weight"] += 1
        state["performer.calls_since_last_redraw"] += 5

    np.testing.assert_array_equal(embed(changed(folder, tmp_path, change)), embed(folder))


def test_stored_projections_count(folder: Path, tmp_path: Path) -> None:
    name = f"{LAYER0}.0.fn.fast_attention.projection_matrix"
    other = changed(folder, tmp_path, lambda state: state.__setitem__(name, state[name] * 1.5))
    assert np.abs(embed(other) - embed(folder)).max() > 1e-4


def test_other_layouts_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    torch.save({"state_dict": {}}, tmp_path / "panglao_pretrain.pth")
    with pytest.raises(UserError, match="has no 'model_state_dict', so it is not laid out as released"):
        start(tmp_path)
    (tmp_path / "panglao_pretrain.pth").unlink()
    with pytest.raises(UserError, match=r"has none of panglao_pretrain\.pth, \*\.pth"):
        start(tmp_path)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was_run"),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cannot_run_anything(
    folder: Path, tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "panglao_pretrain.pth"
    if zipped:
        torch.save({"model_state_dict": Harmful()}, path)
    else:
        path.write_bytes(pickle.dumps({"model_state_dict": Harmful()}))
    with pytest.raises(UserError, match="is not a checkpoint that may be read"):
        start(tmp_path)
    assert not (tmp_path / "was_run").exists()


# ---- the gene list


def with_gene_list(folder: Path, into: Path, fill: Callable[[h5py.File], None]) -> Path:
    shutil.copytree(folder, into, dirs_exist_ok=True)
    with h5py.File(into / "panglao_10000.h5ad", "w") as file:
        fill(file)
    return into


def test_a_gene_list_of_an_old_anndata_is_read(folder: Path, tmp_path: Path) -> None:
    symbols = read_genes(folder)
    table = np.array([(name.encode(), 1) for name in symbols], dtype=[("index", "S20"), ("n_cells", "i4")])
    old = with_gene_list(folder, tmp_path, lambda file: file.__setitem__("var", table))
    assert read_genes(old) == symbols
    np.testing.assert_array_equal(embed(old), embed(folder))


def test_a_gene_list_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    def named(names: list[str]) -> Callable[[h5py.File], None]:
        def fill(file: h5py.File) -> None:
            file["var/index"] = names
            file["var"].attrs["_index"] = "index"

        return fill

    symbols = read_genes(folder)
    with pytest.raises(UserError, match="the gene list has 299 symbols and the checkpoint vectors for 300"):
        start(with_gene_list(folder, tmp_path / "short", named(symbols[:-1])))
    with pytest.raises(UserError, match=f"names genes twice: {symbols[0]}; the release has 16,906"):
        start(with_gene_list(folder, tmp_path / "twice", named([*symbols[:-1], symbols[0]])))
    with pytest.raises(UserError, match=r"is no \.h5ad file with the model's genes"):
        start(with_gene_list(folder, tmp_path / "none", lambda file: None))
    (tmp_path / "none" / "panglao_10000.h5ad").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match=r"is no \.h5ad file with the model's genes"):
        start(tmp_path / "none")
    (tmp_path / "none" / "panglao_10000.h5ad").unlink()
    with pytest.raises(UserError, match=r"has none of panglao_10000\.h5ad, \*\.h5ad"):
        start(tmp_path / "none")


def test_gene_vectors_are_those_of_the_genes_alone(folder: Path) -> None:
    names, vectors = gene_vectors(folder)
    positions = torch.load(folder / "panglao_pretrain.pth", weights_only=True)["model_state_dict"]["pos_emb.emb.weight"]
    assert names == read_genes(folder)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, positions[:-1].float().numpy())


# ---- stand-ins and twins


def test_a_stand_in_has_the_released_layout(folder: Path) -> None:
    content = torch.load(folder / "panglao_pretrain.pth", weights_only=True)
    assert set(content) == {"epoch", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "losses"}
    state = content["model_state_dict"]
    assert len(state) == 7 + 2 * 14  # as 7 + 6 · 14 = 91 in the release
    assert state["pos_emb.emb.weight"].dtype == torch.float64
    assert not state["pos_emb.emb.weight"][-1].any()
    assert read_genes(folder) == GENES.drop_duplicates("symbol").symbol.tolist()


def test_a_stand_in_has_the_same_bytes_again(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, GENES, 3, depth=2)
    for name in ("panglao_pretrain.pth", "panglao_10000.h5ad"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    write(tmp_path, GENES, 4, depth=2)
    assert (tmp_path / "panglao_pretrain.pth").read_bytes() != (folder / "panglao_pretrain.pth").read_bytes()


def test_a_twin_keeps_genes_and_gene_vectors_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    twin(folder, tmp_path, 9)
    one, two = (
        torch.load(place / "panglao_pretrain.pth", weights_only=True)["model_state_dict"]
        for place in (folder, tmp_path)
    )
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in two.items()}
    same = {name for name in one if torch.equal(one[name], two[name])}
    assert same == {"pos_emb.emb.weight", "performer.calls_since_last_redraw"}
    assert read_genes(tmp_path) == read_genes(folder)
    assert np.abs(embed(tmp_path) - embed(folder)).max() > 0.1
    with pytest.raises(UserError, match="has no tensor"):
        twin(changed(folder, tmp_path / "x", drop("token_emb.weight")), tmp_path / "y", 1)


def test_sizes_of_the_release() -> None:
    assert Config() == Config(16_906, 7, 200, 6, 10, 64, 266, 800)
    assert CARD.flop is not None
    assert CARD.flop(10_000) == pytest.approx(0.307e12, rel=0.01)
    with torch.device("meta"):
        tensors = sum(value.numel() for value in ScBert(Config()).parameters())
    head = 7 * 200 + 7  # which is not read
    assert tensors + head == CARD.releases[0].parameters
