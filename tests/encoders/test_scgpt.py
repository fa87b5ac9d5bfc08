from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.encoders.scgpt import CARD, ENCODER, Encode, bin_values, gene_vectors
from bulkprobe.errors import UserError
from bulkprobe.nn.samples import Sample, Samples, Tokens
from bulkprobe.untrained import scgpt as untrained
from encoders.made import made_counts, made_genes

GENES = made_genes(400, seed=3)
COUNTS = made_counts(4, 400, seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scgpt")
    untrained.write(path, GENES, seed=5)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def samples(n: int) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": [f"S{i}" for i in range(n)]})


def start(folder: Path, var: pd.DataFrame = GENES, **options: Any) -> Samples:
    return ENCODER.start(CohortView(var, samples(4), "counts", ("tpm",)), options, Weights(folder, threads=1))


def vectors(folder: Path, counts: np.ndarray = COUNTS, var: pd.DataFrame = GENES, **options: Any) -> np.ndarray:
    return start(folder, var, **options).embed(counts, samples(len(counts)))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "best_model.pt", weights_only=True))


# ---- upstream's numbers -------------------------------------------------------------------------------------------


class Golden:
    """One case: upstream's own result on a tiny checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case = json.loads((folder / "case.json").read_text())
        self.genes = pd.read_csv(folder / "genes.tsv", sep="\t")
        self.values = dict(np.load(folder / "counts.npz"))
        self.expected = dict(np.load(folder / "expected.npz"))
        self.vocabulary = json.loads((folder / "checkpoint" / "vocab.json").read_text())
        self.obs = samples(len(self.values["counts"]))
        # Upstream gives genes it does not know no place at all.
        self.ids = np.array([self.vocabulary.get(symbol, -1) for symbol in self.genes.symbol])

    def start(self, **options: Any) -> Samples:
        view = CohortView(self.genes, self.obs, "counts", ("tpm",))
        return ENCODER.start(view, options, Weights(self.folder / "checkpoint", threads=1))

    def layer(self, session: Samples) -> np.ndarray:
        return self.values["counts" if session.layer == "X" else "tpm"].astype(np.float32)

    def embed(self, **options: Any) -> np.ndarray:
        session = self.start(**options)
        return session.embed(self.layer(session), self.obs)

    def encode(self, ids: np.ndarray, values: np.ndarray, session: Samples, rows: int | None) -> torch.Tensor:
        """Our network on tokens that upstream made, `<cls>` first and padding last."""
        real = ids != self.vocabulary["<pad>"]
        column = {place: number for number, place in reversed(list(enumerate(self.ids)))}
        columns = np.array([column[place] for place in ids[real][1:]])
        assert isinstance(session.encode, Encode)
        return session.encode.hidden(Tokens(columns, values[real][1:].astype(np.int64)), rows)


@pytest.fixture(params=["public"])
def golden(shared: Path, request: pytest.FixtureRequest) -> Golden:
    return Golden(shared / "golden" / "scgpt" / request.param)


@pytest.mark.shared
def test_the_deterministic_procedure_gives_upstreams_vectors(golden: Golden) -> None:
    for options, key, tolerance in (
        ({"pooling": "published"}, "embedding_full_tpm", 2e-5),
        ({"pooling": "cls"}, "alt_cls_raw_full_tpm", 1e-4),
        ({"pooling": "mean"}, "alt_mean_gene_full_tpm", 1e-4),
    ):
        got = golden.embed(genes="all", input="tpm", **options)
        np.testing.assert_allclose(got, golden.expected[key], rtol=0, atol=tolerance)


@pytest.mark.shared
def test_bins_of_tpm_are_upstreams(golden: Golden) -> None:
    session = golden.start(genes="all", input="tpm")
    for row, (values, want) in enumerate(zip(golden.layer(session), golden.expected["bins_tpm"], strict=True)):
        tokens = session.tokens(values, Sample(f"S{row}", row))
        np.testing.assert_array_equal(np.sort(tokens.columns), np.flatnonzero(want))
        np.testing.assert_array_equal(tokens.values, want[tokens.columns])


@pytest.mark.shared
def test_bins_of_counts_stay_in_upstreams_ranges_and_are_equal_with_its_numbers(golden: Golden) -> None:
    expected, session = golden.expected, golden.start(genes="all")
    numbers = np.random.RandomState(golden.case["seed"])  # the stream that upstream draws from
    for row, values in enumerate(golden.layer(session)):
        tokens = session.tokens(values, Sample(f"S{row}", row))
        low, high = (expected[f"bins_counts_{end}"][row][tokens.columns] for end in ("low", "high"))
        assert ((low <= tokens.values) & (tokens.values <= high)).all()
        assert (low == high).any()
        assert (low < high).any()
        found = np.flatnonzero((values != 0) & (golden.ids >= 0))
        drawn = bin_values(values[found], numbers.rand(len(found)))
        np.testing.assert_array_equal(drawn, expected["bins_counts"][row][found])


@pytest.mark.shared
def test_the_network_gives_upstreams_vectors_from_upstreams_tokens(golden: Golden) -> None:
    expected, session = golden.expected, golden.start()
    for ids, values, want in (
        ("token_ids", "values", "embedding"),
        ("token_ids_full_counts", "values_full_counts", "embedding_full_counts"),
    ):
        for row in range(len(golden.obs)):
            cls = golden.encode(expected[ids][row], expected[values][row], session, rows=1)[0]
            np.testing.assert_allclose((cls / cls.norm()).numpy(), expected[want][row], rtol=0, atol=2e-5)


@pytest.mark.shared
def test_intermediate_states_are_upstreams(golden: Golden) -> None:
    expected, session = golden.expected, golden.start()
    encode = session.encode
    assert isinstance(encode, Encode)
    ids, values = expected["s0_token_ids"], expected["s0_values"]
    names, table = gene_vectors(golden.folder / "checkpoint")
    place = {golden.vocabulary[name]: row for row, name in enumerate(names)}
    n = len(expected["s0_gene_emb"])
    got = np.stack([table[place[i]] for i in ids[1:n]])
    np.testing.assert_allclose(got, expected["s0_gene_emb"][1:], rtol=0, atol=1e-5)
    got = encode.value_table[torch.from_numpy(values[1:n]).long()].numpy()
    np.testing.assert_allclose(got, expected["s0_value_emb"][1:], rtol=0, atol=1e-5)
    first = expected["s0_gene_emb"][0] + expected["s0_value_emb"][0]  # <cls>, which carries -2
    np.testing.assert_allclose(encode.cls[0].numpy(), first, rtol=0, atol=1e-5)
    final = golden.encode(ids, values, session, rows=None).numpy()
    scale = np.abs(expected["s0_final"]).max()
    np.testing.assert_allclose(final[:n], expected["s0_final"], rtol=0, atol=1e-4 * scale)
    np.testing.assert_allclose(final[1:].mean(0), expected["s0_final_mean"], rtol=0, atol=1e-4 * scale)


# ---- which genes are read, and in which bin -----------------------------------------------------------------------


def test_values_without_ties_get_one_bin_by_rank() -> None:
    values = np.arange(1.0, 101.0, dtype=np.float32)
    for number in (0.0, 0.5, 0.999):
        bins = bin_values(values, np.full(100, number))
        assert bins[0] == 1
        assert bins[-1] == 50
        assert (np.diff(bins) >= 0).all()
        assert set(bins) == set(range(1, 51))


def test_a_value_on_several_edges_may_have_any_of_their_bins() -> None:
    # Half of the values are 1: edges 0 to 24 are 1, so a 1 has bins 1 to 25, by its number from the top.
    values = np.array([1.0] * 50 + list(range(2, 52)), dtype=np.float32)
    numbers = np.linspace(0, 1, 100, endpoint=False)
    bins = bin_values(values, numbers)
    assert bins[0] == 25
    assert bins[:50].min() == 13  # a number just below one half
    assert set(bin_values(values, numbers[::-1])[:50]) == set(range(1, 14))
    everywhere = bin_values(np.full(5000, 7.0, np.float32), np.random.default_rng(0).random(5000))
    assert set(everywhere) == set(range(1, 51))
    assert np.bincount(everywhere)[1:].std() < 15


def test_bins_do_not_change_under_a_rising_transform(folder: Path) -> None:
    session = start(folder, genes="all")
    a, b = (session.tokens(values, Sample("S0", 0)) for values in (COUNTS[0], COUNTS[0] * 4))
    np.testing.assert_array_equal(a.values, b.values)


def test_a_sample_is_cut_to_max_length_with_the_bins_of_all_its_genes(folder: Path) -> None:
    everything = start(folder, genes="all").tokens(COUNTS[0], Sample("S0", 0))
    bins = dict(zip(everything.columns.tolist(), everything.values.tolist(), strict=True))
    assert len(bins) == (COUNTS[0] > 0).sum()
    for choice in ("sample", "top"):
        tokens = start(folder, genes=choice, max_length=101).tokens(COUNTS[0], Sample("S0", 0))
        assert len(set(tokens.columns.tolist())) == 100
        assert all(bins[column] == value for column, value in zip(tokens.columns, tokens.values, strict=True))
        if choice == "top":
            assert np.sort(COUNTS[0])[-100] == COUNTS[0][tokens.columns].min()
    long = start(folder, max_length=len(bins) + 1).tokens(COUNTS[0], Sample("S0", 0))
    np.testing.assert_array_equal(long.columns, everything.columns)


def test_of_equal_values_at_the_cut_the_first_columns_are_read(folder: Path) -> None:
    counts = np.full((1, 400), 3.0, np.float32)
    counts[0, 300] = 9
    tokens = start(folder, genes="top", max_length=11).tokens(counts[0], Sample("S0", 0))
    assert sorted(tokens.columns) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 300]


def test_every_gene_is_drawn_as_often_as_every_other(folder: Path) -> None:
    session = start(folder, max_length=41)
    drawn = np.zeros(400)
    for number in range(400):
        drawn[session.tokens(COUNTS[0], Sample(f"S{number}", 0)).columns] += 1
    expressed = COUNTS[0] > 0
    share = 40 / expressed.sum()
    assert (drawn[~expressed] == 0).all()
    z = (drawn[expressed] - 400 * share) / np.sqrt(400 * share * (1 - share))
    assert abs(z).max() < 4.5
    assert 0.8 < z.std() < 1.2


def test_a_draw_hangs_on_seed_and_sample_id_or_row(folder: Path) -> None:
    def columns(sample: Sample, **options: Any) -> list[int]:
        return start(folder, max_length=101, **options).tokens(COUNTS[0], sample).columns.tolist()

    assert columns(Sample("A", 0)) == columns(Sample("A", 9))
    assert columns(Sample("A", 0)) != columns(Sample("B", 0))
    assert columns(Sample("A", 0)) != columns(Sample("A", 0), draw_seed=1)
    assert columns(Sample("A", 3), draw_by="position") == columns(Sample("B", 3), draw_by="position")
    assert columns(Sample("A", 3), draw_by="position") != columns(Sample("A", 4), draw_by="position")


def test_a_gene_keeps_its_draw_when_another_is_no_longer_expressed(folder: Path) -> None:
    session = start(folder, max_length=101)
    before = session.tokens(COUNTS[0], Sample("A", 0))
    left_out = COUNTS[0].copy()
    left_out[before.columns[7]] = 0
    after = session.tokens(left_out, Sample("A", 0))
    assert set(before.columns) - set(after.columns) == {before.columns[7]}


def test_each_column_of_a_symbol_is_a_token_whatever_their_order(folder: Path) -> None:
    twice = GENES.iloc[[*range(400), 7, 7, 11]].reset_index(drop=True)
    counts = np.concatenate([np.maximum(COUNTS, 1), [[50.0, 3.0, 60.0]] * 4], axis=1).astype(np.float32)
    session = start(folder, twice, genes="all")
    tokens = session.tokens(counts[0], Sample("S0", 0))
    assert sorted(tokens.columns) == list(range(403))
    assert session.attributes["genes_matched"] == 400
    order = np.random.default_rng(0).permutation(403)
    shuffled = twice.iloc[order].reset_index(drop=True)
    for options in ({}, {"max_length": 101}):
        a, b = vectors(folder, counts, twice, **options), vectors(folder, counts[:, order], shuffled, **options)
        np.testing.assert_array_equal(a, b)


def test_symbols_match_exactly_and_a_special_token_is_no_gene(folder: Path) -> None:
    names = GENES.assign(symbol=["<cls>", "<pad>", None, GENES.symbol[3].lower() + "x", *GENES.symbol[4:]])
    session = start(folder, names)
    tokens = session.tokens(np.ones(400, np.float32), Sample("S0", 0))
    assert sorted(tokens.columns) == list(range(4, 400))
    assert session.attributes["genes_of_model"] == 400


def test_genes_that_the_cohort_does_not_measure_or_express_are_no_tokens(folder: Path) -> None:
    few = GENES.iloc[:200].reset_index(drop=True)
    np.testing.assert_array_equal(
        vectors(folder, COUNTS[:, :200], few), vectors(folder, np.where(np.arange(400) < 200, COUNTS, 0))
    )


def test_a_sample_without_an_expressed_gene_is_refused_by_name(folder: Path) -> None:
    counts = COUNTS.copy()
    counts[2] = 0
    with pytest.raises(UserError, match="sample S2: none of the genes that scGPT knows is expressed"):
        vectors(folder, counts)


def test_one_expressed_gene_is_enough(folder: Path) -> None:
    counts = np.zeros((1, 400), np.float32)
    counts[0, 5] = 2
    assert np.isfinite(vectors(folder, counts)).all()


# ---- pooling, draws, options --------------------------------------------------------------------------------------


def test_published_is_cls_at_length_one(folder: Path) -> None:
    published, cls = vectors(folder), vectors(folder, pooling="cls")
    np.testing.assert_allclose(np.linalg.norm(published, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(published, cls / np.linalg.norm(cls, axis=1, keepdims=True), rtol=0, atol=1e-6)
    assert np.abs(np.linalg.norm(cls, axis=1) - 1).min() > 0.1


def test_mean_max_and_median_run_over_the_genes_that_are_read(folder: Path) -> None:
    session = start(folder, max_length=101)
    assert isinstance(session.encode, Encode)
    with torch.inference_mode():
        hidden = session.encode.hidden(session.tokens(COUNTS[0], Sample("S0", 0)), None)[1:].numpy()
    assert hidden.shape == (100, 32)
    for pooling, want in (("mean", hidden.mean(0)), ("max", hidden.max(0)), ("median", np.median(hidden, axis=0))):
        got = vectors(folder, max_length=101, pooling=pooling)[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_several_draws_are_averaged(folder: Path) -> None:
    session = start(folder, max_length=101, pooling="cls")
    assert isinstance(session.encode, Encode)
    with torch.inference_mode():
        each = [
            session.encode.hidden(session.encode.tokenise(COUNTS[0], Sample("S0", 0), draw), 1)[0] for draw in range(3)
        ]
    assert not torch.equal(each[0], each[1])
    mean = torch.stack(each).mean(0).numpy()
    np.testing.assert_allclose(vectors(folder, max_length=101, pooling="cls", draws=3)[0], mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors(folder, max_length=101, draws=3), axis=1), 1, rtol=1e-6)


def test_tpm_and_counts_are_read_from_their_layers(folder: Path) -> None:
    assert start(folder).layer == "X"
    assert start(folder, input="tpm").layer == "tpm"
    only_tpm = CohortView(GENES, samples(1), "tpm")
    assert ENCODER.start(only_tpm, {"input": "tpm"}, Weights(folder)).layer == "X"
    with pytest.raises(UserError, match="set input=tpm to feed it TPM"):
        ENCODER.start(only_tpm, {}, Weights(folder))


def test_the_store_learns_the_options_and_the_coverage(folder: Path) -> None:
    attributes: Mapping[str, Any] = start(folder, GENES.iloc[:300], draws=2).attributes
    assert attributes["gene_coverage"] == 0.75
    assert attributes["genes_of_cohort"] == 300
    assert (attributes["max_length"], attributes["draws"], attributes["genes"]) == (1200, 2, "sample")
    assert attributes["values"] == "counts, 50 quantile bins a sample"
    assert attributes["probe_transform"] == {"kind": "none"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 51}, "has no option bins"),
        ({"positions": "all"}, "has no option positions"),
        ({"pooling": "last"}, "option pooling is 'last', expected one of published, cls, mean, max, median"),
        ({"genes": "hvg"}, "expected one of sample, top, all"),
        ({"input": "fpkm"}, "expected one of counts, tpm"),
        ({"draw_by": "file"}, "expected one of sample_id, position"),
        ({"max_length": 1}, "max_length is 1, expected a whole number of at least 2"),
        ({"draws": 0}, "draws is 0"),
        ({"draw_seed": -1}, "draw_seed is -1"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(folder, **options)


def test_ensembl_ids_in_place_of_symbols_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"knows 0 of 400 genes .* it reads gene symbols, the input begins with ENSG"):
        start(folder, GENES.assign(symbol=GENES.ensembl_id))


def test_it_needs_weights() -> None:
    with pytest.raises(UserError, match="scgpt needs weights"):
        ENCODER.start(CohortView(GENES, samples(4), "counts"), {})


# ---- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["in_proj", "_impl"])
def test_other_names_of_the_same_attention_are_read(folder: Path, copy: Path, form: str) -> None:
    names = {
        "in_proj": {".self_attn.Wqkv.": ".self_attn.in_proj_"},
        "_impl": {".self_attn.": ".self_attn._impl."},
    }[form]
    state = tensors(copy)
    for old, new in names.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    torch.save(state, copy / "best_model.pt")
    np.testing.assert_array_equal(vectors(copy), vectors(folder))


def test_heads_that_are_not_needed_change_nothing(folder: Path, copy: Path) -> None:
    state = tensors(copy)
    state["cls_decoder._decoder.0.weight"] = torch.full((32, 32), torch.nan)
    state["cls_decoder.out_layer.bias"] = torch.zeros(177)
    for name in state:
        if name.startswith(("flag_encoder.", "decoder.", "mvc_decoder.")):
            state[name] = torch.full_like(state[name], torch.nan)
    torch.save(state, copy / "best_model.pt")
    np.testing.assert_array_equal(vectors(copy), vectors(folder))


def test_tensors_that_do_not_fit_are_named(copy: Path) -> None:
    whole = tensors(copy)

    def save(**changes: torch.Tensor | None) -> None:
        state = {name: value for name, value in {**whole, **changes}.items() if value is not None}
        torch.save(state, copy / "best_model.pt")

    save(**{"encoder.enc_norm.bias": None})
    with pytest.raises(UserError, match=r"missing: gene_norm\.bias"):
        start(copy)
    save(**{"dsbn.bns.0.weight": torch.ones(32)})
    with pytest.raises(UserError, match=r"tensors that this model does not have: dsbn\.bns\.0\.weight"):
        start(copy)
    save(**{"transformer_encoder.layers.1.linear1.weight": torch.ones(33, 32)})
    with pytest.raises(UserError, match=r"of another shape: blocks\.1\.up\.weight is \(33, 32\), expected \(32, 32\)"):
        start(copy)
    save(**{"transformer_encoder.layers.2.linear1.weight": torch.ones(32, 32)})
    with pytest.raises(UserError, match=r"not expected: blocks\.2\.up\.weight"):
        start(copy)
    save(**{"transformer_encoder.layers.0.self_attn.in_proj_bias": torch.ones(96)})
    with pytest.raises(UserError, match="tensors that stand for the same thing"):
        start(copy)


def test_a_vocabulary_of_another_size_than_the_embedding_is_refused(copy: Path) -> None:
    vocabulary = json.loads((copy / "vocab.json").read_text())
    (copy / "vocab.json").write_text(json.dumps({**vocabulary, "NEW": len(vocabulary)}))
    with pytest.raises(UserError, match=r"genes\.weight is \(403, 32\), expected \(404, 32\)"):
        start(copy)
    (copy / "vocab.json").write_text(json.dumps({**vocabulary, "NEW": 7}))
    with pytest.raises(UserError, match="does not number its 404 tokens"):
        start(copy)
    (copy / "vocab.json").write_text("[1")
    with pytest.raises(UserError, match=r"vocab\.json is not JSON"):
        start(copy)
    (copy / "vocab.json").write_text("[1]")
    with pytest.raises(UserError, match="holds no JSON object"):
        start(copy)


def test_special_tokens_that_a_vocabulary_lacks_stand_at_its_end(folder: Path, copy: Path) -> None:
    vocabulary = json.loads((copy / "vocab.json").read_text())
    (copy / "vocab.json").write_text(json.dumps({name: i for name, i in vocabulary.items() if name[0] != "<"}))
    np.testing.assert_array_equal(vectors(copy), vectors(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nheads": 3}, "cannot have width 32, 2 layers and 3 heads"),
        ({"nheads": None}, "has no number 'nheads'"),
        ({"pad_value": "-2"}, "has no number 'pad_value'"),
        ({"nlayers": 3}, r"missing: blocks\.2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(copy: Path, change: dict[str, Any], message: str) -> None:
    args = json.loads((copy / "args.json").read_text())
    (copy / "args.json").write_text(json.dumps({**args, **change}))
    with pytest.raises(UserError, match=message):
        start(copy)


@pytest.mark.parametrize("name", ["args.json", "vocab.json", "best_model.pt"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        start(copy)


class Harmful:
    """Pickles into a call that makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_something_is_refused(copy: Path, tmp_path: Path, zipped: bool) -> None:
    mark, path = tmp_path / "mark", copy / "best_model.pt"
    if zipped:
        torch.save({"encoder.embedding.weight": Harmful(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"encoder.embedding.weight": Harmful(mark)}))
    with pytest.raises(UserError, match="not a checkpoint that may be read"):
        start(copy)
    assert not mark.exists()


def test_input_vectors_of_genes_come_with_their_symbols(folder: Path) -> None:
    names, table = gene_vectors(folder)
    assert set(names) == set(GENES.symbol)
    assert table.shape == (400, 32)
    state = tensors(folder)
    row = json.loads((folder / "vocab.json").read_text())[names[9]]
    scale, shift = state["encoder.enc_norm.weight"], state["encoder.enc_norm.bias"]
    want = torch.nn.functional.layer_norm(state["encoder.embedding.weight"][row], (32,), scale, shift)
    np.testing.assert_allclose(table[9], want.numpy(), rtol=0, atol=1e-6)


def test_a_stand_in_is_written_alike_twice_and_differs_by_seed(folder: Path, tmp_path: Path) -> None:
    untrained.write(tmp_path / "again", GENES, seed=5)
    for name in ("args.json", "vocab.json", "best_model.pt"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    untrained.write(tmp_path / "other", GENES, seed=6)
    assert (tmp_path / "other" / "best_model.pt").read_bytes() != (folder / "best_model.pt").read_bytes()


def test_a_stand_in_has_the_released_names_and_count_of_tensors(tmp_path: Path) -> None:
    untrained.write(tmp_path, GENES, seed=5, width=16, depth=12, heads=4, hidden=24)
    state = tensors(tmp_path)
    assert len(state) == 163
    assert all(value.dtype == torch.float32 for value in state.values())
    assert vectors(tmp_path).shape == (4, 16)


def test_a_twin_keeps_all_but_the_tensors(folder: Path, tmp_path: Path) -> None:
    untrained.twin(folder, tmp_path / "twin", seed=9)
    for name in ("args.json", "vocab.json"):
        assert (tmp_path / "twin" / name).read_bytes() == (folder / name).read_bytes()
    old, new = tensors(folder), tensors(tmp_path / "twin")
    assert {name: value.shape for name, value in old.items()} == {name: value.shape for name, value in new.items()}
    assert not any(torch.equal(old[name], new[name]) for name in old)
    assert np.abs(vectors(folder) - vectors(tmp_path / "twin")).max() > 0.1


def test_the_parameters_of_the_released_sizes_are_those_on_the_card() -> None:
    sizes = untrained._shapes(60_697, 512, 12, 512).values()
    assert sum(int(np.prod(shape)) for shape in sizes) == CARD.release("whole-human").parameters
    assert len(sizes) == 163
