"""Geneformer: equal to upstream on the golden cases, and what it makes of odd input and odd checkpoints."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import made_counts, made_genes, made_view, tpm_of
from safetensors.torch import load_file, save_file

from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.encoders.geneformer import CARD, ENCODER, LONGEST, Tokeniser, gene_vectors, load
from bulkprobe.errors import Unfit, UserError
from bulkprobe.nn.samples import Sample, Samples
from bulkprobe.preprocess.vocabulary import align, gene_names
from bulkprobe.untrained import geneformer as untrained

EVIDENCE = Path(__file__).parent / "evidence" / "geneformer.json"
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("embedding", {}),
    ("embedding_last_layer", {"layer": 0}),
    ("embedding_mean", {"pooling": "mean"}),
    ("embedding_tpm", {"input": "tpm"}),
]
GENES = made_genes(60, 1)
COUNTS = made_counts(3, 60, 2)
V1 = ("Geneformer-V1-10M", "geneformer/gene_dictionaries_30m", "gc30M")
V2 = ("Geneformer-V2-104M", "geneformer", "gc104M")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    untrained.write(folder / "V1", GENES, 3, version="V1", width=8, positions=40)
    untrained.write(folder / "V2", GENES, 3, width=8, positions=40)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    def of(version: str) -> Path:
        return Path(shutil.copytree(made / version, tmp_path / version))

    return of


def start(folder: Path, view: CohortView | None = None, **options: Any) -> Samples:
    return ENCODER.start(view or made_view(GENES, COUNTS), options, Weights(folder, threads=1))


def tokeniser(folder: Path, var: pd.DataFrame) -> Tokeniser:
    config, vocabulary, _ = load(folder)
    names = [name.upper() for name in gene_names(var, "ensembl")]
    return Tokeniser.of(vocabulary, align(names, vocabulary.places, "all"), config.positions)


def ids_of(folder: Path, genes: list[str], values: list[float]) -> list[str]:
    """Return what a sample becomes: names of tokens, in order."""
    var = pd.DataFrame({"ensembl_id": genes, "symbol": "", "length": 1000})
    ids, _ = tokeniser(folder, var).rank(np.array(values, dtype=np.float32))
    path = next(folder.rglob("token_dictionary*.pkl"))
    names = {token: name for name, token in pickle.loads(path.read_bytes()).items()}
    return [names[token] for token in ids]


def rewrite(folder: Path, stem: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = next(folder.rglob(f"{stem}*.pkl"))
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))


def even(folder: Path) -> None:
    """Give every gene the same median, so that counts alone rank."""
    rewrite(folder, "gene_median_dictionary", lambda medians: dict.fromkeys(medians, 2.0))


# Equal to upstream


def golden(case: Path) -> tuple[CohortView, dict[str, np.ndarray], Mapping[str, np.ndarray]]:
    genes = pd.read_csv(case / "genes.tsv", sep="\t")
    with np.load(case / "counts.npz") as stored:
        layers = {"X": stored["counts"].astype(np.float32), "tpm": stored["tpm"].astype(np.float32)}
    obs = pd.DataFrame({"sample_id": [f"S{i}" for i in range(len(layers["X"]))]})
    with np.load(case / "expected.npz") as stored:
        expected = dict(stored)
    return CohortView(genes, obs, "counts", ("tpm",)), layers, expected


@pytest.mark.shared
@pytest.mark.parametrize("case", ["v1_public", "v2_public"])
@pytest.mark.parametrize(("key", "options"), SETTINGS)
def test_embeddings_are_upstreams(shared: Path, case: str, key: str, options: dict[str, Any]) -> None:
    folder = shared / "golden" / "geneformer" / case
    view, layers, expected = golden(folder)
    session = start(folder / "checkpoint", view, **options)
    found = session.embed(layers[session.layer], view.obs)
    np.testing.assert_allclose(found, expected[key], rtol=0, atol=2e-5)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["v1_public", "v2_public"])
def test_tokens_and_states_are_upstreams(shared: Path, case: str) -> None:
    folder = shared / "golden" / "geneformer" / case
    view, layers, expected = golden(folder)
    ranker = tokeniser(folder / "checkpoint", view.var)
    for layer, key in (("X", "input_ids"), ("tpm", "input_ids_tpm")):
        for values, want in zip(layers[layer], expected[key], strict=True):
            np.testing.assert_array_equal(ranker.rank(values)[0], want[want > 0])
    ids, tokens = ranker.rank(layers["X"][0])
    want = expected["s0_rank_values"]
    np.testing.assert_allclose(tokens.values, want[~np.isnan(want)], rtol=1e-12)
    config, _, model = load(folder / "checkpoint")
    for depth, key in enumerate(("s0_embeddings", "s0_block1", "s0_second_to_last", "s0_final")):
        hidden = model(torch.from_numpy(ids), depth).numpy()
        np.testing.assert_allclose(hidden[:64], expected[key], rtol=0, atol=2e-5)
    assert config.depth == 3


def test_first_tokens_are_upstreams_on_an_untrained_checkpoint(tmp_path: Path) -> None:
    case = json.loads(EVIDENCE.read_text())["cases"][1]
    genes = made_genes(**case["genes"])
    counts = made_counts(case["counts"]["n_samples"], len(genes), case["counts"]["seed"])
    untrained.write(tmp_path, genes, **case["writer"])
    ranker = tokeniser(tmp_path, genes)
    assert [ranker.rank(row)[0][:32].tolist() for row in counts] == case["first_token_ids"]


# The ranking


def test_genes_are_ranked_by_count_over_median(copy: Callable[[str], Path]) -> None:
    folder = copy("V2")
    a, b, c = GENES.ensembl_id[:3]
    rewrite(folder, "gene_median_dictionary", lambda medians: {**medians, a: 10.0, b: 1.0, c: 0.5})
    assert ids_of(folder, [a, b, c], [10, 2, 3]) == ["<cls>", c, b, a, "<eos>"]


def test_ties_keep_the_order_of_the_input(copy: Callable[[str], Path]) -> None:
    folder = copy("V1")
    even(folder)
    genes = list(GENES.ensembl_id[[7, 3, 9, 1, 5]])
    assert ids_of(folder, genes, [4, 4, 9, 4, 4]) == [genes[2], genes[0], genes[1], genes[3], genes[4]]


def test_summed_genes_come_last_among_ties(copy: Callable[[str], Path]) -> None:
    folder = copy("V2")
    even(folder)
    a, b, c, d = GENES.ensembl_id[:4]
    rewrite(folder, "ensembl_mapping_dict", lambda known: {**known, "ENSG999": a, "ENSG998": b})
    found = ids_of(folder, ["ENSG999", c, b, a, d, "ENSG998"], [3, 5, 1, 2, 5, 4])
    assert found == ["<cls>", c, d, a, b, "<eos>"]


def test_the_same_id_twice_is_summed(copy: Callable[[str], Path]) -> None:
    folder = copy("V1")
    even(folder)
    a, b = GENES.ensembl_id[:2]
    assert ids_of(folder, [a, b, a], [3, 5, 3]) == [a, b]


def test_ids_are_known_without_version_in_any_case_and_when_retired(copy: Callable[[str], Path]) -> None:
    folder = copy("V2")
    a, b, c = GENES.ensembl_id[:3]
    rewrite(folder, "ensembl_mapping_dict", lambda known: {**known, "ENSG999": c})
    found = ids_of(folder, [f"{a}.12", b.lower(), "ENSG999", "ENSG00000000000", ""], [100, 90, 80, 70, 60])
    assert sorted(found[1:-1]) == sorted([a, b, c])


def test_known_are_also_retired_ids_and_the_parameters_are_those_of_the_blocks_that_run(
    copy: Callable[[str], Path],
) -> None:
    folder = copy("V2")
    a, b, c = GENES.ensembl_id[:3]
    rewrite(folder, "ensembl_mapping_dict", lambda known: {**known, "ENSG999": c})
    var = pd.DataFrame({"ensembl_id": ["ENSG000", "ENSG999", f"{a}.12", c, b.lower()], "symbol": ""})
    session = start(folder, made_view(var.assign(length=1000.0), np.ones((1, 5), np.float32)))
    assert session.known.tolist() == [1, 2, 3, 4]
    assert session.states is not None
    with torch.inference_mode():
        columns, states = session.states(np.array([9, 8, 7, 6, 5], np.float32), Sample("S0", 0))
    assert set(columns.tolist()) == {1, 2, 4}  # the third column is summed into the first
    assert len(states) == 3

    tensors = load_file(next(folder.rglob("model.safetensors")))
    depth = 1 + max(int(name.split(".")[3]) for name in tensors if name.startswith("bert.encoder.layer."))
    last = f"bert.encoder.layer.{depth - 1}."
    sizes = {name: tensor.numel() for name, tensor in tensors.items() if name.startswith("bert.")}
    sizes.pop("bert.embeddings.position_ids", None)
    whole = sum(sizes.values())
    assert start(folder, layer=0).attributes["parameters_used"] == whole
    assert session.attributes["parameters_used"] == whole - sum(n for name, n in sizes.items() if last in name)


def test_an_id_that_the_mapping_lacks_is_not_taken(copy: Callable[[str], Path]) -> None:
    folder = copy("V1")
    a, b = GENES.ensembl_id[:2]
    rewrite(folder, "ensembl_mapping_dict", lambda known: {k: v for k, v in known.items() if k != a})
    assert ids_of(folder, [a, b], [5, 5]) == [b]


@pytest.mark.parametrize(("version", "kept"), [("V1", 40), ("V2", 38)])
def test_the_lowest_ranked_genes_are_cut_off(copy: Callable[[str], Path], version: str, kept: int) -> None:
    folder = copy(version)
    even(folder)
    genes = list(GENES.ensembl_id)
    found = ids_of(folder, genes, list(range(1, 61)))
    names = [name for name in found if not name.startswith("<")]
    assert names == genes[::-1][:kept]
    assert found[0] == ("<cls>" if version == "V2" else genes[-1])
    assert len(found) == 40


def test_more_positions_than_upstream_uses_are_not_filled(tmp_path: Path) -> None:
    untrained.write(tmp_path, GENES, 1, version="V1", width=4, heads=1, positions=4096)
    assert start(tmp_path).attributes["max_genes"] == LONGEST["V1"]


def test_what_enters_the_model_is_told(made: Path) -> None:
    session = start(made / "V2")
    tokens = session.tokens(COUNTS[0], Sample("S0", 0))
    assert len(tokens.columns) == min(38, int((COUNTS[0] > 0).sum()))
    medians = pickle.loads((made / "V2" / "geneformer" / "gene_median_dictionary_gc104M.pkl").read_bytes())
    median = np.array([medians[name] for name in GENES.ensembl_id[tokens.columns]])
    counts = COUNTS[0].astype(np.float64)
    np.testing.assert_allclose(tokens.values, counts[tokens.columns] / counts.sum() * 10_000 / median, rtol=1e-12)
    assert (np.diff(tokens.values) <= 0).all()


def test_a_sample_without_expression_is_an_error_that_names_it(made: Path) -> None:
    empty = np.zeros_like(COUNTS)
    with pytest.raises(UserError, match=r"^sample S0: none of the genes that Geneformer knows is expressed"):
        start(made / "V2").embed(empty, made_view(GENES, COUNTS).obs)


# Options


def test_the_published_vector_is_the_mean_in_v1_and_cls_in_v2(made: Path) -> None:
    obs = made_view(GENES, COUNTS).obs
    for version, pooling in (("V1", "mean"), ("V2", "cls")):
        session = start(made / version)
        assert session.attributes["version"] == version
        assert session.attributes["pooling"] == pooling
        same = start(made / version, pooling=pooling, layer=-1)
        np.testing.assert_array_equal(session.embed(COUNTS, obs), same.embed(COUNTS, obs))


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("layer", [0, -1, -2])
def test_poolings_run_over_the_gene_tokens(made: Path, version: str, layer: int) -> None:
    _, _, model = load(made / version)
    obs = made_view(GENES, COUNTS).obs
    for row in range(len(COUNTS)):
        ids, _ = tokeniser(made / version, GENES).rank(COUNTS[row])
        hidden = model(torch.from_numpy(ids), 2 + layer).double().numpy()
        genes = hidden[1:-1] if version == "V2" else hidden
        expected = {"mean": genes.mean(0), "max": genes.max(0), "median": np.median(genes, 0)}
        if version == "V2":
            expected["cls"] = hidden[0]
        for pooling, want in expected.items():
            found = start(made / version, pooling=pooling, layer=layer).embed(COUNTS[[row]], obs.iloc[[row]])
            np.testing.assert_allclose(found[0], want, rtol=0, atol=2e-6)


def test_tpm_is_read_where_it_is_asked_for(made: Path) -> None:
    session = start(made / "V2", input="tpm")
    assert session.layer == "tpm"
    view = made_view(GENES, COUNTS)
    tpm = tpm_of(COUNTS, GENES)
    alone = start(made / "V2", CohortView(GENES, view.obs, "tpm"), input="tpm")
    assert alone.layer == "X"
    np.testing.assert_array_equal(session.embed(tpm, view.obs), alone.embed(tpm, view.obs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 1}, r"option layer is 1, expected a whole number from -2 \(the embedded tokens\) to 0"),
        ({"layer": -3}, "option layer is -3"),
        ({"layer": True}, "option layer is True"),
        ({"layer": "last"}, "option layer is 'last'"),
        ({"pooling": "concat"}, "option pooling is 'concat', expected one of published, mean, max, median, cls"),
        ({"input": "cpm"}, "option input is 'cpm'"),
        ({"positions": "all"}, "has no option positions"),
    ],
)
def test_wrong_options_are_refused(made: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(made / "V2", **options)


def test_v1_has_no_cls(made: Path) -> None:
    with pytest.raises(UserError, match="pooling=cls needs a <cls> token, which V1 does not have"):
        start(made / "V1", pooling="cls")


def test_it_needs_weights(made: Path) -> None:
    with pytest.raises(UserError, match="encoder geneformer needs weights"):
        ENCODER.start(made_view(GENES, COUNTS), {})


def test_input_that_it_cannot_read_is_unfit(made: Path) -> None:
    view = made_view(GENES, COUNTS)
    with pytest.raises(Unfit, match="cannot read expression on the scale 'tpm': it needs counts; set input=tpm"):
        start(made / "V2", CohortView(GENES, view.obs, "tpm"))
    mouse = GENES.assign(ensembl_id=[f"ENSMUSG{i:011d}" for i in range(60)])
    with pytest.raises(Unfit, match=r"knows 0 of 60 genes .* it reads Ensembl gene id"):
        start(made / "V2", CohortView(mouse, view.obs, "counts"))


# Checkpoints


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = next(folder.rglob("model.safetensors"))
    state = load_file(path)
    path.unlink()  # the tensors may be mapped
    change(state)
    save_file(state, path, {"format": "pt"})


def test_tensors_must_fit_exactly(copy: Callable[[str], Path]) -> None:
    folder = copy("V2")
    word, query = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.attention.self.query.weight"
    tensors(folder, lambda state: state.update({"bert.pooler.dense.weight": torch.zeros(8, 8)}))
    with pytest.raises(UserError, match=r"tensors that this model does not have: bert\.pooler\.dense\.weight"):
        load(folder)
    tensors(folder, lambda state: (state.pop("bert.pooler.dense.weight"), state.update({word: torch.zeros(64, 9)})))
    with pytest.raises(UserError, match=r"of another shape: word\.weight is \(64, 9\), expected \(64, 8\)"):
        load(folder)
    tensors(folder, lambda state: (state.update({word: torch.zeros(64, 8)}), state.pop(query)))
    with pytest.raises(UserError, match=r"missing: blocks\.1\.qkv\.weight; not expected: blocks\.1\.key\.weight"):
        load(folder)


def config(folder: Path, **changes: Any) -> None:
    path = next(folder.rglob("config.json"))
    stored = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in stored.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "asks for gelu and absolute positions: every Geneformer has relu and absolute"),
        ({"position_embedding_type": "relative_key"}, "asks for relu and relative_key positions"),
        ({"num_attention_heads": 3}, "hidden_size 8 is no multiple of num_attention_heads 3"),
        ({"num_attention_heads": 0}, "hidden_size 8 is no multiple of num_attention_heads 0"),
        ({"layer_norm_eps": None}, r"not a Geneformer's config\.json: KeyError\('layer_norm_eps'\)"),
        ({"hidden_size": "wide"}, r"not a Geneformer's config\.json: ValueError"),
        ({"num_hidden_layers": 3}, r"missing: blocks\.2\.down\.bias"),
    ],
)
def test_a_config_that_is_no_geneformers_is_refused(
    copy: Callable[[str], Path], changes: dict[str, Any], message: str
) -> None:
    folder = copy("V2")
    config(folder, **changes)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_a_folder_with_several_models_or_none_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("V2")
    shutil.copytree(folder / V2[0], folder / "Geneformer-V2-316M")
    with pytest.raises(UserError, match=r"holds several models \(Geneformer-V2-104M, Geneformer-V2-316M\): leave one"):
        load(folder)
    shutil.rmtree(folder / V2[0])
    shutil.rmtree(folder / "Geneformer-V2-316M")
    with pytest.raises(UserError, match=r"has none of config\.json"):
        load(folder)


def test_dictionaries_of_another_generation_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("V2")
    path = folder / "geneformer" / "token_dictionary_gc104M.pkl"
    other = path.with_name("token_dictionary_gc95M.pkl")
    shutil.copy(path, other)
    with pytest.raises(UserError, match=r"one token dictionary with the model's 64 entries, it holds .*gc104M.*gc95M"):
        load(folder)
    path.unlink()
    other.write_bytes(pickle.dumps({"<pad>": 0}))
    with pytest.raises(
        UserError, match=r"it holds geneformer/token_dictionary_gc95M\.pkl \(1\): dictionaries and weights"
    ):
        load(folder)
    other.unlink()
    with pytest.raises(UserError, match="it holds none"):
        load(folder)


def test_both_generations_side_by_side_are_told_apart(copy: Callable[[str], Path], made: Path) -> None:
    folder = copy("V2")
    shutil.copytree(made / "V1" / V1[1], folder / V1[1])
    assert load(folder)[1].version == "V2"


@pytest.mark.parametrize(
    ("stem", "change", "message"),
    [
        ("token_dictionary", lambda d: list(d), "holds a list, expected a dictionary of genes"),
        ("token_dictionary", lambda d: {**d, "<pad>": 5}, "tokens are not the numbers 0 to 63"),
        ("token_dictionary", lambda d: {k.replace("<eos>", "<end>"): v for k, v in d.items()}, "only one of <cls>"),
        ("gene_median_dictionary", lambda d: {}, r"has no median of ENSG\d+, .*60 in all"),
        ("gene_median_dictionary", lambda d: dict.fromkeys(d, 0.0), "has no median of"),
        ("gene_median_dictionary", lambda d: dict.fromkeys(d, float("nan")), "has no median of"),
    ],
)
def test_damaged_dictionaries_are_refused(
    copy: Callable[[str], Path], stem: str, change: Callable[[Any], Any], message: str
) -> None:
    folder = copy("V2")
    rewrite(folder, stem, change)
    with pytest.raises(UserError, match=message):
        load(folder)


class Evil:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("stem", ["token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict", "weights"])
def test_a_pickle_is_never_run(copy: Callable[[str], Path], tmp_path: Path, stem: str) -> None:
    folder = copy("V1")
    if stem == "weights":
        path = folder / V1[0] / "pytorch_model.bin"
        path.with_name("model.safetensors").unlink()
    else:
        path = folder / V1[1] / f"{stem}_{V1[2]}.pkl"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "harm")))
    with pytest.raises(UserError, match="that may be read"):
        load(folder)
    assert not (tmp_path / "harm").exists()


def test_older_layouts_are_read_too(made: Path, tmp_path: Path) -> None:
    """The first release: model at the top, a torch file with tied decoder, dictionaries without a generation."""
    folder = tmp_path / "old"
    shutil.copytree(made / "V1" / V1[0], folder)
    (folder / "geneformer").mkdir()
    for stem in ("token_dictionary", "gene_median_dictionary"):
        shutil.copy(made / "V1" / V1[1] / f"{stem}_gc30M.pkl", folder / "geneformer" / f"{stem}.pkl")
    state = load_file(folder / "model.safetensors")
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    obs = made_view(GENES, COUNTS).obs
    np.testing.assert_array_equal(start(folder).embed(COUNTS, obs), start(made / "V1").embed(COUNTS, obs))
    untrained.twin(folder, tmp_path / "twin", 5)
    assert load(tmp_path / "twin")[1].genes == load(folder)[1].genes


# What is made here


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_a_stand_in_is_the_same_whenever_it_is_made(made: Path, tmp_path: Path, version: Any) -> None:
    untrained.write(tmp_path, GENES, 3, version=version, width=8, positions=40)
    first = {p.relative_to(made / version): p.read_bytes() for p in (made / version).rglob("*") if p.is_file()}
    assert {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == first
    assert {path.as_posix() for path in first} >= {
        file.path.replace("V2-104M_CLcancer", "V2-104M")
        for file in CARD.release({"V1": "V1-10M"}.get(version, "V2-104M")).files
    }


def test_samples_differ_on_a_stand_in(tmp_path: Path) -> None:
    untrained.write(tmp_path, GENES, 3)
    found = start(tmp_path).embed(COUNTS, made_view(GENES, COUNTS).obs)
    assert found.std(axis=0).mean() > 0.005 * found.std()


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_a_twin_keeps_all_but_the_tensors(made: Path, tmp_path: Path, version: str) -> None:
    released = made / version
    untrained.twin(released, tmp_path, 5)
    home = {"V1": V1, "V2": V2}[version][0]
    for path in (p for p in released.rglob("*") if p.is_file() and p.suffix != ".safetensors"):
        assert (tmp_path / path.relative_to(released)).read_bytes() == path.read_bytes()
    old, new = (load_file(folder / home / "model.safetensors") for folder in (released, tmp_path))
    assert {name: value.shape for name, value in new.items()} == {name: value.shape for name, value in old.items()}
    query = new["bert.encoder.layer.0.attention.self.query.weight"]
    assert not torch.equal(query, old["bert.encoder.layer.0.attention.self.query.weight"])
    assert 0.01 < float(query.std()) < 0.03
    assert torch.equal(new["bert.embeddings.LayerNorm.weight"], torch.ones(8))
    assert not new["bert.embeddings.word_embeddings.weight"][0].any()
    if version == "V1":
        assert torch.equal(new["bert.embeddings.position_ids"], torch.arange(40)[None])


def test_gene_vectors_are_the_rows_of_the_word_table(made: Path) -> None:
    names, vectors = gene_vectors(made / "V2")
    assert names == list(GENES.ensembl_id)
    state = load_file(made / "V2" / V2[0] / "model.safetensors")
    np.testing.assert_array_equal(vectors, state["bert.embeddings.word_embeddings.weight"][4:].numpy())


def test_the_card_names_every_file_with_its_hash() -> None:
    assert [release.name for release in CARD.releases] == ["V2-104M", "V2-104M_CLcancer", "V2-316M", "V1-10M"]
    for release in CARD.releases:
        assert len(release.files) == 5
        assert all(file.sha256 and len(file.sha256) == 64 and file.bytes and file.urls for file in release.files)
    assert CARD.flop is not None
    assert CARD.memory is not None
    assert 1.0e12 < CARD.flop(15_000) < 1.3e12  # 1.2 TFLOP for eleven blocks of 4,096 tokens
    assert CARD.flop(15_000) == CARD.flop(4094) > CARD.flop(2000)
    assert CARD.memory(15_000) < 2e8
