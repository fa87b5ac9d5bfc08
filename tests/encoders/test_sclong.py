from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.encoders.sclong import (
    ENCODER,
    GENE2VEC,
    GENES,
    SETTINGS,
    TENSORS_FILE,
    Config,
    GeneTable,
    Stack,
    gene_vectors,
    load,
    tokenise,
)
from bulkprobe.errors import UserError
from bulkprobe.nn.files import PLAIN, TENSORS, read_pickle
from bulkprobe.nn.samples import Sample
from bulkprobe.preprocess.vocabulary import align
from bulkprobe.untrained import sclong as untrained
from encoders.made import made_counts, made_genes, made_view

N = 60
SIZES: dict[str, Any] = {"width": 8, "large_width": 12, "mini": (1, 2, 6), "large": (2, 3, 6), "decoder": (1, 2, 6)}
TABLE = made_genes(N, 1)
COUNTS = made_counts(3, N, 2)
SAMPLE = Sample("S0", 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sclong")
    untrained.write(folder, TABLE, 3, **SIZES)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "checkpoint"))


def embed(folder: Path, genes: pd.DataFrame = TABLE, counts: np.ndarray = COUNTS, **options: Any) -> np.ndarray:
    view = made_view(genes, counts)
    return ENCODER.start(view, options, Weights(folder, threads=1)).embed(counts, view.obs)


def change_settings(folder: Path, **changes: Any) -> None:
    settings = read_pickle(folder / SETTINGS, PLAIN | TENSORS) | changes
    (folder / SETTINGS).write_bytes(pickle.dumps({k: v for k, v in settings.items() if v is not ...}))


def change_state(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    content = torch.load(folder / TENSORS_FILE, weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, folder / TENSORS_FILE)


# What upstream computes, on its own released layout


def golden(shared: Path) -> list[Path]:
    cases = sorted(path.parent for path in (shared / "golden" / "sclong").rglob("case.json"))
    assert cases
    return cases


def golden_view(case: Path) -> tuple[CohortView, np.ndarray]:
    counts = np.load(case / "counts.npz")["counts"].astype(np.float32)
    return made_view(pd.read_csv(case / "genes.tsv", sep="\t"), counts), counts


@pytest.mark.shared
@pytest.mark.parametrize(("options", "array"), [({}, "embedding"), ({"positions": "expressed"}, "embedding_expressed")])
def test_embeddings_are_upstreams(shared: Path, options: dict[str, str], array: str) -> None:
    for case in golden(shared):
        view, counts = golden_view(case)
        found = ENCODER.start(view, options, Weights(case / "checkpoint", threads=1)).embed(counts, view.obs)
        expected = np.load(case / "expected.npz")[array]
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


@pytest.mark.shared
def test_every_step_is_upstreams(shared: Path) -> None:
    for case in golden(shared):
        expected = np.load(case / "expected.npz")
        view, counts = golden_view(case)
        session = ENCODER.start(view, {}, Weights(case / "checkpoint", threads=1))
        for row, wanted in zip(counts, expected["input_values"], strict=True):
            tokens = session.tokens(row, SAMPLE)
            vocabulary = (case / "checkpoint" / GENES).read_text().split()
            found = dict(zip(view.var.ensembl_id.to_numpy()[tokens.columns], tokens.values, strict=True))
            np.testing.assert_allclose([found.get(gene, 0.0) for gene in vocabulary], wanted[:-1], atol=1e-6)
            np.testing.assert_array_equal([gene in found for gene in vocabulary], expected["valid_position_mask"][:-1])

        config, model = load(case / "checkpoint")
        seen: dict[str, np.ndarray] = {}

        def keep(name: str, seen: dict[str, np.ndarray] = seen) -> Callable[..., None]:
            return lambda _, given, states: seen.__setitem__(name, states.numpy().copy())

        model.value_out.register_forward_hook(keep("s0_token_emb"))
        model.value_norm.register_forward_hook(keep("s0_token_norm"))
        model.large_norm.register_forward_hook(keep("s0_large_in"))
        model.large[-1].register_forward_hook(keep("s0_large_out"))
        model.from_large_norm.register_forward_hook(keep("s0_top_encodings"))
        model.mini[-1].register_forward_hook(keep("s0_left_encodings"))
        merged = keep("s0_merged_encodings")
        model.decoder[0].register_forward_pre_hook(lambda _, given, merged=merged: merged(_, given, given[0]))
        values = torch.from_numpy(expected["input_values"][0])
        top = values.topk(config.top).indices
        with torch.inference_mode():
            seen["s0_merged_decodings"] = model(values, top).numpy()
        seen["go_conv"] = (model.genes.double() - model.table.own).numpy()
        np.testing.assert_array_equal(top, expected["s0_top_indices"])
        for name, found in seen.items():
            wanted = expected[name]
            np.testing.assert_allclose(found[: len(wanted)], wanted, rtol=0, atol=2e-5, err_msg=name)


def test_embeddings_are_upstreams_on_a_checkpoint_of_ours(tmp_path: Path) -> None:
    record = json.loads((Path(__file__).parent / "evidence" / "sclong.json").read_text())
    for i, case in enumerate(record["cases"]):
        genes = made_genes(**case["genes"])
        view = made_view(genes, made_counts(case["counts"]["n_samples"], len(genes), case["counts"]["seed"]))
        untrained.write(tmp_path / str(i), genes, **case["writer"])
        session = ENCODER.start(view, case["options"], Weights(tmp_path / str(i), threads=1))
        found = session.embed(next(iter(view.read(session.layer))), view.obs)
        np.testing.assert_allclose(found, case["embedding"], rtol=0, atol=case["tolerance"])


# The rules at the edges


def test_all_genes_count_in_the_library_size_and_absent_ones_are_zero() -> None:
    genes = align(["B", "other", "A"], {"A": 0, "B": 1, "C": 2}, "last")
    found = tokenise(np.array([30, 60, 10], np.float32), genes)
    np.testing.assert_allclose(found, np.log1p([1000.0, 3000.0, 0.0]), rtol=1e-6)


def test_of_a_gene_that_stands_twice_the_last_column_is_read(written: Path) -> None:
    twice = pd.concat([TABLE.iloc[:1], TABLE], ignore_index=True)
    counts = np.concatenate([COUNTS[:, ::-1][:, :1] * 0, COUNTS], axis=1)
    np.testing.assert_allclose(embed(written, twice, counts), embed(written), atol=1e-6)
    tokens = ENCODER.start(made_view(twice, counts), {}, Weights(written)).tokens(counts[0], SAMPLE)
    np.testing.assert_array_equal(tokens.columns, np.arange(1, N + 1))


def test_versions_of_ensembl_ids_are_cut_off(written: Path) -> None:
    versioned = TABLE.assign(ensembl_id=TABLE.ensembl_id + ".7")
    np.testing.assert_array_equal(embed(written, versioned), embed(written))


def test_absent_genes_are_read_as_zeros_but_not_pooled(written: Path) -> None:
    kept = np.arange(N) < 40
    part = embed(written, TABLE[kept].reset_index(drop=True), COUNTS[:, kept])
    _, model = load(written)
    values = np.append(np.log1p(COUNTS[0] * kept * (1e4 / COUNTS[0][kept].sum())), 0).astype(np.float32)
    logged = torch.from_numpy(values)
    with torch.inference_mode():
        states = model(logged, logged.topk(9).indices).numpy()
    np.testing.assert_allclose(part[0], states[:40].mean(0), atol=1e-5)
    others = {"all": states[:N].mean(0), "expressed": states[values > 0].mean(0)}
    for positions, wanted in others.items():
        found = embed(written, TABLE[kept].reset_index(drop=True), COUNTS[:, kept], positions=positions)
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)
        assert np.abs(found - part).max() > 1e-3


def test_published_is_the_mean_and_the_other_poolings_differ(written: Path) -> None:
    np.testing.assert_array_equal(embed(written), embed(written, pooling="mean"))
    for other in ("max", "median"):
        assert np.abs(embed(written, pooling=other) - embed(written)).max() > 1e-3


def test_the_values_decide_which_encoder_reads_a_gene(written: Path) -> None:
    config, model = load(written)
    logged = torch.linspace(8, 0, config.positions)
    read: dict[str, int] = {}
    model.large[0].register_forward_pre_hook(lambda _, given: read.update(large=len(given[0])))
    model.mini[0].register_forward_pre_hook(lambda _, given: read.update(mini=len(given[0])))
    with torch.inference_mode():
        model(logged, logged.topk(config.top).indices)
    assert (config.top, read) == (9, {"large": 9, "mini": N + 1 - 9})


def test_gene_vectors_are_passed_along_edges_from_source_to_target() -> None:
    stack = Stack(1, 1, 4)
    table = GeneTable(Config(4, 1, 1, 1, 2, stack, stack, stack)).requires_grad_(False)
    table.own, table.sources = torch.tensor([[0.5], [0], [0], [0]]), torch.tensor([[-1.0], [10.0], [100.0], [1000.0]])
    for layer, (weight, bias) in zip(table.layers, [(2.0, 0.25), (3.0, -1.0)], strict=True):
        layer.weight.fill_(weight), layer.bias.fill_(bias)
    found = table(torch.tensor([[0, 0, 1, 2], [0, 1, 1, 0]]), torch.tensor([1.0, 0.5, 1.5, 3.0]))
    # Gene 0 hears itself, gene 1 hears 0 and itself. Nobody reaches gene 2, so what it sends counts for nothing.
    matrix = np.array([[1 / 4, 0, 0, 0], [0.5 / 8**0.5, 1.5 / 2, 0, 0], [0] * 4, [0] * 4])
    first = matrix @ [-1, 10, 100, 1000] * 2 + 0.25
    np.testing.assert_allclose(found[:, 0], matrix @ np.maximum(first, 0) * 3 - 1 + [0.5, 0, 0, 0], rtol=1e-6)


def test_bfloat16_is_near_float32(written: Path) -> None:
    view = made_view(TABLE, COUNTS)
    half = ENCODER.start(view, {}, Weights(written, precision="bfloat16", threads=1)).embed(COUNTS, view.obs)
    assert 0 < np.abs(half - embed(written)).max() < 0.05


def test_tpm_are_read_where_asked_for(written: Path) -> None:
    view = made_view(TABLE, COUNTS)
    session = ENCODER.start(view, {"input": "tpm"}, Weights(written))
    assert (session.layer, session.attributes["input_layer"]) == ("tpm", "tpm")
    with pytest.raises(UserError, match="encoder sclong cannot read expression on the scale 'zscore': it needs counts"):
        ENCODER.start(made_view(TABLE, COUNTS, "zscore"), {}, Weights(written))


def test_the_store_says_how_the_vectors_came_about(written: Path) -> None:
    found = ENCODER.start(made_view(TABLE, COUNTS), {}, Weights(written)).attributes
    wanted = {"gene_coverage": 1.0, "target_sum": 1e4, "pooling": "mean", "positions": "measured"}
    assert wanted.items() <= found.items()
    assert (found["large_encoder_reads"], found["probe_transform"]) == (9, {"kind": "none"})


def test_a_sample_that_cannot_be_embedded_is_named(written: Path) -> None:
    stranger = pd.concat([TABLE, TABLE.iloc[:1].assign(ensembl_id="ENSG99999999999")], ignore_index=True)
    counts = np.concatenate([COUNTS, [[5], [5], [5]]], axis=1).astype(np.float32)
    view = made_view(stranger, counts)
    session = ENCODER.start(view, {}, Weights(written, threads=1))
    counts[1, :-1] = 0
    with pytest.raises(UserError, match="sample S1: none of the 60 genes that scLong knows is expressed"):
        session.embed(counts, view.obs)
    counts[1] = 0
    with pytest.raises(UserError, match="sample S1: it has no reads at all"):
        session.embed(counts, view.obs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "cls"}, "option pooling is 'cls', expected one of published, mean, max, median"),
        ({"positions": "some"}, "option positions is 'some', expected one of measured, all, expressed"),
        ({"top": 3}, "encoder sclong has no option top"),
    ],
)
def test_options_that_do_not_exist_are_refused(written: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        embed(written, **options)


def test_genes_of_another_kind_are_refused(written: Path) -> None:
    with pytest.raises(UserError, match=r"encoder sclong knows 0 of 60 genes .* it reads Ensembl gene ids"):
        embed(written, TABLE.assign(ensembl_id=TABLE.symbol))
    with pytest.raises(UserError, match="encoder sclong needs weights"):
        ENCODER.start(made_view(TABLE, COUNTS), {})


# Checkpoints that do not fit


def test_all_tensors_that_do_not_fit_are_named_at_once(folder: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        del state["decode_norm.bias"]
        state["large_to_base.weight"] = torch.zeros(3, 4)

    change_state(folder, spoil)
    with pytest.raises(
        UserError, match=r"missing: decoder_norm\.bias; of another shape: from_large\.weight is \(3, 4\)"
    ):
        embed(folder)


def test_a_tensor_that_no_rule_knows_is_refused(folder: Path) -> None:
    change_state(folder, lambda state: state.update({"large_encoder.net.layers.0.0.fn.to_q.bias": torch.zeros(18)}))
    with pytest.raises(
        UserError, match=r"tensors that this model does not have: large_encoder\.net\.layers\.0\.0\.fn\.to_q"
    ):
        embed(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_seq_len": ..., "dec_heads": 0}, "gives no size for top_seq_len, dec_heads"),
        ({"top_seq_len": N + 1}, f"top_seq_len {N + 1} leaves none of {N + 1} positions to the small encoder"),
        ({"mask_token_thres": 0}, "sets mask_token_thres to 0: that is not the released model"),
        ({"generalized_attention": True}, "sets generalized_attention to True: that is not the released model"),
        ({"G_go": None}, r"has no gene graph G_go \(2, n\) and G_go_weight \(n,\)"),
        ({"G_go": torch.full((2, 1), N + 1), "G_go_weight": torch.ones(1)}, f"names positions outside 0 to {N}"),
        ({"max_seq_len": N + 2}, rf"table\.own is \({N + 1}, 8\), expected \({N + 2}, 8\)"),
    ],
)
def test_settings_of_another_model_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_settings(folder, **changes)
    with pytest.raises(UserError, match=message):
        embed(folder)


def test_settings_that_are_none_are_refused(folder: Path) -> None:
    (folder / SETTINGS).write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="holds no settings: expected the constructor's arguments as released"):
        embed(folder)


def test_a_gene_list_of_another_release_is_refused(folder: Path) -> None:
    genes = (folder / GENES).read_text()
    (folder / GENES).write_text(genes + "ENSG99999999999\n")
    with pytest.raises(UserError, match=f"lists {N + 1} genes, expected {N}: the files are of different releases"):
        embed(folder)
    with pytest.raises(UserError, match=f"has no vector for each of the {N + 1} genes"):
        gene_vectors(folder)
    (folder / GENES).write_text(genes + genes)
    with pytest.raises(UserError, match="lists a gene twice"):
        embed(folder)


class Hostile:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('this ran')",)


def test_nothing_in_a_pickle_is_ever_run(folder: Path) -> None:
    (folder / SETTINGS).write_bytes(pickle.dumps({"max_seq_len": Hostile()}))
    with pytest.raises(UserError, match=r"is not a pickle that may be read: it asks for builtins\.exec"):
        embed(folder)


def test_nothing_in_a_storage_inside_a_pickle_is_ever_run(folder: Path) -> None:
    class Smuggled:
        def __reduce__(self) -> Any:
            content = io.BytesIO()
            torch.save(Hostile(), content)
            return torch.storage._load_from_bytes, (content.getvalue(),)

    (folder / SETTINGS).write_bytes(pickle.dumps({"G_go": Smuggled()}))
    with pytest.raises(UserError, match="is not a pickle that may be read: Weights only load failed"):
        embed(folder)


def test_nothing_in_the_tensor_file_is_ever_run(folder: Path) -> None:
    torch.save({"model_state_dict": Hostile()}, folder / TENSORS_FILE)
    with pytest.raises(UserError, match="is not a checkpoint that may be read"):
        embed(folder)


@pytest.mark.parametrize("name", [SETTINGS, TENSORS_FILE, GENES])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        embed(folder)


# Stand-ins and twins


def test_gene_vectors_are_the_genes_own(written: Path) -> None:
    names, vectors = gene_vectors(written)
    assert names == TABLE.ensembl_id.tolist()
    start = np.load(written / GENE2VEC)
    assert vectors.shape == start.shape
    assert np.corrcoef(vectors.ravel(), start.ravel())[0, 1] > 0.9


def test_a_stand_in_is_the_same_bytes_again(written: Path, tmp_path: Path) -> None:
    untrained.write(tmp_path, TABLE, 3, **SIZES)
    for path in written.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_stand_in_has_the_graph_of_its_table(written: Path) -> None:
    table = pd.read_csv(written / untrained.GRAPH)
    kept = table.groupby("target", sort=False).head(10**6).sort_values("importance", ascending=False)
    kept = kept.groupby("target").head(untrained.MOST_LINKS)
    settings = read_pickle(written / SETTINGS, PLAIN | TENSORS)
    names = np.array(TABLE.ensembl_id)[settings["G_go"].numpy()]
    found = {tuple(edge): weight for edge, weight in zip(names.T, settings["G_go_weight"].tolist(), strict=True)}
    assert found.keys() == set(zip(kept.source, kept.target, strict=True))
    assert all(found[gene, gene] == 1 for gene in set(table.source))


def test_a_twin_keeps_the_priors_and_nothing_that_was_learned(written: Path, tmp_path: Path) -> None:
    untrained.twin(written, tmp_path, 4)
    for name in (SETTINGS, GENES, GENE2VEC):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    old, new = (torch.load(f / TENSORS_FILE, weights_only=True)["model_state_dict"] for f in (written, tmp_path))
    assert {name: (t.shape, t.dtype) for name, t in old.items()} == {
        name: (t.shape, t.dtype) for name, t in new.items()
    }
    assert not [name for name in old if "calls" not in name and torch.equal(old[name], new[name])]
    np.testing.assert_array_equal(gene_vectors(tmp_path)[1], np.load(written / GENE2VEC))
    assert np.abs(embed(tmp_path) - embed(written)).max() > 0.1


def test_a_twin_of_files_that_do_not_belong_together_is_refused(folder: Path, tmp_path: Path) -> None:
    np.save(folder / GENE2VEC, np.zeros((N, 3), np.float32))
    with pytest.raises(UserError, match=rf"pos_emb\.emb\.weight is \({N + 1}, 8\), .* with padding \({N + 1}, 3\)"):
        untrained.twin(folder, tmp_path / "twin", 4)
