"""BulkFormer of both families: upstream's numbers, what enters the network, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import made_counts, made_genes, made_view, tpm_of

from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.encoders.bulkformer import CARD, ENCODER, gene_vectors, log_tpm, read_checkpoint, summary
from bulkprobe.errors import Unfit, UserError
from bulkprobe.nn.gene_graph import normalised, spread
from bulkprobe.nn.samples import Sample, Samples
from bulkprobe.nn.waves import ABSENT, HIGHEST, frequencies, polynomials, wave_coefficients, waves
from bulkprobe.preprocess.vocabulary import align, gene_names
from bulkprobe.untrained import bulkformer as untrained

GENES = made_genes(160, 4)  # of the cohort; the vocabulary also has 20 that it does not measure, and lacks 20
VOCABULARY = made_genes(180, 4).iloc[20:]
COUNTS = made_counts(3, len(GENES), 5)
KNOWN = GENES.ensembl_id.isin(set(VOCABULARY.ensembl_id)).to_numpy()
LENGTHS = np.where(KNOWN, GENES.length, 1000.0)  # the stand-ins list the lengths of their own genes alone
CHECKPOINTS = ("original", "latest")
FILE = untrained.ORIGINAL_FILE


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of either family, not to be changed."""
    found = {name: tmp_path_factory.mktemp("bulkformer") / name for name in CHECKPOINTS}
    untrained.write(found["original"], VOCABULARY, 1, width=32, depth=2, heads=4)
    untrained.write(found["latest"], VOCABULARY, 1, family="latest", width=32, heads=4)
    return found


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies of them that a test may damage."""

    def make(name: str) -> Path:
        shutil.copytree(folders[name], tmp_path / name)
        return tmp_path / name

    return make


def start(folder: Path, view: CohortView | None = None, **options: Any) -> Samples:
    return ENCODER.start(view or made_view(GENES, COUNTS), options, Weights(folder, threads=1))


def embed(folder: Path, genes: pd.DataFrame = GENES, counts: np.ndarray = COUNTS, **options: Any) -> np.ndarray:
    view = made_view(genes, counts)
    return start(folder, view, **options).embed(counts, view.obs)


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Load a torch file's dictionary, let `edit` change it, and write it again."""
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


# ---- upstream's numbers -------------------------------------------------------------------------------------------


def golden_cases(shared: Path) -> list[Path]:
    return sorted(path.parent for path in (shared / "golden/bulkformer").glob("*/case.json"))


def golden_view(folder: Path) -> tuple[CohortView, np.ndarray]:
    genes = pd.read_csv(folder / "genes.tsv", sep="\t")
    counts = np.load(folder / "counts.npz")["counts"].astype(np.float32)
    return made_view(genes, counts), counts


@pytest.mark.shared
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "embedding"),
        ({"pooling": "mean"}, "embedding"),
        ({"positions": "all"}, "embedding_mean_all"),
        ({"pooling": "max"}, "embedding_max_valid"),
        ({"pooling": "median"}, "embedding_median_valid"),
    ],
)
def test_embeddings_are_upstreams(shared: Path, options: dict[str, str], key: str) -> None:
    cases = golden_cases(shared)
    assert cases
    for folder in cases:
        view, counts = golden_view(folder)
        found = start(folder / "checkpoint", view, **options).embed(counts, view.obs)
        error = np.abs(found - np.load(folder / "expected.npz")[key])
        assert error[:, :-3].max() < 1e-5
        # Upstream averages thousands of equal float32 values one after the other.
        assert error[:, -3:].max() < 2e-4


@pytest.mark.shared
def test_input_and_intermediates_are_upstreams(shared: Path) -> None:
    for folder in golden_cases(shared):
        view, counts = golden_view(folder)
        expected = np.load(folder / "expected.npz")
        checkpoint = read_checkpoint(folder / "checkpoint")
        names = gene_names(view.var, "ensembl")
        found = align(names, {name: i for i, name in enumerate(checkpoint.names)}, "all")
        x = np.stack([log_tpm(row, found, checkpoint.per_kilobase(names)) for row in counts])
        np.testing.assert_allclose(x, expected["input_values"], rtol=0, atol=1e-6)
        first = torch.from_numpy(x[0])
        hidden = checkpoint.network(first).numpy()
        width = hidden.shape[1]
        np.testing.assert_allclose(hidden, expected["s0_final_hidden"][:, :width], rtol=0, atol=1e-5)
        np.testing.assert_allclose(summary(x[0]), expected["s0_final_hidden"][0, width:], rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            checkpoint.network.gene_tokens[:64].numpy(), expected["gene_emb_proj"], rtol=0, atol=1e-5
        )
        waved = waves(first[:64], checkpoint.network.frequencies).numpy()
        np.testing.assert_allclose(waved, expected["s0_expr_emb"], rtol=0, atol=1e-5)


# ---- what enters the network --------------------------------------------------------------------------------------


def read(folder: Path, genes: pd.DataFrame, counts: np.ndarray) -> np.ndarray:
    """The value of each gene of the vocabulary, of one sample."""
    checkpoint = read_checkpoint(folder)
    names = gene_names(genes, "ensembl")
    found = align(names, {name: i for i, name in enumerate(checkpoint.names)}, "all")
    return log_tpm(counts, found, checkpoint.per_kilobase(names))


def test_absent_genes_are_marked_and_measured_zeros_are_zero(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        x = pd.Series(read(folder, GENES, COUNTS[0]), index=read_checkpoint(folder).names)
        zero = dict(zip(GENES.ensembl_id, COUNTS[0] == 0, strict=True))
        assert set(x.index[x == ABSENT]) == set(VOCABULARY.ensembl_id) - set(GENES.ensembl_id)
        assert set(x.index[x == 0]) == {gene for gene in x.index if zero.get(gene, False)}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tpm_are_taken_over_all_genes_of_the_input_or_over_those_of_the_vocabulary(
    folders: dict[str, Path], name: str
) -> None:
    x = read(folders[name], GENES, COUNTS[0])
    total = np.expm1(x[x > 0].astype(np.float64)).sum()
    rates = COUNTS[0] / LENGTHS
    outside = rates[~KNOWN].sum() / rates.sum() if name == "original" else 0.0
    assert outside > 0.01 or name == "latest"
    assert total == pytest.approx(1e6 * (1 - outside), rel=1e-5)


def test_a_gene_without_a_length_counts_as_a_thousand_bp(copy: Callable[[str], Path]) -> None:
    folder = copy("original")
    path = folder / "data/gene_length_df.csv"
    table = pd.read_csv(path)
    table[table.ensg_id != GENES.ensembl_id[30]].to_csv(path, index=False)
    lengths = LENGTHS.copy()
    lengths[30] = 1000.0
    rates = COUNTS[0] / lengths
    expected = dict(zip(GENES.ensembl_id, np.log1p(1e6 * rates / rates.sum()), strict=True))
    x = dict(zip(read_checkpoint(folder).names, read(folder, GENES, COUNTS[0]), strict=True))
    for gene in GENES.ensembl_id[KNOWN]:
        assert x[gene] == pytest.approx(expected[gene], abs=1e-6)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_rows_of_one_gene_add_up_and_versions_are_cut_off(folders: dict[str, Path], name: str) -> None:
    genes = pd.concat([GENES, GENES.iloc[[40]]], ignore_index=True)
    genes["ensembl_id"] = genes.ensembl_id + ".7"
    counts = np.concatenate([COUNTS, np.full((3, 1), 10.0, np.float32)], axis=1)
    counts[:, 40] += 5
    whole = COUNTS.copy()
    whole[:, 40] += 15
    np.testing.assert_allclose(embed(folders[name], genes, counts), embed(folders[name], counts=whole), atol=1e-5)


def test_the_three_numbers_of_a_sample_count_absent_genes_as_not_zero() -> None:
    x = np.array([ABSENT, 0.0, 2.0, 4.0], np.float32)
    np.testing.assert_allclose(summary(x), [0.25, 2.0, 0.75])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tpm_may_be_given_instead_of_counts(folders: dict[str, Path], name: str) -> None:
    genes = VOCABULARY.iloc[:140].reset_index(drop=True)  # so that both ways divide by the same sum
    counts = made_counts(2, 140, 6)
    view = made_view(genes, counts)
    session = start(folders[name], view, input="tpm")
    assert session.layer == "tpm"
    found = session.embed(tpm_of(counts, genes), view.obs)
    np.testing.assert_allclose(found, embed(folders[name], genes, counts), atol=1e-5)
    only_tpm = CohortView(genes, view.obs, "tpm")
    assert start(folders[name], only_tpm, input="tpm").layer == "X"
    with pytest.raises(Unfit, match="set input=tpm"):
        start(folders[name], only_tpm)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_pooling_runs_over_the_positions_asked_for(folders: dict[str, Path], name: str) -> None:
    network = read_checkpoint(folders[name]).network
    x = torch.from_numpy(read(folders[name], GENES, COUNTS[0]))
    hidden = network(x).numpy()
    rows = {"measured": x.numpy() != ABSENT, "all": np.ones(len(x), bool), "expressed": x.numpy() > 0}
    for positions, chosen in rows.items():
        for pooling, function in (("mean", np.mean), ("max", np.max), ("median", np.median)):
            found = embed(folders[name], counts=COUNTS[:1], pooling=pooling, positions=positions)[0]
            np.testing.assert_allclose(found[: hidden.shape[1]], function(hidden[chosen], axis=0), atol=1e-5)


def test_tokens_are_the_measured_genes_with_their_values(folders: dict[str, Path]) -> None:
    tokens = start(folders["original"]).tokens(COUNTS[0], Sample("S0", 0))
    assert tokens.columns.tolist() == np.flatnonzero(KNOWN).tolist()
    assert ((tokens.values > 0) == (COUNTS[0][KNOWN] > 0)).all()


def test_the_store_is_told_what_was_done(folders: dict[str, Path]) -> None:
    attributes = start(folders["latest"], pooling="max").attributes
    assert attributes["family"] == "latest"
    assert attributes["pooling"] == "max"
    assert attributes["genes_of_model"] == 160
    assert attributes["genes_matched"] == 140
    assert attributes["probe_transform"] == {"kind": "none"}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_half_precision_stays_near(folders: dict[str, Path], name: str) -> None:
    view = made_view(GENES, COUNTS)
    half = ENCODER.start(view, {}, Weights(folders[name], precision="bfloat16", threads=1)).embed(COUNTS, view.obs)
    assert 0 < np.abs(half - embed(folders[name])).max() < 0.1


def test_gene_vectors_stand_in_the_vocabularys_order(folders: dict[str, Path]) -> None:
    names, vectors = gene_vectors(folders["latest"])
    assert names == sorted(VOCABULARY.ensembl_id)
    np.testing.assert_allclose(np.sqrt((vectors**2).mean(axis=1)), 1.0, rtol=1e-5)
    assert gene_vectors(folders["original"])[1].shape == (160, 32)


@pytest.mark.parametrize(("width", "base"), [(640, 100.0), (128, 100.0), (16, 0.1)])
def test_polynomials_of_expression_are_its_waves(width: int, base: float) -> None:
    x = torch.cat([torch.linspace(0, HIGHEST, 999), torch.tensor([ABSENT])])
    by_hand = frequencies(width, base).double()
    exact = waves(x.double(), by_hand)
    coefficients = wave_coefficients(by_hand)
    assert len(coefficients) < 30 or base < 1  # higher frequencies need higher powers
    found = polynomials(x, len(coefficients) - 1).double() @ coefficients
    np.testing.assert_allclose(found.numpy(), exact.numpy(), atol=2e-7)  # as near as float32 itself comes
    assert (found[-1] == 0).all()


# ---- the graph ----------------------------------------------------------------------------------------------------


def test_messages_are_weighed_by_what_both_genes_receive() -> None:
    # Gene 0 hears 1 (weight 2) and 2 (weight 2); 1 hears 0 (weight 9); 2 hears nobody, so 0 does not hear it either.
    graph = normalised(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0]), torch.tensor([2.0, 2.0, 9.0]), 3)
    expected = [[0, 2 / np.sqrt(4 * 9), 0], [9 / np.sqrt(9 * 4), 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(graph.to_dense().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(spread(graph, torch.eye(3)).numpy(), expected, rtol=1e-6)


def test_the_original_graphs_first_row_hears_its_second(copy: Callable[[str], Path]) -> None:
    folder = copy("original")
    before = embed(folder)
    torch.save(torch.load(folder / "data/G_tcga.pt", weights_only=True).flip(0), folder / "data/G_tcga.pt")
    assert np.abs(embed(folder) - before).max() > 1e-3


# ---- the files ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_without_the_prefix_of_parallel_training_is_the_same(copy: Callable[[str], Path]) -> None:
    folder = copy("original")
    before = embed(folder)
    state = torch.load(folder / FILE, weights_only=True)
    (folder / FILE).unlink()
    bare = OrderedDict((name.removeprefix("module."), value) for name, value in state.items())
    torch.save(bare, folder / "model/bulkformer_37M.pt")
    assert (embed(folder) == before).all()


def test_latest_is_found_where_upstreams_own_folders_have_it(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["latest"], tmp_path / "model/bulkformer-latest")
    assert read_checkpoint(tmp_path).latest


def test_the_old_copy_of_the_vocabulary_with_its_stray_row_is_read(copy: Callable[[str], Path]) -> None:
    folder = copy("original")
    before = embed(folder)
    path = folder / "data/bulkformer_gene_info.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:5], "x,35991,protein_coding,1,,", *lines[5:]]), encoding="utf-8")
    assert (embed(folder) == before).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("module.layernorm.bias"), "missing: norm_out.bias"),
        (lambda s: s.pop("module.gene_emb_onehot_layer.weight"), "lacks the tensor that becomes genes"),
        (lambda s: s.update({"module.high_var_gene": torch.zeros(1)}), "does not have: high_var_gene"),
        (lambda s: s.update({"module.layernorm.bias": torch.zeros(5)}), r"norm_out.bias is \(5,\), expected \(32,\)"),
        (
            lambda s: s.update({"module.gb_formers.0.f.1.proj_updater.instance.layers.0.0.norm.bias": torch.ones(32)}),
            "two versions of one tensor",
        ),
        (lambda s: [s.pop(k) for k in list(s) if ".f.0." in k], "has layers 1"),
        (lambda s: s.update({"module.x_proj.0.bias": "text"}), "no table of tensors"),
        (lambda s: s["module.expr_emb.inv_freq"].fill_(1e9), "inv_freq has values beyond 100"),
        (lambda s: s["module.expr_emb.inv_freq"].fill_(np.nan), "inv_freq has values beyond 100"),
        (
            lambda s: [s.update({k: torch.ones(5, 5)}) for k in list(s) if k.endswith("projection_matrix")],
            "heads of width 5 do not divide the attention's width 32",
        ),
    ],
)
def test_a_checkpoint_that_is_not_the_model_is_refused(
    copy: Callable[[str], Path], edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = copy("original")
    change(folder / FILE, edit)
    with pytest.raises(UserError, match=message):
        read_checkpoint(folder)


def save(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (FILE, Path.unlink, "has none of model/"),
        ("data/G_tcga.pt", Path.unlink, "G_tcga.pt is missing"),
        ("data/G_tcga.pt", save(torch.zeros(3, 4)), "expected one tensor"),
        ("data/G_tcga.pt", save(torch.tensor([[0, 900], [1, 2]])), "has 2 edges: one weight each"),
        ("data/G_tcga_weight.pt", save([1.0]), "weight.pt is list"),
        ("data/G_tcga_weight.pt", save(-torch.ones(1560)), "weights that are not positive"),
        ("data/bulkformer_gene_info.csv", lambda p: p.write_text("ensg_id\nENSG1\n"), "1 different genes in 1 rows"),
        ("data/bulkformer_gene_info.csv", lambda p: p.write_text("gene\nENSG1\n"), "has no columns ensg_id"),
        ("data/gene_length_df.csv", lambda p: p.write_text("gene\nENSG1\n"), "has no columns ensg_id, length"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    copy: Callable[[str], Path], name: str, edit: Callable[[Path], None], message: str
) -> None:
    folder = copy("original")
    edit(folder / name)
    with pytest.raises(UserError, match=message):
        read_checkpoint(folder)


def test_a_graph_of_another_vocabulary_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("original")
    graph = torch.load(folder / "data/G_tcga.pt", weights_only=True)
    graph[0, 3] = 160
    torch.save(graph, folder / "data/G_tcga.pt")
    with pytest.raises(UserError, match="names gene 160 where the vocabulary has 160 genes"):
        read_checkpoint(folder)


def set_config(folder: Path, **settings: Any) -> None:
    """Change the configuration in both places that state it; None takes a setting away."""

    def edit(config: dict[str, Any]) -> None:
        config.update(settings)
        for key in [key for key, value in settings.items() if value is None]:
            del config[key]

    change(folder / "model.pt", lambda content: edit(content["model_config"]))
    content = json.loads((folder / "model_config.json").read_text())
    edit(content["model"])
    (folder / "model_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "3 heads of width 8 do not make the width 32"),
        ({"mask_value": 0.0}, "mask_value is 0.0, expected -10.0"),
        ({"gated": True}, "unknown: gated, missing: none"),
        ({"expression_base": None}, "unknown: none, missing: expression_base"),
    ],
)
def test_a_latest_configuration_that_is_not_understood_is_refused(
    copy: Callable[[str], Path], settings: dict[str, Any], message: str
) -> None:
    folder = copy("latest")
    set_config(folder, **settings)
    with pytest.raises(UserError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("model_config.json", lambda p: p.write_text("{"), "is no JSON"),
        ("model_config.json", lambda p: p.write_text('{"model": {}}'), "disagree about the configuration"),
        ("gene_vocab.csv", lambda p: p.write_text("vocab_index\n0\n"), "is no vocabulary as released"),
        (
            "gene_vocab.csv",
            lambda p: p.write_text("vocab_index,canonical_ensg,gene_length_bp\n0,ENSG1,10\n"),
            "lists 1 genes in 1 rows, the checkpoint has 160",
        ),
        ("gene_vocab.csv", lambda p: pd.read_csv(p).assign(gene_length_bp=0).to_csv(p), "genes without a length"),
        ("model.pt", lambda p: change(p, lambda c: c.update(architecture="V2")), "is of architecture 'V2'"),
        ("model.pt", lambda p: change(p, lambda c: c.pop("model")), "has no 'model'"),
        ("model.pt", lambda p: change(p, lambda c: c["model"].pop("gene_embedding.weight")), "that becomes genes"),
        ("model.pt", lambda p: change(p, lambda c: c["model"].pop("expression_scale")), "missing: expression_scale"),
        ("edge_weight.pt", Path.unlink, "edge_weight.pt is missing"),
    ],
)
def test_latest_files_that_do_not_fit_are_refused(
    copy: Callable[[str], Path], name: str, edit: Callable[[Path], None], message: str
) -> None:
    folder = copy("latest")
    edit(folder / name)
    with pytest.raises(UserError, match=message):
        read_checkpoint(folder)


def test_latest_makes_expression_louder_the_fewer_genes_are_measured(copy: Callable[[str], Path]) -> None:
    folder = copy("latest")
    before = embed(folder)
    set_config(folder, mask_ratio_scaling_enabled=False)
    assert np.abs(embed(folder) - before).max() > 1e-4  # 140 of 160 genes: 0.9 / 0.875
    set_config(folder, mask_ratio_scaling_enabled=True, mask_ratio_reference=0.125)
    set_config(folder, mask_ratio_max_scale=1.0)
    whole = embed(folder)
    set_config(folder, mask_ratio_scaling_enabled=False)
    np.testing.assert_allclose(embed(folder), whole, atol=1e-6)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("original", FILE),
        ("original", "data/G_tcga.pt"),
        ("original", "data/G_tcga_weight.pt"),
        ("latest", "model.pt"),
        ("latest", "edge_index.pt"),
        ("latest", "edge_weight.pt"),
    ],
)
def test_nothing_in_a_file_is_run(copy: Callable[[str], Path], tmp_path: Path, family: str, name: str) -> None:
    folder = copy(family)
    torch.save({"x": Trap(tmp_path / "sprung")}, folder / name)
    with pytest.raises(UserError, match="nothing in it was run"):
        read_checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "cls"}, "option pooling is 'cls', expected one of published, mean, max, median"),
        ({"positions": "some"}, "option positions is 'some'"),
        ({"input": "fpkm"}, "option input is 'fpkm'"),
        ({"layer": 1}, "has no option layer"),
        ({"min_coverage": 0.99}, "knows 140 of 160 genes"),
    ],
)
def test_options_that_do_not_exist_are_refused(folders: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(folders["original"], **options)


def test_other_genes_scales_and_no_weights_are_refused(folders: dict[str, Path]) -> None:
    symbols = GENES.assign(ensembl_id=GENES.symbol)
    with pytest.raises(Unfit, match="it reads Ensembl gene ids"):
        start(folders["original"], made_view(symbols, COUNTS))
    with pytest.raises(Unfit, match="cannot read expression on the scale 'zscore'"):
        start(folders["original"], made_view(GENES, COUNTS, "zscore"))
    with pytest.raises(UserError, match="needs weights"):
        ENCODER.start(made_view(GENES, COUNTS), {}, None)


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.fill(0), "sample S0: none of the genes that bulkformer knows is expressed"),
        (lambda c: c.__setitem__((0, KNOWN), 0), "none of the genes that bulkformer knows"),
    ],
)
def test_samples_that_cannot_be_embedded_are_refused(
    folders: dict[str, Path], name: str, spoil: Callable[[np.ndarray], None], message: str
) -> None:
    view = made_view(GENES, COUNTS[:1])
    counts = COUNTS[:1].copy()
    spoil(counts)
    with pytest.raises(UserError, match=message):
        start(folders[name], view).embed(counts, view.obs)


def test_more_than_a_million_tpm_are_refused(folders: dict[str, Path]) -> None:
    view = made_view(GENES, COUNTS)
    with pytest.raises(UserError, match="sample S0: it has 2e\\+06 TPM of a gene"):
        start(folders["latest"], view, input="tpm").embed(np.full_like(COUNTS, 2e6), view.obs)


# ---- the card, and checkpoints that have learned nothing ----------------------------------------------------------


def test_every_file_of_a_release_can_be_fetched_and_the_width_is_that_of_its_vectors() -> None:
    assert [release.name for release in CARD.releases] == ["147M", "127M", "93M", "50M", "37M", "latest"]
    assert [release.width for release in CARD.releases] == [643, 643, 515, 259, 131, 768]
    for release in CARD.releases:
        assert all(file.urls for file in release.files)
        assert all(file.sha256 is None or len(file.sha256) == 64 for file in release.files)
    assert all(file.sha256 and file.bytes for file in CARD.release("latest").files)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_writing_twice_gives_the_same_bytes(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    untrained.write(tmp_path, VOCABULARY, 1, family=name, width=32, depth=2, heads=4)
    for path in sorted(path for path in folders[name].rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(folders[name])).read_bytes(), path.name


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_twin_keeps_vocabulary_and_graph_and_draws_the_rest(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    untrained.twin(folders[name], tmp_path / "twin", 8)
    learned = {"model.pt", "manifest.json", Path(FILE).name}
    for path in (path for path in folders[name].rglob("*") if path.is_file() and path.name not in learned):
        assert path.read_bytes() == (tmp_path / "twin" / path.relative_to(folders[name])).read_bytes()
    before, after = read_checkpoint(folders[name]).network, read_checkpoint(tmp_path / "twin").network
    old, new = before.state_dict(), after.state_dict()
    assert torch.equal(before.frequencies, after.frequencies)
    fixed = {"frequencies", "expression_scale"}
    assert all(old[key].shape == new[key].shape and not torch.equal(old[key], new[key]) for key in set(old) - fixed)
    assert np.abs(embed(folders[name]) - embed(tmp_path / "twin")).max() > 0.1


def test_sizes_of_a_stand_in_can_be_chosen(tmp_path: Path) -> None:
    untrained.write(tmp_path, VOCABULARY, 1, width=128, depth=3, blocks=2, most_genes=50)
    network = read_checkpoint(tmp_path).network
    assert network.genes.shape == (50, 128)
    assert [len(block.performers) for block in network.blocks] == [3, 3]
    assert network.blocks[0].performers[0].projection.shape == (44, 16)  # as the 37M release has it
