"""Charts as inline SVG that follows the page's colours, light, dark or on paper.

matplotlib draws with placeholder colours, which are then replaced by CSS variables. Names of
sites never enter a drawing: the key of a chart is HTML, so names wrap, are read aloud, and cannot
be taken for markup or mathematics.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from wardround_simulations.report.markup import Markup, element

_INK, _FAINT, _OVERALL, _EDGE = "#010101", "#020202", "#030303", "#050505"
_LINES = tuple(f"#0400{i:02x}" for i in range(8))
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _OVERALL: "var(--overall)",
    _EDGE: "var(--edge)",
    **{colour: f"var(--line-{i})" for i, colour in enumerate(_LINES)},
}
_DASHES = ("-", "--", "-.", ":")
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "wardround",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _EDGE,
    "grid.linewidth": 0.6,
    "axes.grid": True,
}
# With more sites than this, single colours cannot be told apart and all sites are drawn alike.
_MOST_COLOURS = len(_LINES)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart; NaN leaves a gap. `overall` makes it the heavy one."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    overall: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    alternative: str,
    unit_square: bool = False,
    diagonal: bool = False,
    markers: bool = False,
) -> Markup:
    """A line for each of `lines`, with a key below.

    Args:
        lines: what to draw.
        title: name of the chart, shown as its caption.
        x_label: what x is.
        y_label: what y is.
        alternative: what there is to see, for who cannot see it.
        unit_square: both axes run from 0 to 1.
        diagonal: draw y = x as a reference.
        markers: mark every point.
    """
    many = sum(not line.overall for line in lines) > _MOST_COLOURS
    with _axes(x_label, y_label, square=unit_square) as (figure, axes):
        if diagonal:
            axes.plot((0, 1), (0, 1), color=_FAINT, linewidth=1)
        for index, line in enumerate(lines):
            axes.plot(
                line.x,
                line.y,
                marker="o" if markers else None,
                markersize=3,
                **_look(index, line, many),
            )
        svg = _svg(figure, title, alternative)
    return element("figure", element("figcaption", title), svg, _key(lines, many), class_="chart")


def bar_chart(
    x: ArrayLike, height: ArrayLike, *, title: str, x_label: str, y_label: str, alternative: str
) -> Markup:
    """One bar for each x."""
    with _axes(x_label, y_label, square=False) as (figure, axes):
        axes.bar(x, height, color=_OVERALL)
        svg = _svg(figure, title, alternative)
    return element("figure", element("figcaption", title), svg, class_="chart")


def _look(index: int, line: Line, many: bool) -> dict[str, Any]:
    if line.overall:
        return {"color": _OVERALL, "linewidth": 2.4, "zorder": 3}
    if many:
        return {"color": _LINES[0], "linewidth": 0.7, "alpha": 0.6}
    return {
        "color": _LINES[index % len(_LINES)],
        "linewidth": 1.4,
        "linestyle": _DASHES[index % len(_DASHES)],
    }


def _key(lines: Sequence[Line], many: bool) -> Markup:
    """Names beside short samples of their lines."""
    shown = [(i, line) for i, line in enumerate(lines) if line.overall or not many]
    items = [element("li", _sample(_look(i, line, many)), line.name) for i, line in shown]
    if many:
        first = next(line for line in lines if not line.overall)
        count = sum(not line.overall for line in lines)
        items.append(element("li", _sample(_look(0, first, many)), f"each of {count} sites"))
    return element("ul", *items, class_="key")


def _sample(look: dict[str, Any]) -> Markup:
    dashes = {"-": "none", "--": "6 3", "-.": "7 2 2 2", ":": "2 2"}[look.get("linestyle", "-")]
    stroke = f"stroke:{_VARIABLES[look['color']]};stroke-width:{look['linewidth'] + 0.6}"
    line = element("line", x1="0", y1="5", x2="28", y2="5", style=stroke, stroke_dasharray=dashes)
    return element("svg", line, viewBox="0 0 28 10", class_="sample", aria_hidden="true")


@contextmanager
def _axes(x_label: str, y_label: str, *, square: bool) -> Iterator[tuple[Figure, Any]]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4, 3.3 if square else 2.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if square:
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.02)
            axes.set_aspect("equal")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        yield figure, axes


def _svg(figure: Figure, title: str, alternative: str) -> Markup:
    """The drawing as an SVG element with ids of its own and the page's colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    body = drawing[drawing.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", title.lower())
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    view = re.search(r'viewBox="([^"]+)"', drawing)
    assert view is not None, "matplotlib writes a viewBox"
    title_id = f"{prefix}-alt"
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view[1]}" role="img" aria-labelledby="{title_id}">'
    )
    return Markup(head + element("title", alternative, id=title_id) + body)
