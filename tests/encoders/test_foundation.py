"""What holds for every model with weights: a vector depends on its sample alone, and nothing in a file is ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import made_counts, made_genes, made_view

from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import CIRCULAR, CohortView, Session, Weights
from bulkprobe.errors import Unfit, UserError
from bulkprobe.nn.samples import Sample
from bulkprobe.untrained import WRITERS, write_twin, write_untrained

EVIDENCE = Path(__file__).parent / "evidence"
GENES = made_genes(320, seed=5)
N = 5
# Fractional counts, as RSEM gives them: exact ties are broken by the order of the genes, and upstream does the same.
COUNTS = np.where(made_counts(N, 320, seed=6) > 0, made_counts(N, 320, seed=6) + np.linspace(0, 0.9, 320), 0).astype(
    np.float32
)
# Options that make the draws and the lengths of a model matter on 320 genes.
SHORT: dict[str, dict[str, Any]] = {"scgpt": {"max_length": 100}, "cellfm": {"max_genes": 90}}
# The vector depends on what the cohort's median library size is, which is fixed here.
FIXED: dict[str, dict[str, Any]] = {"scfoundation": {"target_sum": 50_000.0}}
QUICKLY = settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Start = Callable[..., Session]


@pytest.fixture(scope="module", params=sorted(WRITERS))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(model) / "untrained"
    path.mkdir()
    write_untrained(model, path, GENES, 3)
    return path


@pytest.fixture(scope="module")
def start(model: str, folder: Path) -> Start:
    """Make the model ready, with a cohort given as genes and counts."""

    def run(genes: pd.DataFrame = GENES, counts: np.ndarray = COUNTS, threads: int = 1, **options: Any) -> Session:
        chosen = {**SHORT.get(model, {}), **FIXED.get(model, {}), **options}
        return get_encoder(model).start(made_view(genes, counts), chosen, Weights(folder, threads=threads))

    return run


def obs_of(rows: list[int] | range) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": [f"S{i}" for i in rows]}, index=list(rows))


@pytest.fixture(scope="module")
def vectors(start: Start) -> np.ndarray:
    return start().embed(COUNTS, obs_of(range(N)))


def test_samples_differ_and_are_finite(vectors: np.ndarray) -> None:
    assert np.isfinite(vectors).all()
    assert all(np.abs(vectors[0] - other).max() > 1e-4 for other in vectors[1:])


@QUICKLY
@given(order=st.permutations(range(N)), cut=st.integers(1, N))
def test_bytes_do_not_depend_on_batch_and_order(start: Start, vectors: np.ndarray, order: list[int], cut: int) -> None:
    session = start()
    for rows in (order[:cut], order[cut:]):
        if rows:
            np.testing.assert_array_equal(session.embed(COUNTS[rows], obs_of(rows)), vectors[rows])


def test_bytes_do_not_depend_on_the_number_of_threads(start: Start, vectors: np.ndarray) -> None:
    np.testing.assert_array_equal(start(threads=3).embed(COUNTS, obs_of(range(N))), vectors)


@QUICKLY
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_genes_does_not_matter(start: Start, vectors: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(GENES))
    shuffled = start(GENES.iloc[order].reset_index(drop=True), COUNTS[:, order])
    np.testing.assert_allclose(shuffled.embed(COUNTS[:2, order], obs_of([0, 1])), vectors[:2], atol=2e-5)


@QUICKLY
@given(n=st.integers(1, 60), seed=st.integers(0, 1000))
def test_genes_that_the_model_does_not_know_and_nobody_expresses_do_not_matter(
    start: Start, vectors: np.ndarray, n: int, seed: int
) -> None:
    strange = strange_genes(n)
    places = np.random.default_rng(seed).permutation(len(GENES) + n)
    genes = pd.concat([GENES, strange], ignore_index=True).iloc[places].reset_index(drop=True)
    counts = np.concatenate([COUNTS, np.zeros((N, n), np.float32)], axis=1)[:, places]
    found = start(genes, counts).embed(counts[:2], obs_of([0, 1]))
    np.testing.assert_allclose(found, vectors[:2], atol=2e-5)


def test_the_input_is_left_as_it_was(start: Start) -> None:
    counts = COUNTS.copy()
    counts.setflags(write=False)
    start().embed(counts, obs_of(range(N)))


def test_every_pooling_and_position_gives_another_vector(model: str, start: Start) -> None:
    choices = get_encoder(model).card.choices
    alone = start()
    seen: dict[str, np.ndarray] = {}
    for key in ("pooling", "positions"):
        for value in choices.get(key, ()):
            option = {"pooling": "mean", "positions": value} if key == "positions" else {key: value}
            session = start(**option)
            seen[f"{key}={value}"] = found = session.embed(COUNTS[:1], obs_of([0]))
            assert found.shape == (1, session.width)
            assert np.isfinite(found).all(), (key, value)
    for name in ("pooling=mean", "pooling=max"):
        if name in seen and "pooling=published" in seen and seen[name].shape == seen["pooling=published"].shape:
            published = get_encoder(model).card.pooling.lower()
            if name.removeprefix("pooling=") not in published:
                assert np.abs(seen[name] - seen["pooling=published"]).max() > 1e-4, name
    assert alone.layer == "X"


def test_wrong_options_are_refused(model: str, start: Start) -> None:
    with pytest.raises(UserError, match=f"encoder {model} has no option poling"):
        start(poling="mean")
    with pytest.raises(UserError, match=f"encoder {model}: option pooling is 'average', expected one of published"):
        start(pooling="average")
    with pytest.raises(UserError, match="option min_coverage is 'all'"):
        start(min_coverage="all")


def test_hopeless_input_is_refused_by_name(model: str, start: Start) -> None:
    mouse = pd.DataFrame(
        {
            "ensembl_id": [f"ENSMUSG{i:011d}" for i in range(320)],
            "symbol": [f"Gm{i}" for i in range(320)],
            "length": 1e3,
        }
    )
    with pytest.raises(Unfit, match=f"encoder {model} knows 0 of 320 genes.*min_coverage"):
        start(mouse)


def test_scales_that_are_no_counts_are_refused_by_name(model: str, folder: Path) -> None:
    with pytest.raises(Unfit, match=f"encoder {model} cannot read expression on the scale 'zscore'"):
        get_encoder(model).start(made_view(GENES, COUNTS, "zscore"), {}, Weights(folder))


def test_weights_are_needed(model: str) -> None:
    with pytest.raises(UserError, match=f"encoder {model} needs weights"):
        get_encoder(model).start(made_view(GENES, COUNTS), {}, None)


def test_a_sample_without_any_expression_names_itself(start: Start) -> None:
    counts = COUNTS.copy()
    counts[3] = 0
    session = start(counts=counts)
    try:
        found = session.embed(counts, obs_of(range(N)))
    except UserError as problem:
        assert str(problem).startswith("sample S3: ")  # noqa: PT017 - models that read zeros as tokens can embed it
    else:
        assert np.isfinite(found).all()


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_sample_with_impossible_values_names_itself(start: Start, value: float) -> None:
    counts = COUNTS.copy()
    counts[2, 7] = value
    with pytest.raises(UserError, match="sample S2: its expression has negative, missing or infinite values"):
        start().embed(counts, obs_of(range(N)))


def test_what_enters_the_model_is_told(start: Start) -> None:
    session: Any = start()
    tokens = session.tokens(COUNTS[0], Sample("S0", 0))
    assert len(tokens.columns) == len(tokens.values)
    assert len(set(tokens.columns.tolist())) == len(tokens.columns)
    assert set(tokens.columns.tolist()) <= set(session.known.tolist())


def strange_genes(n: int) -> pd.DataFrame:
    """Genes that no model knows."""
    names = {"ensembl_id": [f"ENSG9{i:010d}" for i in range(n)], "symbol": [f"NOSUCH{i}" for i in range(n)]}
    return pd.DataFrame({**names, "length": 900.0})


@pytest.mark.parametrize("seed", [0, 1])
def test_known_are_the_columns_that_a_match_by_hand_finds(model: str, folder: Path, start: Start, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(GENES) + 40)
    genes = pd.concat([GENES, strange_genes(40)], ignore_index=True).iloc[order].reset_index(drop=True)
    counts = np.concatenate([COUNTS, np.ones((N, 40), np.float32)], axis=1)[:, order]
    session: Any = start(genes, counts)
    names = vocabulary_of(model, folder)
    by_hand = [i for i, gene in enumerate(genes.itertuples()) if gene.ensembl_id in names or gene.symbol in names]
    assert session.known.tolist() == by_hand
    assert set(by_hand) == set(np.flatnonzero(order < len(GENES)))  # in whatever order the genes stand
    assert set(session.tokens(counts[0], Sample("S0", 0)).columns.tolist()) <= set(by_hand)


def vocabulary_of(model: str, folder: Path) -> set[str]:
    from importlib import import_module

    return set(import_module(f"bulkprobe.encoders.{model}").gene_vectors(folder)[0])


# Which columns of a gene that stands twice a model takes, where not all.
ONE_COLUMN = {"cellfm": "first", "scbert": "first", "scfoundation": "first", "sclong": "last", "toy": "first"}


def test_known_follows_the_own_rule_of_a_model_for_a_gene_that_stands_twice(model: str, start: Start) -> None:
    genes = pd.concat([GENES, GENES.iloc[:30]], ignore_index=True)
    session: Any = start(genes, np.concatenate([COUNTS, COUNTS[:, :30]], axis=1))
    left_out = {"first": range(320, 350), "last": range(30)}.get(ONE_COLUMN.get(model, ""), range(0))
    assert session.known.tolist() == sorted(set(range(350)) - set(left_out))
    if session.states is not None:
        with torch.inference_mode():
            columns, states = session.states(np.concatenate([COUNTS[0], COUNTS[0, :30]]), Sample("S0", 0))
        assert len(columns) == len(states)
        assert set(columns.tolist()) <= set(session.known.tolist())


def test_pooling_the_states_gives_the_embedding(model: str, start: Start) -> None:
    choices = get_encoder(model).card.choices
    if "mean" not in choices["pooling"]:
        pytest.skip("this model has no mean over its tokens")
    session: Any = start(pooling="mean", **({"positions": "measured"} if "positions" in choices else {}))
    vectors = session.embed(COUNTS, obs_of(range(N)))
    for row in range(N):
        sample = Sample(f"S{row}", row)
        with torch.inference_mode():
            columns, states = session.states(COUNTS[row], sample)
        assert columns.shape == (len(states),)
        assert len(set(columns.tolist())) == len(columns)
        assert set(columns.tolist()) == set(session.tokens(COUNTS[row], sample).columns.tolist())
        width = states.shape[1]  # BulkFormer's vector has three numbers of the sample behind it
        np.testing.assert_allclose(states.double().mean(0), vectors[row, :width], atol=1e-6, rtol=0)


def test_a_state_is_its_own_gene_s_in_whatever_order_the_genes_stand(start: Start) -> None:
    plain: Any = start()
    if plain.states is None:
        pytest.skip("this model has no states of genes")
    order = np.random.default_rng(9).permutation(len(GENES))
    shuffled: Any = start(GENES.iloc[order].reset_index(drop=True), COUNTS[:, order])
    with torch.inference_mode():
        columns, states = plain.states(COUNTS[0], Sample("S0", 0))
        moved, again = shuffled.states(COUNTS[0, order], Sample("S0", 0))
    by_gene = dict(zip(order[moved].tolist(), again, strict=True))
    assert set(by_gene) == set(columns.tolist())
    found = torch.stack([by_gene[column] for column in columns.tolist()])
    np.testing.assert_allclose(found, states, atol=5e-5)


def test_the_states_do_not_depend_on_pooling_and_positions(model: str, start: Start) -> None:
    choices = get_encoder(model).card.choices
    found = []
    for option in ("pooling", "positions"):
        for value in choices.get(option, ()):
            session: Any = start(**{option: value})
            if session.states is None:
                pytest.skip("this model has no states of genes")
            with torch.inference_mode():
                found.append(session.states(COUNTS[0], Sample("S0", 0)))
    for columns, states in found[1:]:
        np.testing.assert_array_equal(columns, found[0][0])
        np.testing.assert_array_equal(states, found[0][1])


def test_the_card_says_what_a_reader_of_the_numbers_must_know(model: str) -> None:
    card = get_encoder(model).card
    assert card.reads
    assert card.trained_on in ("single cells", "bulk")
    assert set(card.circular) <= set(CIRCULAR)
    assert all(card.circular.values())
    assert not card.circular or card.priors not in ("", "none")
    assert all(release.samples is None or 100_000 < release.samples < 1_000_000_000 for release in card.releases)
    for release in card.releases:
        expected = card.saw_tcga if release.saw_tcga is None else release.saw_tcga
        assert card.release_saw_tcga(release.name) is expected
    assert card.release_saw_tcga(None) is card.saw_tcga
    assert card.release_saw_tcga("untrained") is card.saw_tcga


def test_contamination_priors_and_sizes_of_training_are_on_the_cards() -> None:
    cards = {name: get_encoder(name).card for name in WRITERS}
    assert set(cards["sclong"].circular) == {"coexpression", "go"}
    assert set(cards["scbert"].circular) == set(cards["bulkformer"].circular) == {"coexpression"}
    assert [name for name, card in cards.items() if card.trained_on == "bulk" and name != "toy"] == ["bulkformer"]
    assert cards["bulkformer"].release_saw_tcga("latest") is True
    assert cards["bulkformer"].release_saw_tcga("147M") is None
    assert cards["geneformer"].release("V1-10M").samples == 30_000_000
    assert cards["geneformer"].release("V2-104M").samples == 104_000_000
    assert cards["scgpt"].release("continual-pretrained").samples is None
    assert cards["scgpt"].release("kidney").samples == 814_000


def test_the_store_can_record_the_attributes(start: Start) -> None:
    told = start().attributes
    json.dumps(dict(told), allow_nan=False)
    assert told["genes_matched"] >= 300
    assert told["gene_coverage"] == pytest.approx(told["genes_matched"] / told["genes_of_model"], abs=1e-6)
    assert told["genes_of_cohort"] == 320
    assert told["probe_transform"] == {"kind": "none"}
    assert isinstance(told["parameters_used"], int)
    assert told["parameters_used"] > 0


def test_the_stand_in_is_the_same_each_time_and_another_with_another_seed(
    model: str, folder: Path, tmp_path: Path
) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    again.mkdir(), other.mkdir()
    write_untrained(model, again, GENES, 3)
    write_untrained(model, other, GENES, 4)

    def contents(place: Path) -> dict[str, bytes]:
        return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}

    assert contents(again) == contents(folder)
    assert contents(other) != contents(folder)
    assert set(contents(other)) == set(contents(folder))


def test_a_twin_has_the_sizes_and_vocabulary_of_its_release_and_other_numbers(
    model: str, folder: Path, vectors: np.ndarray, start: Start, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    write_twin(model, folder, twin, 11)
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {str(p.relative_to(twin)) for p in twin.rglob("*") if p.is_file()} <= names
    options = {**SHORT.get(model, {}), **FIXED.get(model, {})}
    session = get_encoder(model).start(made_view(GENES, COUNTS), options, Weights(twin))
    found = session.embed(COUNTS, obs_of(range(N)))
    assert found.shape == vectors.shape
    assert np.isfinite(found).all()
    assert np.abs(found - vectors).max() > 1e-3


def test_the_input_gene_vectors_have_names(model: str, folder: Path) -> None:
    from importlib import import_module

    names, matrix = import_module(f"bulkprobe.encoders.{model}").gene_vectors(folder)
    assert len(names) == len(matrix)
    assert len(names) >= 300
    known = set(GENES.ensembl_id) | set(GENES.symbol)
    assert sum(name in known for name in names) >= 300
    assert np.isfinite(matrix).all()


class Evil:
    """A pickle that would leave a mark if anything in it were executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_nothing_in_a_checkpoint_is_ever_executed(model: str, folder: Path, tmp_path: Path, form: str) -> None:
    mark = tmp_path / "mark"
    payload = pickle.dumps(Evil(mark))
    targets = [
        p for p in folder.rglob("*") if p.suffix in (".pt", ".pth", ".ckpt", ".pkl", ".bin", ".safetensors", ".npy")
    ]
    refused = 0
    for target in targets:
        copy = tmp_path / f"copy of {target.name}"
        shutil.copytree(folder, copy)
        victim = copy / target.relative_to(folder)
        if form == "pickle":
            victim.write_bytes(payload)
        else:
            with zipfile.ZipFile(victim, "w") as archive:
                archive.writestr("archive/data.pkl", payload)
                archive.writestr("archive/version", "3\n")
        try:
            session = get_encoder(model).start(made_view(GENES, COUNTS), {}, Weights(copy))
            session.embed(COUNTS[:1], obs_of([0]))
        except UserError:
            refused += 1
        assert not mark.exists(), target
    assert refused >= 1


@pytest.mark.parametrize("path", sorted(EVIDENCE.glob("*.json")), ids=lambda path: path.stem)
def test_the_numbers_of_upstream_are_met(path: Path, tmp_path: Path) -> None:
    """Upstream's own code read a checkpoint that `write` made; here ours reads the same one."""
    evidence = json.loads(path.read_text())
    assert evidence["upstream"]["commit"]
    for number, case in enumerate(evidence["cases"]):
        genes = made_genes(**case["genes"])
        counts = made_counts(n_genes=len(genes), **case["counts"])
        place = tmp_path / str(number)
        place.mkdir()
        import_writer(evidence["model"])(place, genes, **case["writer"])
        session = get_encoder(evidence["model"]).start(made_view(genes, counts), case["options"], Weights(place))
        values = made_view(genes, counts).read(str(session.layer))
        found = session.embed(next(iter(values)), obs_of(range(len(counts))))
        np.testing.assert_allclose(found, np.array(case["embedding"]), rtol=0, atol=case["tolerance"])


def import_writer(model: str) -> Callable[..., None]:
    from importlib import import_module

    writer: Callable[..., None] = import_module(WRITERS[model]).write
    return writer


def test_every_model_has_evidence() -> None:
    assert {path.stem for path in EVIDENCE.glob("*.json")} == set(WRITERS)


def test_a_view_without_samples_reads_nothing() -> None:
    assert list(CohortView(GENES, obs_of([]), "counts").read("X")) == []
