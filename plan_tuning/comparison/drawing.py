"""What the figures share: canvases without pyplot, SVG that is the same each time, styles.

Nothing global is touched in the process that a sweep runs in, and matplotlib is imported when a
figure is drawn. Styles differ in marker and line as well as in shade: figures are read in print.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_MARKERS = "osD^vP*X<>"
_LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_SHADES = ("#000000", "#0b5394", "#b45f06", "#38761d", "#741b47", "#666666")
_MAX_LABEL = 48


@dataclass(frozen=True)
class Figure:
    """One figure with what to read from it."""

    name: str  # file name without its ending
    title: str
    caption: str
    svg: str


def new_canvas(
    width: float, height: float, columns: int, rows: int = 1
) -> tuple[Canvas, list[Any]]:
    """Make a canvas of ``rows`` x ``columns`` axes; sizes are in inches."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False)
    return canvas, [axis for line in axes for axis in line]


def svg_of(canvas: Canvas, *, letters: str = "path") -> str:
    """Render a canvas; equal drawings give equal texts.

    Args:
        canvas: drawn.
        letters: path: outlines, the same on every machine; none: text in the reader's own font,
            half the size.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "plan-tuning", "svg.fonttype": letters}):
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def dress(axis: Any, title: str | None, x: str | None = None, *, grid: str = "both") -> None:
    """Give an axis its texts and its grid."""
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(axis=grid, color="0.9", lw=0.6)


def short(label: str) -> str:
    """Fit a label into a figure."""
    # matplotlib reads dollar signs as mathematics
    label = label.replace("$", "\\$")
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"


def style_of(number: int) -> dict[str, Any]:
    """Style of the ``number``-th line of a figure."""
    return {
        "marker": _MARKERS[number % len(_MARKERS)],
        "ls": _LINES[number % len(_LINES)],
        "color": _SHADES[number % len(_SHADES)],
        "ms": 4,
        "lw": 1.2,
    }
