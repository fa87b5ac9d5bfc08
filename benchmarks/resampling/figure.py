"""The figure of docs/statistics.md: what the multiple does to the size, and what it costs in power."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE: Any = {
    "svg.hashsalt": "bulkprobe",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
KINDS = {"equal": "#0072B2", "label-free": "#D55E00", "widths": "#009E73"}  # Okabe and Ito 2008
TESTS = {"plain": ("plain t", ":"), "nadeau_bengio": ("Nadeau-Bengio", "--"), "calibrated": ("calibrated", "-")}
COLOURS = ("#0072B2", "#D55E00")


def draw_figure(result: dict[str, Any]) -> str:
    """Return SVG text; equal bytes for equal results."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.set_title("Size under each null")
        for kind, colour in KINDS.items():
            for number, row in enumerate(row for row in result["nulls"] if row["kind"] == kind and not row["design"]):
                label = kind if number == 0 else None
                left.plot(result["grid"], row["size_by_multiple"], color=colour, linewidth=0.8, label=label)
        left.axhline(result["bound"], color="#767676", linewidth=0.8, linestyle=":")
        left.axvline(result["multiple"], color="#767676", linewidth=0.8, linestyle=":")
        left.set(xlim=(0, 4), ylim=(0, 0.45), xlabel="multiple of n_test / n_train", ylabel="rejected at 5 %")
        left.legend(frameon=False)
        right.set_title("Power, ten splits 80/20, 30 % mutated")
        for n, colour in zip(sorted({row["n"] for row in result["power"]}), COLOURS, strict=True):
            curve = sorted((row for row in result["power"] if row["n"] == n), key=lambda row: row["difference"])
            for test, (name, line) in TESTS.items():
                x, y = [row["difference"] for row in curve], [row[test] for row in curve]
                right.plot(x, y, line, color=colour, linewidth=1.0, label=f"{n} patients, {name}")
        right.set(ylim=(0, 1), xlabel="true difference of AUROC", ylabel="rejected at 5 %")
        right.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
