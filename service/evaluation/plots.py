"""Plots as inline SVG: lines, steps, ranges and two axes, told apart by colour, dash and mark. Knows numpy only.

Colours come from the classes `s0` to `s4`, which the page that holds a plot defines for light, dark and paper.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

COLOURS = 5
DASHES = ("", "8 3", "2 3", "10 3 2 3")
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 12, 52  # margins, in units of the plot's own width and height
TURNS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff")
LETTER = 6.6  # about the width of a letter at 12.5 units


def text_of(given: object) -> str:
    """What came from outside as text of HTML and XML, in an attribute's quotes too. What no page can hold, or what
    would turn the order of letters round, is shown as �."""
    kept = "".join("\ufffd" if c in TURNS or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n") else c
                   for c in str(given))
    return escape(kept, quote=True)


def shown(value: float, decimals: int | None = None) -> str:
    """A number for people: four digits, or as many decimals as are asked for."""
    if math.isnan(value):
        return "not defined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if decimals is None or decimals > 6 or abs(value) >= 1e15:
        return f"{value:.4g}"
    return f"{value:.{decimals}f}"


@dataclass(frozen=True)
class Axis:
    """label: what is counted and its unit. ticks: rising, at least two; the axis reaches from the first to the last."""

    label: str
    ticks: tuple[float, ...]

    def at(self, values: Iterable[float]) -> NDArray[np.float64]:
        """Shares of the way from the axis' start to its end."""
        return (np.array([*values], np.float64) - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])

    def names(self) -> list[str]:
        """Of the ticks, with as many decimals as tell them apart."""
        step = self.ticks[1] - self.ticks[0]
        most = max(abs(self.ticks[0]), abs(self.ticks[-1]))
        if most >= 1e6 or step < 1e-4:
            for digits in range(3, 17):
                names = [f"{tick:.{digits}g}" for tick in self.ticks]
                if len({*names}) == len(names):
                    break
            return names
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return [f"{tick:.{decimals}f}" for tick in self.ticks]


def axis(label: str, low: float, high: float, about: int = 5) -> Axis:
    """One with round ticks that holds low and high, which are finite."""
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # one value: something on either side of it
        half = 0.5 if low == 0 else abs(low) / 2
        low, high = low - half, high + half
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, tuple(k * step for k in range(first, last + 1)))


SHARE = tuple(k / 5 for k in range(6))  # ticks from 0 to 1


@dataclass(frozen=True)
class Line:
    """Through points; style: which colour, dash and mark. mark_every: a mark at the last and at every so many points
    before it; 0 is none."""

    x: Iterable[float]
    y: Iterable[float]
    style: int
    mark_every: int = 0


@dataclass(frozen=True)
class Guide:
    """A thin grey line of what would be ideal."""

    x: Iterable[float]
    y: Iterable[float]


@dataclass(frozen=True)
class Ranges:
    """Grey bars from low to high at each x: where a point would lie by chance."""

    x: Iterable[float]
    low: Iterable[float]
    high: Iterable[float]


@dataclass(frozen=True)
class Steps:
    """A histogram's outline, lightly filled. edges: one more than heights."""

    edges: Iterable[float]
    heights: Iterable[float]
    style: int


def plot(name: str, title: str, description: str, x: Axis, y: Axis, marks: Sequence[Line | Guide | Ranges | Steps],
         width: int = 540, height: int = 350) -> str:
    """An <svg> that says by its title and description what it shows. name: unique on the page, for ids."""
    inner_width, inner_height = width - LEFT - RIGHT, height - TOP - BOTTOM

    def points(xs: Iterable[float], ys: Iterable[float]) -> NDArray[np.float64]:
        return np.stack((LEFT + x.at(xs) * inner_width, TOP + (1 - y.at(ys)) * inner_height), axis=1)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title {name}-text" '
             f'style="max-width:{1.2 * width:.0f}px">',
             f'<title id="{name}-title">{text_of(title)}</title><desc id="{name}-text">{text_of(description)}</desc>']
    bottom, right = TOP + inner_height, LEFT + inner_width
    for (px, _), label in zip(points(x.ticks, [y.ticks[0]] * len(x.ticks)), x.names(), strict=True):
        parts.append(f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{TOP}" y2="{bottom}"/>'
                     f'<text x="{px:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for (_, py), label in zip(points([x.ticks[0]] * len(y.ticks), y.ticks), y.names(), strict=True):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}"/>'
                     f'<text x="{LEFT - 7}" y="{py + 4:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    middle = TOP + inner_height / 2
    parts.append(f'<text x="{LEFT + inner_width / 2:.1f}" y="{height - 10}" text-anchor="middle">'
                 f'{_cut(x.label, inner_width)}</text>'
                 f'<text transform="translate(15 {middle:.1f}) rotate(-90)" text-anchor="middle">'
                 f'{_cut(y.label, inner_height + TOP)}</text>')
    for mark in marks:
        if isinstance(mark, Guide):
            parts.append(f'<path class="guide" d="{_path(points(mark.x, mark.y))}"/>')
        elif isinstance(mark, Ranges):
            lows, highs = points(mark.x, mark.low), points(mark.x, mark.high)
            d = "".join(f"M{a[0]:.1f} {a[1]:.1f}V{b[1]:.1f}" for a, b in zip(lows, highs, strict=True))
            parts.append(f'<path class="range" d="{d}"/>')
        elif isinstance(mark, Steps):
            xs = np.repeat([*mark.edges], 2)
            ys = np.concatenate(([0.0], np.repeat([*mark.heights], 2), [0.0]))
            parts.append(_drawn("fill", mark.style, _path(points(xs, ys)) + "Z"))
        else:
            along = points(mark.x, mark.y)
            parts.append(_drawn("line", mark.style, _path(along)))
            if mark.mark_every:
                parts.append(f'<path class="mark s{mark.style % COLOURS}" '
                             f'd="{"".join(_mark(px, py, mark.style) for px, py in along[::-mark.mark_every])}"/>')
    parts.append("</svg>")
    return "".join(parts)


def swatch(style: int, filled: bool = False) -> str:
    """The sample of a line that stands in a legend; what it says stands beside it."""
    if filled:
        drawn = _drawn("fill", style, "M1 13V2H33V13Z")
    else:
        drawn = _drawn("line", style, "M1 7H33") + f'<path class="mark s{style % COLOURS}" d="{_mark(17, 7, style)}"/>'
    return f'<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true">{drawn}</svg>'


def _drawn(kind: str, style: int, d: str) -> str:
    """A path in the colour and dash of its style."""
    dash = DASHES[style % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="{kind} s{style % COLOURS}"{dashed} d="{d}"/>'


def _path(points: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _mark(x: float, y: float, style: int) -> str:
    """Circle, square, triangle, diamond."""
    kind = style % 4
    if kind == 0:
        return f"M{x - 3.5:.1f} {y:.1f}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z"
    if kind == 1:
        return f"M{x - 3.2:.1f} {y - 3.2:.1f}h6.4v6.4h-6.4Z"
    if kind == 2:
        return f"M{x:.1f} {y - 4.2:.1f}l4.2 7.4h-8.4Z"
    return f"M{x:.1f} {y - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6 -4.6Z"


def _cut(label: str, room: float) -> str:
    most = int(room / LETTER)
    return text_of(label if len(label) <= most else label[: most - 1] + "…")
