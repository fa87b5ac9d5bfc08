"""SVG text of a figure: marks that tell their values, colours that follow the page, and the same figure as PNG."""

from __future__ import annotations

import io
import re
from typing import Any
from urllib.parse import quote, unquote

import matplotlib as mpl
from markupsafe import escape
from matplotlib.artist import Artist
from matplotlib.figure import Figure

DPI = 200  # of the PNG files: 2,200 pixels across, two columns of a journal at 300 dpi
STYLE: Any = {
    "svg.hashsalt": "bulkprobe",
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.axisbelow": True,
    "text.parse_math": False,  # a dollar sign in an encoder's name is a dollar sign
}
# Colours of paper and ink -> the variable of the page's style sheet that takes their place, by its theme. Colours that
# carry a value (those of a colour scale, and text on them) are none of these and stay.
THEMED = {
    "#ffffff": "page",
    "#000000": "ink",
    "#222222": "ink",
    "#767676": "grey",
    "#999999": "axis",
    "#b4b4b4": "pale",
    "#cccccc": "rule",
    "#e2e2e2": "rule",
    "#eeeeee": "grid",
    "#0072b2": "blue",
    "#56b4e9": "sky",
    "#d55e00": "red",
    "#7a5195": "purple",
    "#8c6d31": "brown",
    "#8c8c8c": "grey",
    "#c9dcea": "tint",
}


class Svg(str):
    """The SVG of a figure that can still be drawn in another format: text to everybody who does not ask for more."""

    figure: Figure

    @classmethod
    def of(cls, figure: Figure) -> Svg:
        """Draw a figure as SVG without a date or a version, with a group and a title for each `mark`."""
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
        svg = re.sub(r"<(?:path|use|g|text)[^<>]*>", _rounded, svg)
        made = cls(re.sub(r'<g id="mark:([^":]*):([^":]*)">', _group, svg).strip())
        made.figure = figure
        return made

    def png(self) -> bytes:
        """Draw the same figure as PNG; equal figures give equal bytes."""
        with mpl.rc_context(STYLE):
            self.figure.set_layout_engine("none")  # everything has its place: do not look for it again
            binary = io.BytesIO()
            self.figure.savefig(binary, format="png", dpi=DPI, metadata={"Software": None})
        return binary.getvalue()

    def file(self) -> str:
        """Give the text of a file of its own."""
        return f'<?xml version="1.0" encoding="utf-8"?>\n{self}\n'


def mark(artist: Artist, encoder: str, says: str = "") -> None:
    """Say whose an artist is and what it shows: the page filters by `encoder` and shows `says` as a tooltip.

    `encoder` may be empty (a mark of nobody is never filtered), and `says` too (names beside a mark, text on it).
    An artist is one group of the SVG: give every point an artist of its own.
    """
    artist.set_gid(f"mark:{quote(encoder, safe='')}:{quote(says, safe='')}")


def _rounded(found: re.Match[str]) -> str:
    """A thousandth of a point is enough, and saves a third of the page."""
    return re.sub(
        r'\b(d|x|y|transform)="([^"]*)"',
        lambda one: f'{one[1]}="{re.sub(r"[0-9]+[.][0-9]{4,}", lambda number: f"{float(number[0]):.3f}", one[2])}"',
        found.group(),
    )


def _group(found: re.Match[str]) -> str:
    encoder, says = (escape(unquote(part)) for part in found.groups())
    whose = f' data-encoder="{encoder}"' if encoder else ""
    return f'<g class="mark tip"{whose}><title>{says}</title>' if says else f'<g class="mark"{whose}>'


def embed(svg: str, prefix: str, description: str) -> str:
    """Prepare an SVG for a page that holds several: own identifiers, flexible size, a description to read aloud.

    Ink and paper become variables of the style sheet, which names the font too. `description` must be escaped for an
    HTML attribute already.
    """
    svg = re.sub(r"\n +<", "\n<", svg)
    svg = re.sub(r"<[^<>]+>", lambda found: _own(found.group(), prefix), svg)
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", svg, count=1)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def _own(tag: str, prefix: str) -> str:
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', tag)
    tag = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", tag)
    return re.sub(r'\bstyle="[^"]*"', _themed, tag)


def _themed(style: re.Match[str]) -> str:
    def variable(found: re.Match[str]) -> str:
        name, colour = found.groups()
        return f"{name}: var(--f-{THEMED[colour]}, {colour})" if colour in THEMED else found.group()

    kept = re.sub(r"font-family: [^;\"]*;? ?", "", style.group())
    return re.sub(r"(fill|stroke): (#[0-9a-f]{6})", variable, kept)
