"""Expressed genes of a sample as CellFM reads them: counts capped, and of too many genes a weighted random draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bulkprobe.errors import UserError
from bulkprobe.preprocess.draws import legacy_orders, stream_of, weighted_orders

COUNT_CAP = 100_000.0  # counts a sample keeps; more are scaled down and rounded
TARGET_SUM = 10_000.0  # counts a sample is normalised to before the logarithm


@dataclass(frozen=True)
class Panel:
    """The genes that model and cohort share, and how a sample's are read.

    columns, rows: (n_panel,) column of the counts and row of the embedding, sorted by symbol. n_rows: of the embedding.
    options: genes (sample, top, all), max_genes, draw_by (sample_id, position), draw_seed, draws.
    """

    columns: np.ndarray
    rows: np.ndarray
    n_rows: int
    options: Mapping[str, Any]

    def levels(self, counts: np.ndarray) -> np.ndarray:
        """Return log1p of counts per ten thousand of the panel (n_panel,), after the cap over all genes given.

        Rounding is half to even, in float32 as upstream's.
        """
        scale = np.float32(max(1.0, float(counts.sum(dtype=np.float64)) / COUNT_CAP))
        capped = np.round(counts[self.columns].astype(np.float32) / scale)
        depth = np.float32(capped.sum(dtype=np.float64)) / np.float32(TARGET_SUM)
        levels: np.ndarray = np.log1p(capped / depth if depth else capped)
        return levels

    def choose(self, levels: np.ndarray, sample_id: str, position: int) -> list[np.ndarray]:
        """Return places in the panel, ascending: one array a draw, or one where there is nothing to draw.

        Genes are drawn without replacement, weighted by log1p of their level. `top` breaks ties by symbol.
        """
        options, most = self.options, self.options["max_genes"]
        expressed = np.flatnonzero(levels)
        if not len(expressed):
            raise UserError(
                f"of the {len(levels)} genes that the model knows none has counts left after the cap of "
                f"{COUNT_CAP:,.0f} a sample; leave it out"
            )
        if options["genes"] == "all" or len(expressed) <= most:
            return [expressed]
        weights = np.log1p(levels[expressed])
        if options["genes"] == "top":
            orders = np.argsort(-weights, kind="stable")[None]
        elif options["draw_by"] == "position":
            orders = legacy_orders(options["draw_seed"] + position, weights, options["draws"])
        else:  # a number for every gene of the model, so that what else a cohort measures changes nothing
            stream = stream_of(options["draw_seed"], sample_id)
            times = stream.standard_exponential((options["draws"], self.n_rows))
            orders = weighted_orders(times[:, self.rows[expressed]], weights)
        return [np.sort(expressed[order[:most]]) for order in orders]
