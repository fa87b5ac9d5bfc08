"""`bulkprobe embed` and `check` with weights: any input, any checkpoint, resumed, added to a file, refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from bulkprobe import cli
from bulkprobe.errors import UserError
from bulkprobe.stages.embed_input import embed_input
from bulkprobe.store import read_attributes, read_store
from bulkprobe.untrained import write_untrained
from encoders.made import made_counts, made_genes
from workspace import inside

GENES = made_genes(250, seed=1)
COUNTS = made_counts(7, 250, seed=2)
Embed = Callable[..., bool]


@pytest.fixture(name="place")
def fixture_place(tmp_path: Path) -> Path:
    """A folder with cohort.h5ad and an untrained checkpoint of Geneformer, outside any project."""
    var = GENES.set_index(GENES.ensembl_id.astype(str), drop=False).rename_axis(None)
    obs = pd.DataFrame(index=[f"S{i}" for i in range(len(COUNTS))])
    anndata.AnnData(COUNTS, obs, var).write_h5ad(tmp_path / "cohort.h5ad")
    (tmp_path / "checkpoint").mkdir()
    write_untrained("geneformer", tmp_path / "checkpoint", GENES, 0)
    return tmp_path


@pytest.fixture(name="embed")
def fixture_embed(place: Path) -> Embed:
    def run(model: str = "geneformer", output: str = "out.zarr", **options: Any) -> bool:
        with inside(place):
            if "release" not in options and model == "geneformer":
                options.setdefault("checkpoint", place / "checkpoint")
            return embed_input(model, place / "cohort.h5ad", place / output, **options)

    return run


def test_an_unknown_folder_is_embedded_and_marked_unverified(
    place: Path, embed: Embed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed()
    told = read_attributes(place / "out.zarr")
    assert (told["release"], told["verified"], told["untrained"]) == (None, False, False)
    assert len(told["checkpoint_sha256"]) == 64
    assert told["model"] == "geneformer"
    assert told["expression_scale"] == "counts"
    assert "its weights are unverified" in capsys.readouterr().err
    assert not embed()  # complete and left alone
    assert not list(place.glob(".bulkprobe-*"))


def test_a_stand_in_is_made_of_the_inputs_own_genes(place: Path, embed: Embed) -> None:
    assert embed(release="untrained")
    told = read_attributes(place / "out.zarr")
    assert (told["release"], told["untrained"], told["verified"]) == ("untrained", True, None)
    assert told["gene_coverage"] == 1.0
    assert not (place / "models").exists()
    assert not embed(release="untrained")  # made again, equal, so the store still fits


def test_shard_size_batch_size_and_an_interruption_change_no_number(
    place: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed()
    whole = read_store(place / "out.zarr")
    embed(output="small.zarr", shard_size=2, batch_size=1)
    np.testing.assert_array_equal(read_store(place / "small.zarr").embedding, whole.embedding)

    from bulkprobe.stages import embed as stage

    done = 0
    inner = stage.embed_blocks

    def dies(*arguments: Any) -> Any:
        nonlocal done
        for part in inner(*arguments):
            done += 1
            if done > 3:
                raise KeyboardInterrupt
            yield part

    monkeypatch.setattr(stage, "embed_blocks", dies)
    with pytest.raises(KeyboardInterrupt):
        embed(output="cut.zarr", shard_size=2, batch_size=1)
    assert not (place / "cut.zarr").exists()
    assert (place / "cut.zarr.partial").is_dir()
    monkeypatch.setattr(stage, "embed_blocks", inner)
    embed(output="cut.zarr", shard_size=2, batch_size=1)
    files = [p.relative_to(place / "small.zarr") for p in (place / "small.zarr").rglob("*") if p.is_file()]
    assert len(files) >= 6
    for file in files:
        assert (place / "small.zarr" / file).read_bytes() == (place / "cut.zarr" / file).read_bytes(), file


def test_vectors_are_added_to_the_file(place: Path, embed: Embed) -> None:
    embed(add_to=place / "cohort.h5ad")
    found = anndata.read_h5ad(place / "cohort.h5ad")
    np.testing.assert_array_equal(found.obsm["X_geneformer"], read_store(place / "out.zarr").embedding)
    np.testing.assert_array_equal(found.X, COUNTS)
    embed(add_to=place / "cohort.h5ad")  # replaced, not refused
    assert not list(place.glob(".*partial"))


def test_a_file_without_these_samples_is_left_as_it_was(place: Path, embed: Embed) -> None:
    other = anndata.AnnData(COUNTS[:2], pd.DataFrame(index=["T0", "T1"]), pd.DataFrame(index=GENES.ensembl_id))
    other.write_h5ad(place / "other.h5ad")
    before = (place / "other.h5ad").read_bytes()
    with pytest.raises(UserError, match="has no vector for T0, T1"):
        embed(add_to=place / "other.h5ad")
    assert (place / "other.h5ad").read_bytes() == before
    with pytest.raises(UserError, match=r"an existing \.h5ad file was expected"):
        embed(add_to=place / "nothing.h5ad")


def test_half_precision_is_another_store_and_close(place: Path, embed: Embed) -> None:
    embed()
    embed(output="half.zarr", precision="bfloat16")
    assert read_attributes(place / "half.zarr")["precision"] == "bfloat16"
    full, half = read_store(place / "out.zarr").embedding, read_store(place / "half.zarr").embedding
    assert 0 < np.abs(full - half).max() < 0.2 * np.abs(full).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"release": "V9"}, r"geneformer has no release 'V9'; known: untrained, V2-104M"),
        ({"checkpoint": Path("nowhere")}, "nowhere is no folder"),
        ({"device": "cuda"}, "device 'cuda' was asked for, but torch sees no GPU"),
        ({"options": {"pooling": "sum"}}, "option pooling is 'sum', expected one of published"),
        ({"scale": "zscore"}, "is declared as zscore, but no value is negative"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(embed: Embed, options: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(UserError, match=message):
        embed(**options)
    assert not (place / "out.zarr").exists()


def test_two_kinds_of_weights_at_once_are_refused(embed: Embed, place: Path) -> None:
    with pytest.raises(UserError, match="--checkpoint and --release were both given"):
        embed(release="untrained", checkpoint=place / "checkpoint")
    with pytest.raises(UserError, match="expression is a baseline and has no weights"):
        embed(model="expression", release="untrained")


def test_the_command_line_does_the_same(
    place: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(output="api.zarr", options={"pooling": "mean", "layer": 0})
    arguments = ["embed", "geneformer", "--input", "cohort.h5ad", "--output", "cli.zarr", "--checkpoint", "checkpoint"]
    monkeypatch.setattr(sys, "argv", ["bulkprobe", *arguments, "--set", "pooling=mean", "--set", "layer=0"])
    with inside(place):
        monkeypatch.setattr(sys, "argv", ["bulkprobe", *arguments, "--set", "pooling=mean", "--set", "layer=0"])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    assert "cli.zarr is written" in capsys.readouterr().out
    one, two = read_store(place / "api.zarr"), read_store(place / "cli.zarr")
    np.testing.assert_array_equal(one.embedding, two.embedding)


def test_symbols_come_from_a_table_of_genes(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"S{i}" for i in range(len(COUNTS))]
    pd.DataFrame(COUNTS.T, pd.Index(GENES.ensembl_id, name="gene"), names).to_csv(place / "counts.tsv", sep="\t")
    GENES.to_csv(place / "genes.csv", index=False)
    how = ["embed", "scgpt", "--release", "untrained", "--input", "counts.tsv", "--output", "out.zarr"]

    def run(*arguments: str) -> object:
        with inside(place):
            monkeypatch.setattr(sys, "argv", ["bulkprobe", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        return ended.value.code

    assert "no gene of the input has a symbol" in str(run(*how))
    assert not (place / "out.zarr").exists()
    assert run(*how, "--genes", "genes.csv") == 0
    assert embedded_alike(place)
    assert run("check", "counts.tsv", "--genes", "genes.csv") == 0
    assert "encoder bulkformer: could read" in capsys.readouterr().out


def embedded_alike(place: Path) -> bool:
    """Whether the table's vectors are those of an AnnData that knows its symbols itself."""
    with inside(place):
        embed_input("scgpt", place / "cohort.h5ad", place / "own.zarr", release="untrained")
    return np.array_equal(read_store(place / "out.zarr").embedding, read_store(place / "own.zarr").embedding)


def test_check_says_what_each_encoder_would_make_of_a_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with inside(place):
        monkeypatch.setattr(sys, "argv", ["bulkprobe", "check", "cohort.h5ad"])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    said = capsys.readouterr().out
    assert "encoder geneformer: could read the scale counts; its weights are not here" in said
    assert "TFLOP a sample" in said
    assert "encoder expression: can read it; 250 dimensions" in said
    assert "encoder clinical: cannot read it: encoder clinical reads age, sex, stage of the samples" in said


def test_fetch_of_a_baseline_is_refused(place: Path) -> None:
    from bulkprobe.stages.embed_input import fetch_target

    with inside(place):
        with pytest.raises(UserError, match="pca is a baseline: it has no weights to fetch"):
            fetch_target("pca")
        with pytest.raises(UserError, match="untrained stand-ins are made, not fetched"):
            fetch_target("geneformer:untrained")
