"""What the values of an expression table may be, by declared scale, and the way back to linear.

The declared scale is checked against the values: bounds as they are read, the shape of the distribution at
the end. A table on another scale than declared is an error that says what the values look like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bulkprobe.cohort.spool import Floats
from bulkprobe.errors import UserError

FULL_TRANSCRIPTOME = 15_000  # genes from which column sums are judged from below as well
TPM_SUM = 1e6
TPM_SUM_LOW, TPM_SUM_HIGH = 0.5, 1.05  # of a million; below it genes are left out, above it the scale is wrong
FPKM_SUM_HIGH = 1e7  # FPKM of a sample add up to 1e5..2e6
TPM_ZERO = 1e-6  # RSEM prints TPM with two decimals; log2(0 + 0.001) to four decimals comes back as -1e-8
LOG_RANGE = 30.0  # no transcriptome stays below 30 reads or 30 TPM; every log2 scale does
COUNT_TOP = 50.0  # deepest gene of a bulk library: tens of thousands of reads
# Half a step of the fourth decimal of log2(x + 1), relative to x + 1, and 5 % for float32.
LOG2_STEP = np.float32(0.5e-4 * np.log(2) * 1.05)
WHOLE_TELLS = frozenset({"counts", "tpm", "fpkm"})  # counts are mostly whole, the others hardly ever
TINY_NEGATIVE_SHARE = 0.05  # EB++ correction leaves a few values slightly below zero
_SLAB = 1 << 16  # values handled at once: they stay in the processor's cache


@dataclass(frozen=True)
class Scale:
    """A scale that tables come in: the linear scale it stands for, its bounds, and the way back."""

    linear: str
    low: float
    high: float
    invert: Callable[[Floats], None] | None = None  # in place


def _from_log2_tpm(x: Floats) -> None:
    np.exp2(x, out=x)
    x -= np.float32(0.001)
    x[x < np.float32(TPM_ZERO)] = 0


def _from_log2_counts(x: Floats) -> None:
    """Expected counts may be fractional; a whole number is taken where the four decimals cannot tell."""
    np.exp2(x, out=x)
    tolerance = x * LOG2_STEP
    x -= np.float32(1)
    whole = np.rint(x)
    np.copyto(x, whole, where=np.abs(x - whole) <= tolerance)
    x += np.float32(0)  # -0.0 → 0.0


def _from_log1p_tpm(x: Floats) -> None:
    np.expm1(x, out=x)


def _clip(x: Floats) -> None:
    np.maximum(x, np.float32(0), out=x)


SCALES: dict[str, Scale] = {
    "counts": Scale("counts", 0.0, np.inf),
    "tpm": Scale("tpm", 0.0, 1.05 * TPM_SUM),
    "fpkm": Scale("fpkm", 0.0, np.inf),
    "rsem_normalised": Scale("rsem_normalised", -np.inf, np.inf, _clip),
    "log2_tpm_plus_0.001": Scale("tpm", -9.97, 20.0, _from_log2_tpm),
    "log2_counts_plus_1": Scale("counts", 0.0, 32.0, _from_log2_counts),
    "log1p_tpm": Scale("tpm", 0.0, 13.9, _from_log1p_tpm),
    "zscore": Scale("zscore", -np.inf, np.inf),
}


def scale_named(name: str) -> Scale:
    """Return a scale by name; UserError lists the names."""
    if name not in SCALES:
        raise UserError(f"expression scale {name!r} is not known; expected one of {', '.join(SCALES)}")
    return SCALES[name]


@dataclass(frozen=True)
class Block:
    """Linear values of a block and what was seen on the way: shape (n_samples, n_genes)."""

    values: Floats
    start: int  # number of the first sample
    low: float
    high: float
    n_zero: int
    n_negative: int
    n_whole: int  # whole numbers, where the scale is one of which that tells
    sample_sums: npt.NDArray[np.float64]


class Linear:
    """Turns the blocks of one table to its linear scale and checks them against the declared scale.

    `convert` may run for several blocks at once; `accept` takes the results one by one, in file order. certain: counts
    stand beside TPM in the file, so that sums of a million do not make them TPM.
    """

    def __init__(self, scale: str, table: str, sample_ids: Sequence[str], *, certain: bool = False) -> None:
        self.certain = certain
        self.name, self.scale, self.table = scale, scale_named(scale), table
        self.sample_ids = sample_ids
        self.low, self.high = np.inf, -np.inf  # of the values as they stand in the table
        self.sample_sums = np.zeros(len(sample_ids))
        self.n_values = self.n_zero = self.n_negative = self.n_whole = 0

    def convert(self, genes: Sequence[str], values: Floats, start: int = 0) -> Block:
        """Return linear values; `values`: (n_samples, n_genes), the first row being sample `start`."""
        out = np.empty(values.shape, np.float32)
        sums = np.zeros(len(values))
        low, high, n_zero, n_negative, n_whole = np.inf, -np.inf, 0, 0, 0
        step = max(1, _SLAB // max(1, values.shape[1]))
        for first in range(0, len(values) if values.size else 0, step):
            raw, linear = values[first : first + step], out[first : first + step]
            least, most = float(raw.min()), float(raw.max())
            if not (np.isfinite(least + most) and least >= self.scale.low and most <= self.scale.high):
                self._refuse_impossible(genes, raw, start + first, least, most)
            low, high = min(low, least), max(high, most)
            n_zero += int(raw.size - np.count_nonzero(raw))
            n_negative += int(np.count_nonzero(raw < 0)) if least < 0 else 0
            if self.name in WHOLE_TELLS:
                n_whole += int(np.count_nonzero(raw == np.rint(raw)))
            np.copyto(linear, raw)
            if self.scale.invert is not None:
                self.scale.invert(linear)
            np.sum(linear, axis=1, dtype=np.float64, out=sums[first : first + step])
        return Block(out, start, low, high, n_zero, n_negative, n_whole, sums)

    def accept(self, block: Block) -> Floats:
        """Count a converted block in, and return its values."""
        self.low, self.high = min(self.low, block.low), max(self.high, block.high)
        self.n_values += block.values.size
        self.n_zero += block.n_zero
        self.n_negative += block.n_negative
        self.n_whole += block.n_whole
        self.sample_sums[block.start : block.start + len(block.values)] += block.sample_sums
        return block.values

    def _refuse_impossible(self, genes: Sequence[str], values: Floats, start: int, low: float, high: float) -> None:
        def place(wrong: npt.NDArray[np.bool_]) -> str:
            sample, gene = np.unravel_index(int(wrong.argmax()), wrong.shape)
            return (
                f"{values[sample, gene]:.6g} (gene {genes[int(gene)]}, sample {self.sample_ids[start + int(sample)]})"
            )

        if np.isnan(low) or np.isnan(high):
            raise UserError(
                f"{self.table} has a missing value: {place(np.isnan(values))}; expected a number for every gene and "
                "sample, drop the gene or the sample"
            )
        if not np.isfinite(low + high):
            raise UserError(f"{self.table} has an infinite value: {place(np.isinf(values))}; expected finite numbers")
        if low < self.scale.low:
            negative = "a negative value" if self.scale.low == 0 else "a value below the least possible"
            raise UserError(
                f"{self.table} has {negative}: {place(values < self.scale.low)}; {self.name} starts at "
                f"{self.scale.low:g}, this looks like {self._guess(low, high)}: set the scale that the table has"
            )
        if high > self.scale.high:
            raise UserError(
                f"{self.table} has a value above the largest possible: {place(values > self.scale.high)}; {self.name} "
                f"ends at {self.scale.high:g}, this looks like {self._guess(low, high)}: set the scale it has"
            )

    @staticmethod
    def _guess(low: float, high: float) -> str:
        if high > 2 * LOG_RANGE:
            return "linear values (counts, TPM)" if low >= 0 else "linear values after a correction, or differences"
        if low < 0:
            return "log2(TPM + 0.001)" if -9.97 <= low < -9.9 else "z-scores or log ratios"
        return "log2(counts + 1)" if high > 20 else "log-transformed values"

    def finish(self, n_genes: int, gene_means: npt.NDArray[np.float64] | None = None) -> None:
        """Judge the table as a whole, after its last block; `gene_means` is needed for z-scores only."""
        if self.name == "zscore":
            self._finish_zscore(gene_means)
        elif self.name == "rsem_normalised":
            if self.low >= 0 and 0 < self.high < LOG_RANGE - 5:
                self._wrong(f"the largest value is {self.high:.4g}")
            share = self.n_negative / max(1, self.n_values)
            if share > TINY_NEGATIVE_SHARE:
                self._wrong(f"{100 * share:.0f} % of the values are negative")
        elif self.name == "counts":
            if self.high < COUNT_TOP:
                self._wrong(f"the largest value is {self.high:.4g}")
            if not self.certain and len(self.sample_sums) > 1 and (self._adds_up(1e-3) or self._like_part_of_tpm()):
                raise UserError(
                    f"{self.table} is declared as counts, but every sample adds up to "
                    f"{'' if self._adds_up(1e-3) else 'nearly '}a million: it looks like TPM, set the scale it has"
                )
        elif self.name in {"tpm", "fpkm"} and self.high < LOG_RANGE - 5:
            self._wrong(f"the largest value is {self.high:.4g}")
        if self.scale.linear == "tpm":
            self._finish_tpm(n_genes)
        if self.name == "fpkm" and self.sample_sums.max(initial=0) > FPKM_SUM_HIGH:
            self._sum_wrong(int(self.sample_sums.argmax()), f"at most {FPKM_SUM_HIGH:g}")
        if self.name in {"tpm", "fpkm"} and self.n_whole == self.n_values and not self._adds_up(0.01):
            self._wrong("every value is a whole number", "counts")

    def _adds_up(self, tolerance: float) -> bool:
        """Tell whether every sample adds up to a million."""
        return bool((np.abs(self.sample_sums / TPM_SUM - 1) < tolerance).all())

    def _like_part_of_tpm(self) -> bool:
        """Tell whether no sample has above a million or below half of it, in numbers that are hardly ever whole."""
        sums = self.sample_sums / TPM_SUM
        fractional = self.n_values - self.n_whole > 0.9 * (self.n_values - self.n_zero)
        return fractional and bool((sums.min() >= TPM_SUM_LOW) & (sums.max() <= 1 + 1e-3))

    def _finish_tpm(self, n_genes: int) -> None:
        sums = self.sample_sums / TPM_SUM
        if self.name == "log2_tpm_plus_0.001" and self.low > -9.9 and self.sample_sums.sum() < 2 * self.n_values:
            self._wrong("no value is at its floor of -9.97 and a typical value stands for less than 2 TPM", "z-scores")
        if self.name == "log2_tpm_plus_0.001" and self.low == 0:
            guess = "log2(counts + 1)" if sums.max(initial=0) > 2 else "log2(TPM + 1)"
            raise UserError(
                f"{self.table} is declared as {self.name}, but no value is negative and {self.n_zero} are 0: it looks "
                f"like {guess}, set the scale it has"
            )
        if sums.max(initial=0) > TPM_SUM_HIGH:
            self._sum_wrong(int(sums.argmax()), "about a million")
        if n_genes >= FULL_TRANSCRIPTOME and sums.min(initial=1) < TPM_SUM_LOW:
            self._sum_wrong(int(sums.argmin()), f"about a million over {n_genes} genes")

    def _finish_zscore(self, gene_means: npt.NDArray[np.float64] | None) -> None:
        if self.low >= 0:
            raise UserError(
                f"{self.table} is declared as zscore, but no value is negative: it looks like "
                f"{self._guess(self.low, self.high)}, set the scale it has"
            )
        typical = float(np.median(np.abs(gene_means))) if gene_means is not None and gene_means.size else 0.0
        if typical > 0.5:
            raise UserError(
                f"{self.table} is declared as zscore, but the mean of a typical gene is {typical:.2f} away from 0: it "
                "looks like log-transformed values, set the scale it has"
            )

    def _wrong(self, why: str, guess: str | None = None) -> None:
        if self.low == self.high:
            raise UserError(f"{self.table}: every value is {self.low:g}; expected expression, check the export")
        raise UserError(
            f"{self.table} is declared as {self.name}, but {why}: it looks like "
            f"{guess or self._guess(self.low, self.high)}, set the scale it has"
        )

    def _sum_wrong(self, sample: int, expected: str) -> None:
        raise UserError(
            f"{self.table} is declared as {self.name}, but sample {self.sample_ids[sample]} adds up to "
            f"{self.sample_sums[sample]:.4g} where {expected} is expected: the scale is wrong, set the one it has"
        )


UPPER_QUARTILE = (50.0, 20_000.0)  # Firehose sets it to 1000; batch correction moves it a little


def check_upper_quartile(table: str, values: Floats) -> None:
    """Refuse full transcriptomes declared rsem_normalised whose upper quartile is far from 1000.

    `values`: (n_samples, n_genes), some samples; the quartile is taken over the genes above zero.
    """
    quartile = float(np.median([np.quantile(row[row > 0], 0.75) if (row > 0).any() else 0.0 for row in values]))
    if not UPPER_QUARTILE[0] <= quartile <= UPPER_QUARTILE[1]:
        raise UserError(
            f"{table} is declared as rsem_normalised, but the upper quartile of a typical sample is {quartile:.4g} "
            "where about 1000 is expected: the scale is wrong, set the one it has"
        )
