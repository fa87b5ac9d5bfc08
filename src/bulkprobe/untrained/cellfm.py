"""CellFM without anything learned: its three files, small or at the released size."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from bulkprobe.nn.files import first_existing
from bulkprobe.nn.mindspore import Entry, list_mindspore, write_mindspore
from bulkprobe.untrained.draws import Draw, vocabulary_of

WEIGHTS = "CellFM_80M_weight.ckpt"
RELEASED = (WEIGHTS, "base_weight.ckpt")
HIDDEN = 256  # of the value encoder, at every width
SMALL = 4096  # elements; larger tensors get no moments here, which would triple the file
COUNTERS = {  # name → type, as training leaves them
    "scale_sense": torch.float32,
    "global_step": torch.int32,
    "learning_rate": torch.float32,
    "beta1_power": torch.float32,
    "beta2_power": torch.float32,
    "current_iterator_step": torch.int32,
    "last_overflow_iterator_step": torch.int32,
}
GENE_COLUMNS = (
    "HGNC_gene,h5_sample_frequency,biotype,gene_length,exon_count,exon_length_total,unique_exon_count,"
    "unique_exon_length_total,feature"
).split(",")
SYMBOL_COLUMNS = ("HGNC ID", "Approved symbol", "Status", "Previous symbols", "Alias symbols", "Ensembl gene ID")


def write(
    folder: Path, genes: pd.DataFrame, seed: int, width: int = 48, depth: int = 2, heads: int | None = None
) -> None:
    """Write weights and vocabulary in the released layout; the vocabulary is the first genes with a symbol.

    Without moments of large tensors; the old names in the table of symbols are invented. No file holds the number of
    heads: whoever asks for one here must ask for it again when reading.
    """
    if heads is not None and width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}")
    known = vocabulary_of(genes, "symbol")
    lists = folder / "csv"
    lists.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"HGNC_gene": known["symbol"]}).reindex(columns=GENE_COLUMNS)
    table.to_csv(lists / "expand_gene_info.csv", index=False, lineterminator="\n")
    symbols = pd.DataFrame(
        {
            "Approved symbol": known["symbol"],
            "Status": "Approved",
            "Previous symbols": known["symbol"] + "-before",
            "Alias symbols": known["symbol"] + "-also, " + known["symbol"] + "-other",
            "Ensembl gene ID": known["ensembl_id"],
        }
    ).reindex(columns=list(SYMBOL_COLUMNS))
    symbols.to_csv(lists / "updated_hgcn.tsv", sep="\t", index=False, lineterminator="\n")
    rows = -(-(len(known) + 1) // 8) * 8
    write_mindspore(folder / WEIGHTS, _tensors(Draw(seed), _shapes(rows, width, depth), SMALL))


def twin(released: Path, folder: Path, seed: int) -> None:
    """Write a release with every tensor drawn again, at its sizes, without the optimizer's moments.

    CellFM has no prior knowledge of genes built in: what is kept is the list of genes and the table of symbols.
    """
    source = first_existing(released, *RELEASED)
    (folder / "csv").mkdir(parents=True, exist_ok=True)
    for path in sorted((released / "csv").glob("*.[ct]sv")):
        shutil.copyfile(path, folder / "csv" / path.name)
    shapes = {name: entry.shape for name, entry in list_mindspore(source).items() if _is_learned(name, entry)}
    write_mindspore(folder / source.name, _tensors(Draw(seed), shapes, 0))


def _is_learned(name: str, entry: Entry) -> bool:
    return not name.startswith("moment") and (len(entry.shape) > 1 or name.endswith((".gamma", ".beta", ".bias")))


def _shapes(rows: int, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    square = (width, width)
    shapes: dict[str, tuple[int, ...]] = {
        "gene_emb": (rows, width),
        "ST_emb": (1, 2, width),
        "cls_token": (1, 1, width),
        "zero_emb": (1, 1, width),
        "value_enc.mask_emb": (1, 1, width),
    }
    for stem in ("value_enc.value_enc", "ST_enc"):
        shapes[f"{stem}.a"] = (1, 1)
        shapes[f"{stem}.w1.weight"] = (HIDDEN, 1)
        shapes[f"{stem}.w3.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{stem}.table.weight"] = (width, HIDDEN)
    for layer in range(depth):
        shapes |= {f"encoder.{layer}.attn.{part}_proj.weight": square for part in "qkvuo"}
        shapes |= {f"encoder.{layer}.ffn.{part}_proj.weight": square for part in "uvo"}
        shapes |= {f"encoder.{layer}.post_norm{n}.{part}": (width,) for n in (1, 2) for part in ("gamma", "beta")}
    return shapes | {
        "value_dec.w1.weight": square,
        "value_dec.w2.weight": (1, width),
        "cellwise_dec.map.weight": square,
    }


def _tensors(draw: Draw, shapes: dict[str, tuple[int, ...]], most_moments: int) -> Iterator[tuple[str, torch.Tensor]]:
    for name, shape in shapes.items():
        yield name, _one(draw, name, shape)
    for moment in ("moment1", "moment2"):
        for name, shape in shapes.items():
            if torch.Size(shape).numel() <= most_moments:
                yield f"{moment}.{name}", torch.zeros(shape)
    for name, dtype in COUNTERS.items():
        yield name, torch.zeros((1,) if name == "global_step" else (), dtype=dtype)


def _one(draw: Draw, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name.endswith(("gamma", "beta")):
        return draw.normal(name, shape, 0.1, mean=float(name.endswith("gamma")))
    if name.endswith("w3.weight"):
        return draw.normal(name, shape, 4 * HIDDEN**-0.5)  # so that the value's shares are far from equal
    if name.endswith(("w1.weight", ".a")) or not name.endswith("weight"):
        return draw.normal(name, shape, 1.0)
    return draw.linear(name, shape)
