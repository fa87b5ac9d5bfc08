"""Results that are links into DVC's cache, and weights that are swapped or written into while they are in use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import pytest

from bulkprobe.errors import UserError
from bulkprobe.files import remove_folder, replace_folder, tree_hash
from bulkprobe.stages import embed as embedding
from bulkprobe.stages import embed_input as command
from bulkprobe.stages.embed_input import embed_input
from bulkprobe.store import read_store
from bulkprobe.untrained import write_untrained
from encoders.made import made_counts, made_genes

GENES = made_genes(250, seed=1)


@pytest.fixture(name="place", scope="module")
def fixture_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cohort.h5ad, a checkpoint, and whole.zarr, an undisturbed store."""
    place = tmp_path_factory.mktemp("place")
    obs = pd.DataFrame(index=[f"S{i}" for i in range(6)])
    var = GENES.set_index(GENES.ensembl_id.astype(str), drop=False).rename_axis(None)
    anndata.AnnData(made_counts(6, 250, seed=2), obs, var).write_h5ad(place / "cohort.h5ad")
    (place / "checkpoint").mkdir()
    write_untrained("geneformer", place / "checkpoint", GENES, 0)
    assert embed(place, place / "whole.zarr")
    return place


def embed(place: Path, output: Path, **how: Any) -> bool:
    checkpoint = how.pop("checkpoint", place / "checkpoint")
    return embed_input("geneformer", place / "cohort.h5ad", output, checkpoint=checkpoint, shard_size=2, **how)


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_store_of_links_into_a_cache_is_replaced_and_the_cache_left_alone(
    link: Callable[[Path, Path], None], place: Path, tmp_path: Path
) -> None:
    cache, store = tmp_path / "cache", tmp_path / "out.zarr"
    shutil.copytree(place / "whole.zarr", cache)
    for file in [path for path in cache.rglob("*") if path.is_file()]:
        file.chmod(0o444)
        linked = store / file.relative_to(cache)
        linked.parent.mkdir(parents=True, exist_ok=True)
        link(file, linked)
    before = tree_hash(cache)
    assert not embed(place, store)  # the same: left alone
    assert embed(place, store, options={"pooling": "max"})
    assert read_store(store).attributes["options"] == {"pooling": "max"}
    assert not any(path.is_symlink() for path in store.rglob("*"))
    assert embed(place, store)
    assert tree_hash(store) == before == tree_hash(cache)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out.zarr"]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_a_link_is_replaced_itself(there: bool, tmp_path: Path) -> None:
    target, final, aside = tmp_path / "target", tmp_path / "final", tmp_path / "aside"
    if there:
        target.mkdir()
        (target / "kept").touch()
    for _ in range(2):
        final.symlink_to(target)
        aside.mkdir()
        (aside / "new").touch()
        replace_folder(aside, final)
        assert (final.is_symlink(), [path.name for path in final.iterdir()]) == (False, ["new"])
        remove_folder(final)
    final.symlink_to(target)
    remove_folder(final)
    assert [path.name for path in tmp_path.iterdir()] == (["target"] if there else [])
    assert not there or (target / "kept").is_file()


# ---------------------------------------------------------------- weights


@pytest.fixture(name="checkpoint")
def fixture_checkpoint(place: Path, tmp_path: Path) -> Path:
    """A checkpoint of this test's own."""
    return shutil.copytree(place / "checkpoint", tmp_path / "checkpoint")


def flip(checkpoint: Path) -> None:
    """Write one other number into the weights, in their place: they are mapped, so whoever uses them sees it."""
    weights = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_weights_that_are_swapped_between_the_check_and_the_reading(
    place: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*given: Any, **how: Any) -> bool:
        flip(checkpoint)
        return embedding.embed_expression(*given, **how)

    with monkeypatch.context() as patched:
        patched.setattr(command, "embed_expression", late)
        with pytest.raises(UserError, match=r"checkpoint have changed since they were checked: .* and run again"):
            embed(place, tmp_path / "out.zarr", checkpoint=checkpoint)
    assert not (tmp_path / "out.zarr").exists()
    flip(checkpoint)
    assert embed(place, tmp_path / "out.zarr", checkpoint=checkpoint)
    assert tree_hash(tmp_path / "out.zarr") == tree_hash(place / "whole.zarr")


def test_weights_that_are_written_into_while_they_are_in_use(
    place: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_of, shards = embedding.embed_rows, []

    def disturbed(*given: Any) -> Iterator[Any]:
        if len(shards) == 1:
            flip(checkpoint)
        shards.append(given)
        yield from rows_of(*given)

    with monkeypatch.context() as patched:
        patched.setattr(embedding, "embed_rows", disturbed)
        with pytest.raises(UserError, match=r"checkpoint were changed while they were in use"):
            embed(place, tmp_path / "out.zarr", checkpoint=checkpoint)
    assert not (tmp_path / "out.zarr").exists()
    assert len(list((tmp_path / "out.zarr.partial/embedding/c").glob("*/0"))) == 1  # the one from before
    flip(checkpoint)
    assert embed(place, tmp_path / "out.zarr", checkpoint=checkpoint)
    assert tree_hash(tmp_path / "out.zarr") == tree_hash(place / "whole.zarr")
