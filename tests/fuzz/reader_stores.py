"""Readers of AnnData, stores, probes, checkpoints and what stages write, with small sound files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
import zarr
from anndata.io import write_elem
from reader_tables import read_expression, read_lab
from reading import COUNTS, GENES, RNG, ROOT, SAMPLES, SYMBOLS, G, N, Reader
from safetensors.torch import save_file

from bulkprobe import api
from bulkprobe.cohort import read as cohort_read
from bulkprobe.cohort.inputs import open_input
from bulkprobe.cohort.schema import SAMPLE_COLUMNS
from bulkprobe.cohort.store import open_expression, write_expression
from bulkprobe.files import read_json
from bulkprobe.nn.files import PLAIN, TENSORS, read_dictionary, read_pickle, read_safetensors, read_torch, tensors_of
from bulkprobe.nn.mindspore import list_mindspore, read_mindspore, write_mindspore
from bulkprobe.params import load_params
from bulkprobe.probes.save import Probe, load_probe, predict, save_probe
from bulkprobe.probes.transform import FittedTransform
from bulkprobe.sources.lock import HashLock
from bulkprobe.stages.applying import made_like
from bulkprobe.stages.checkpoints import folder_hash, hashes_of, read_record, recorded
from bulkprobe.stages.locked import check_lock
from bulkprobe.store import read_attributes, read_store, write_store

# ---------------------------------------------------------------- AnnData, stores


def _anndata(version: int | None, sparse: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        import scipy.sparse

        values = COUNTS.astype(np.float32)
        obs = pd.DataFrame({"cancer_type": pd.Categorical(["KIRC"] * N), "age": np.arange(N) * 1.0}, index=SAMPLES)
        var = pd.DataFrame({"symbol": SYMBOLS, "length": np.arange(G) + 900.0}, index=GENES)
        data = anndata.AnnData(scipy.sparse.csr_matrix(values) if sparse else values, obs=obs, var=var)
        data.uns["scale"] = "counts"
        if version is None:
            data.write_h5ad(folder / "a.h5ad")
        else:
            with anndata.settings.override(auto_shard_zarr_v3=False):
                write_elem(zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=version), "/", data)

    return write


class _Counts:
    sample_ids = SAMPLES
    gene_ids = GENES
    notes: dict[str, Any] = {}  # noqa: RUF012 - the protocol has it so

    def rows(self, keep: Any, folder: Path) -> Any:
        from contextlib import nullcontext

        return nullcontext(self)

    def read(self, start: int, stop: int) -> Any:
        return COUNTS[start:stop].astype(np.float32)


def _expression_store(folder: Path) -> None:
    var = pd.DataFrame({"ensembl_id": GENES, "symbol": SYMBOLS, "length": np.arange(G) + 900.0})
    write_expression(folder / "expression.zarr", sample_ids=SAMPLES, var=var, layers={"X": _Counts()}, scale="counts")


def _cohort(folder: Path) -> None:
    _expression_store(folder)
    samples = pd.DataFrame(dict.fromkeys(SAMPLE_COLUMNS), index=range(N), dtype=object)
    samples = samples.assign(sample_id=SAMPLES, patient_id=[s[:12] for s in SAMPLES], cancer_type="KIRC")
    samples = samples.assign(sample_type="01", for_probing=True)
    cohort_read.write_columns(samples, SAMPLE_COLUMNS, folder / "samples.parquet")
    survival = pd.DataFrame({"patient_id": samples["patient_id"], "endpoint": "OS", "time_days": 9.0, "event": True})
    cohort_read.write_columns(survival, cohort_read.SURVIVAL_COLUMNS, folder / "survival.parquet")
    mutations = pd.DataFrame({"patient_id": samples["patient_id"], "gene": "TP53", "mutated": True, "hotspot": None})
    cohort_read.write_columns(mutations, cohort_read.MUTATION_COLUMNS, folder / "mutations.parquet")
    for name in ("flow.json", "provenance.json"):
        (folder / name).write_text('{"rules": [], "notes": []}')


def _read_cohort(folder: Path) -> None:
    with open_input(folder) as given:
        given.read()


ATTRIBUTES = {"model": "pca", "options": {"components": 4}, "encoder": "pca", "values": "log2", "target_sum": 1e6}


def _store(folder: Path) -> None:
    vectors = RNG.normal(size=(N, 4)).astype(np.float32)
    write_store(
        folder / "s.zarr",
        sample_ids=SAMPLES,
        width=4,
        attributes=ATTRIBUTES,
        shards=[(start, vectors[start : start + 6]) for start in range(0, N, 6)],
        shard_size=6,
    )


def _read_store(folder: Path) -> None:
    read_attributes(folder / "s.zarr")
    read_store(folder / "s.zarr")


def _probe(folder: Path) -> None:
    fitted = FittedTransform(4, np.arange(4), np.zeros(4), np.ones(4), None, 1.0)
    probes = [Probe("mutation", f"KIRC/G{i}", 1.0, 9, fitted, np.ones(4), 0.5, ATTRIBUTES) for i in range(8)]
    save_probe(folder / "p.npz", [*probes, Probe("survival", "KIRC/OS", 1.0, 9, fitted, np.ones(4), 0.0, ATTRIBUTES)])


def _read_probe(folder: Path) -> None:
    for probe in load_probe(folder / "p.npz"):
        predict(probe, np.ones((2, 4)))


def _read_elsewhere(folder: Path) -> None:
    made_like(folder / "p.npz")
    made_like(folder / "s.zarr")
    api.predict_store(folder / "p.npz", folder / "s.zarr", folder / "out.tsv")


def _splits(folder: Path) -> None:
    table = pd.DataFrame({"task": "mutation", "label": "KIRC/TP53", "split": 0, "patient_id": SAMPLES, "role": "test"})
    table = table.assign(fold=-1, site="AA")
    table.to_parquet(folder / "splits.parquet", index=False)


# ---------------------------------------------------------------- checkpoints


def _tensors() -> dict[str, torch.Tensor]:
    layers = ((f"layers.{i}.{name}", shape) for i in range(6) for name, shape in (("weight", (4, 6)), ("bias", (4,))))
    tensors = {name: torch.from_numpy(RNG.normal(size=shape).astype(np.float32)) for name, shape in layers}
    whole = {"step": torch.tensor([7]), "half": torch.ones(3, dtype=torch.float16), "brain": torch.ones(2).bfloat16()}
    return {**tensors, **whole}


def _torch(zipped: bool) -> Callable[[Path], None]:
    return lambda folder: torch.save(_tensors(), folder / "m.pt", _use_new_zipfile_serialization=zipped)


def _read_mindspore(folder: Path) -> None:
    found = list_mindspore(folder / "m.ckpt")
    read_mindspore(folder / "m.ckpt", found)


def _vocabulary_pickle(folder: Path) -> None:
    content = {gene: np.float64(i) if i % 2 else float(i) for i, gene in enumerate(GENES)}
    (folder / "v.pkl").write_bytes(pickle.dumps(content, protocol=4))


def _settings_pickle(folder: Path) -> None:
    (folder / "v.pkl").write_bytes(pickle.dumps({"depth": 2, "graph": torch.ones(2, 3)}, protocol=4))


def _record(folder: Path) -> None:
    (folder / "r").mkdir()
    (folder / "r" / "weights").write_bytes(b"w")
    record = {
        "release": "r",
        "sha256": folder_hash(hashes_of(folder / "r")),
        "untrained": False,
        "twin": False,
        "verified": True,
        "model": "scgpt",
    }
    (folder / "release.json").write_text(json.dumps({**record, "files": {}}))


def _params(folder: Path) -> None:
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())


def _metrics(folder: Path) -> None:
    labels = {
        f"KIRC/G{i}": {"mean": 0.5, "per_split": [0.5, None, 0.25], "penalty": [1.0, None, 2.0]} for i in range(20)
    }
    (folder / "m.json").write_text(json.dumps({"encoder": "pca", "labels": labels}, indent=1))


STAGES = "".join(
    f"  {name}:\n    cmd: make {name}\n    deps: [{name}.in]\n    params: [seed]\n    outs: [{name}.out]\n"
    for name in ("a", "b", "c")
)


def _lock(folder: Path) -> None:
    def entry(path: str) -> str:
        return f"    - path: {path}\n      hash: md5\n      md5: d41d8cd98f00b204e9800998ecf8427e\n      size: 7\n"

    stages = "".join(
        f"  {name}:\n    cmd: make {name}\n    deps:\n{entry(f'{name}.in')}"
        f"    params:\n      params.yaml:\n        seed: 1\n    outs:\n{entry(f'{name}.out')}"
        for name in ("a", "b", "c")
    )
    (folder / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n{stages}")


def _verify(folder: Path) -> None:
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(f"[core]\n    no_scm = true\n    site_cache_dir = {folder}/site\n")
    (folder / "dvc.yaml").write_text(f"stages:\n{STAGES}")
    (folder / "params.yaml").write_text("seed: 1\n")
    for name in ("a.in", "b.in", "b.out", "c.out"):
        (folder / name).write_text("content")
    with chdir(folder):
        check_lock()


STORES = (
    Reader("anndata.h5ad", _anndata(None, False), read_expression),
    Reader("anndata-sparse.h5ad", _anndata(None, True), read_lab),
    Reader("anndata.zarr-2", _anndata(2, False), read_expression),
    Reader("anndata.zarr-3", _anndata(3, False), read_lab),
    Reader("anndata-sparse.zarr-2", _anndata(2, True), read_lab),
    Reader("anndata-sparse.zarr-3", _anndata(3, True), read_expression),
    Reader("expression.zarr", _expression_store, lambda f: open_expression(f).read()),
    Reader("cohort-folder", _cohort, _read_cohort),
    Reader("embedding-store", _store, _read_store),
    Reader("probe.npz", _probe, _read_probe),
    Reader("predict", lambda f: (_probe(f), _store(f)), _read_elsewhere),
    Reader("splits.parquet", _splits, lambda f: api.read_splits(f / "splits.parquet")),
    Reader("torch-zip", _torch(True), lambda f: tensors_of(read_torch(f / "m.pt"), f / "m.pt")),
    # PyTorch's old format: it reserves what a header says, and fills as much of it as the file has.
    Reader("torch-legacy", _torch(False), lambda f: tensors_of(read_torch(f / "m.pt"), f / "m.pt"), reserves=True),
    Reader(
        "safetensors",
        lambda f: save_file(_tensors(), f / "m.safetensors"),
        lambda f: read_safetensors(f / "m.safetensors"),
    ),
    Reader("mindspore", lambda f: write_mindspore(f / "m.ckpt", _tensors().items()), _read_mindspore),
    Reader("vocabulary.pkl", _vocabulary_pickle, lambda f: read_dictionary(f / "v.pkl", float, np.number)),
    Reader("settings.pkl", _settings_pickle, lambda f: read_pickle(f / "v.pkl", PLAIN | TENSORS)),
    Reader("release.json", _record, lambda f: (read_record(f), recorded(f))),
    Reader("metrics.json", _metrics, lambda f: read_json(f / "m.json")),
    Reader("dvc.lock", _lock, _verify),
    Reader("params.yaml", _params, lambda f: load_params(f / "params.yaml")),
    Reader(
        "sources.lock.json",
        lambda f: (f / "l.json").write_text(json.dumps({f"https://a/{i}": f"{i:064x}" for i in range(30)})),
        lambda f: HashLock(f / "l.json").get("https://a/0"),
    ),
)
