"""An evaluation as one HTML file that needs nothing else: no network, no script, no font; for screens, dark or light,
for paper, and for those who have it read to them.

What stands in `Report` may come from anywhere: every piece of text is escaped, and numbers are only ever formatted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from service.evaluation.bootstrap import Interval
from service.evaluation.checks import Array, numbers, whole
from service.evaluation.plots import (
    SHARE,
    Axis,
    Guide,
    Line,
    Ranges,
    Steps,
    axis,
    plot,
    shown,
    swatch,
    text_of,
)
from service.evaluation.reliability import IntervalCoverage, Reliability
from service.evaluation.selection import RiskCoverage

Curve = TypeVar("Curve")

POINTS = 200  # of a curve in a plot
TABLE_ROWS = 20  # of a curve in a table


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    meaning:     a sentence on what it says and which way is better.
    unit:        of its numbers: "share of rows", "nats a row", "mm".
    values:      by method, with an interval, or a plain number where none is known; a method may be missing.
    differences: by method, the method less the first one; may be empty.
    """

    name: str
    meaning: str
    unit: str
    values: Mapping[str, Interval | float]
    differences: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreHistogram:
    """How a score is spread in two sets of rows, by name. edges: (bins + 1,); shares: (bins,), of the set's own rows.

    separation: AUROC, of the second set against the first, or None.
    """

    name: str
    unit: str
    edges: Array
    shares: Mapping[str, Array]
    rows: Mapping[str, int]
    separation: Interval | float | None = None


@dataclass(frozen=True)
class Report:
    """All that is shown. What is empty is left out. Keys of mappings are methods, the first of which is the baseline.

    facts:         what was evaluated on what: model, digest, data, rows, seed, date.
    loss, score:   of the risk-coverage curve: what is averaged, with its unit, and which score decides who is kept.
    target_unit:   of intervals' widths.
    notes:         sentences for the reader, shown first.
    """

    title: str
    methods: tuple[str, ...]
    metrics: tuple[Metric, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    risk_coverage: Mapping[str, RiskCoverage] = field(default_factory=dict)
    loss: str = "error rate (share of those answered)"
    score: str = "score"
    interval_coverage: Mapping[str, IntervalCoverage] = field(default_factory=dict)
    target_unit: str = "unit of the target"
    histograms: tuple[ScoreHistogram, ...] = ()


def score_histogram(name: str, unit: str, sets: Mapping[str, ArrayLike], separation: Interval | float | None = None,
                    bins: int = 30) -> ScoreHistogram:
    """Of two sets of finite scores, (rows of each,), in bins of equal width over all of them."""
    if len(sets) != 2:
        raise ValueError(f"sets: two expected, got {len(sets)}")
    scores = {key: numbers(values, key) for key, values in sets.items()}
    edges = np.histogram_bin_edges(np.concatenate([*scores.values()]), whole(bins, "bins"))
    shares = {key: np.histogram(values, edges)[0] / len(values) for key, values in scores.items()}
    return ScoreHistogram(name, unit, edges, shares, {key: len(v) for key, v in scores.items()}, separation)


def render(report: Report) -> str:
    """The whole file, HTML that is well-formed XML as well; to be written as UTF-8. ValueError where a mapping names a
    method that the report does not have."""
    _check(report)
    sections = [_metrics(report), _reliability(report), _risk_coverage(report), _interval_coverage(report),
                *(_histogram(report, at) for at in range(len(report.histograms)))]
    title = text_of(report.title)
    facts = "".join(f"<dt>{text_of(key)}</dt><dd>{text_of(value)}</dd>" for key, value in report.facts.items())
    notes = "".join(f"<li>{text_of(note)}</li>" for note in report.notes)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        + (f"<dl>{facts}</dl>\n" if facts else "") + (f"<ul>{notes}</ul>\n" if notes else "")
        + "\n".join(section for section in sections if section) + f"\n{CAVEATS}\n</main>\n</body>\n</html>\n")


def _check(report: Report) -> None:
    if not report.methods or len(set(report.methods)) < len(report.methods):
        raise ValueError(f"methods: distinct names, at least one, expected, got {report.methods!r}")
    named: dict[str, Mapping[str, object]] = {
        "reliability": report.reliability, "risk_coverage": report.risk_coverage,
        "interval_coverage": report.interval_coverage}
    for metric in report.metrics:
        named |= {f"values of {metric.name}": metric.values, f"differences of {metric.name}": metric.differences}
    for what, by_method in named.items():
        for method in by_method:
            if method not in report.methods:
                raise ValueError(f"{what}: one of {', '.join(report.methods)} expected, got {method!r}")


# --- the table of metrics


def _metrics(report: Report) -> str:
    if not report.metrics:
        return ""
    levels = sorted({value.level for metric in report.metrics for value in (*metric.values.values(),
                    *metric.differences.values()) if isinstance(value, Interval)})
    said = " and ".join(f"{100 * level:.4g} %" for level in levels)
    how = (f"<p>In brackets: how far the choice of test rows may have moved the number, at {said}. "
           "Intervals of two methods may overlap although one is better row by row: look at the difference, which "
           "is measured on the same rows.</p>" if levels else "")
    head = "".join(f'<th scope="col">{text_of(method)}</th>' for method in report.methods)
    rows = "".join(_metric(report, metric) for metric in report.metrics)
    return (f'<section class="long"><h2>Metrics</h2>{how}<div class="wide"><table><thead><tr>'
            f'<th scope="col">Metric</th><th scope="col">Unit</th>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div></section>")


def _metric(report: Report, metric: Metric) -> str:
    cells = []
    for method in report.methods:
        if method not in metric.values:
            cells.append('<td class="none">not measured</td>')
            continue
        difference = ""
        if method in metric.differences:
            difference = (f'<div class="difference">{_signed(metric.differences[method])} against '
                          f"{text_of(report.methods[0])}</div>")
        cells.append(f"<td>{_figure(metric.values[method])}{difference}</td>")
    return (f'<tr><th scope="row">{text_of(metric.name)}<div class="meaning">{text_of(metric.meaning)}</div></th>'
            f"<td>{text_of(metric.unit)}</td>{''.join(cells)}</tr>")


def _figure(value: Interval | float) -> str:
    if not isinstance(value, Interval):
        return f"<strong>{shown(value)}</strong>"
    decimals = _decimals(value)
    low, high = shown(value.low, decimals), shown(value.high, decimals)
    bounds = f"{low} to {high}"
    if math.isnan(value.low):
        bounds = "no interval"
    elif value.low == value.high:  # of nothing that varies; never a certainty
        bounds = "no interval: the same in all resamples"
    return f'<strong>{shown(value.estimate, decimals)}</strong> <span class="interval">({bounds})</span>'


def _signed(value: Interval) -> str:
    plus = "+" if value.estimate > 0 else ""
    return plus + _figure(value).replace("<strong>", "").replace("</strong>", "")


def _decimals(value: Interval) -> int | None:
    """As many as give the interval's width two digits."""
    width = value.high - value.low
    if not math.isfinite(width) or width <= 0:
        return None
    return max(0, 1 - math.floor(math.log10(width)))


# --- figures


def _reliability(report: Report) -> str:
    panels = []
    for at, (method, found) in enumerate(_ordered(report, report.reliability)):
        low, high = found.confidence - 1.96 * found.spread, found.confidence + 1.96 * found.spread
        style = report.methods.index(method)
        drawn = plot(
            f"reliability-{at}", f"Reliability of {method}",
            f"Share of rows that came true against confidence, in {len(found.rows)} bins. Expected calibration error "
            f"{shown(found.expected_error)}; by chance alone about {shown(found.error_if_calibrated)}.",
            Axis("confidence (probability given)", SHARE), Axis("share that came true", SHARE),
            [Ranges(found.confidence, low.clip(0, 1), high.clip(0, 1)), Guide((0, 1), (0, 1)),
             Line(found.confidence, found.frequency, style, mark_every=1)], 380, 360)
        table = _table(("confidence from", "to", "mean confidence", "share that came true", "rows"), zip(
            found.low, found.high, found.confidence, found.frequency, found.rows, strict=True), method)
        panels.append(
            f"<figure><figcaption>{swatch(style)} {text_of(method)}: calibration error "
            f"<strong>{shown(found.expected_error)}</strong>, of which chance alone gives a calibrated predictor about "
            f"{shown(found.error_if_calibrated)}</figcaption>{drawn}{table}</figure>")
    return _section(
        "Reliability", "Does what was given a probability of 0.8 come true in 8 of 10 rows? Points on the diagonal say "
        "yes; below it the predictor is overconfident. Bins hold about equally many rows. Grey bars: where 95 % of the "
        "points of a calibrated predictor would lie by chance.", f'<div class="panels">{"".join(panels)}</div>'
    ) if panels else ""


def _risk_coverage(report: Report) -> str:
    curves = _ordered(report, report.risk_coverage)
    if not curves:
        return ""
    lines, most, least = [], 0.0, 0.0
    tables = []
    for method, found in curves:
        at = _thinned(len(found.coverage), POINTS)
        lines.append(Line(found.coverage[at], found.risk[at], report.methods.index(method), mark_every=20))
        most, least = max(most, float(found.risk[at].max())), min(least, float(found.risk[at].min()))
        at = _thinned(len(found.coverage), TABLE_ROWS)
        tables.append(_table(("coverage", "risk", "highest score answered"), zip(
            found.coverage[at], found.risk[at], found.score[at], strict=True), method))
    drawn = plot("risk-coverage", "Risk and coverage", f"{report.loss} among the rows that are answered, against "
                 f"the share of rows that are answered, those with the lowest {report.score} first.",
                 Axis("coverage (share of rows that are answered)", SHARE), axis(report.loss, least, most), lines)
    return _section(
        "Risk and coverage",
        f"If only the rows with the lowest {report.score} are answered, how wrong are the answers? A useful score "
        "makes the curve fall to the left; a level line says that it knows nothing. The left end rests on few rows.",
        f"<figure>{_legend(report, [m for m, _ in curves])}{drawn}{''.join(tables)}</figure>")


def _interval_coverage(report: Report) -> str:
    curves = _ordered(report, report.interval_coverage)
    if not curves:
        return ""
    lines = [Line(found.level, found.coverage, report.methods.index(method), 1) for method, found in curves]
    tables = [_table(("level asked for", "share of rows inside", f"mean width ({report.target_unit})"), zip(
        found.level, found.coverage, found.width, strict=True), method) for method, found in curves]
    drawn = plot("interval-coverage", "Coverage of intervals",
                 "Share of rows whose target lies in its interval, against the level that was asked for.",
                 Axis("level that was asked for", SHARE), Axis("share of rows inside", SHARE),
                 [Guide((0, 1), (0, 1)), *lines])
    return _section(
        "Coverage of intervals", "Do intervals for 90 % hold 90 % of the targets? Below the diagonal they are too "
        "narrow. Coverage is over all rows together: rows of one kind may be covered less.",
        f"<figure>{_legend(report, [m for m, _ in curves])}{drawn}{''.join(tables)}</figure>")


def _histogram(report: Report, at: int) -> str:
    found = report.histograms[at]
    highest = max(float(shares.max()) for shares in found.shares.values())
    unit = f" ({found.unit})" if found.unit else ""
    drawn = plot(f"histogram-{at}", f"{found.name} in two sets", f"How {found.name} is spread over the rows of "
                 f"{' and of '.join(found.shares)}, as shares of each set.",
                 axis(f"{found.name}{unit}", float(found.edges[0]), float(found.edges[-1])),
                 axis("share of the set's rows", 0.0, highest),
                 [Steps(found.edges, shares, style) for style, shares in enumerate(found.shares.values())],
                 height=290)
    legend = "".join(f"<li>{swatch(style, filled=True)} {text_of(name)} ({found.rows[name]} rows)</li>"
                     for style, name in enumerate(found.shares))
    names = [*found.shares]
    apart = "" if found.separation is None else (
        f"<p>AUROC {_figure(found.separation)}: how often a row of {text_of(names[1])} has the higher score of two; "
        "0.5 says nothing, 1 is perfect, below 0.5 the score is upside down.</p>")
    table = _table((f"from{unit}", f"to{unit}", *(f"share of {name}" for name in names)), zip(
        found.edges[:-1], found.edges[1:], *found.shares.values(), strict=True))
    return _section(found.name, f"How the score is spread over {names[0]} and {names[1]}.", apart
                    + f'<figure><ul class="legend">{legend}</ul>{drawn}{table}</figure>')


def _section(title: str, text: str, content: str) -> str:
    return f"<section><h2>{text_of(title)}</h2><p>{text_of(text)}</p>{content}</section>"


def _legend(report: Report, methods: Sequence[str]) -> str:
    items = "".join(f"<li>{swatch(report.methods.index(method))} {text_of(method)}</li>" for method in methods)
    return f'<ul class="legend">{items}</ul>'


def _table(head: Sequence[str], rows: Iterable[Iterable[float]], of: str = "") -> str:
    """The numbers of a plot, folded away."""
    cells = "".join("<tr>" + "".join(f"<td>{shown(float(value))}</td>" for value in row) + "</tr>" for row in rows)
    names = "".join(f'<th scope="col">{text_of(name)}</th>' for name in head)
    return (f"<details><summary>The numbers{f' of {text_of(of)}' if of else ''}</summary>"
            f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{cells}</tbody></table></div></details>')


def _ordered(report: Report, by_method: Mapping[str, Curve]) -> list[tuple[str, Curve]]:
    return [(method, by_method[method]) for method in report.methods if method in by_method]


def _thinned(rows: int, most: int) -> Array:
    """Indexes of at most so many rows, evenly spread, the last among them."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).round().astype(np.int64))


CAVEATS = """<section><h2>What these numbers do not say</h2><ul>
<li>Intervals are about which test rows there happened to be. They take rows to be independent, and know nothing of
another training run, another seed of the masks or another population.</li>
<li>Averages over all rows hide groups: a model that is calibrated over all may not be over those who matter.</li>
<li>A low spread between dropout samples does not mean that a row is like those the model was trained on.</li>
</ul></section>"""

STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1b1b1b;--soft:#595959;--rule:#d4d4d4;--grey:#8a8a8a;
--s0:#0072b2;--s1:#c04f00;--s2:#007f5c;--s3:#a8457f;--s4:#7a6400}
@media (prefers-color-scheme:dark){:root{--page:#161616;--text:#ececec;--soft:#b0b0b0;--rule:#3d3d3d;--grey:#8a8a8a;
--s0:#56b4e9;--s1:#ff9b4a;--s2:#2fc79b;--s3:#e79ac6;--s4:#f0e442}}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 1rem;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:2.2rem 0 .4rem}
p{max-width:46rem;margin:.4rem 0 .8rem}li{max-width:46rem;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.4rem .9rem .4rem 0;border-bottom:1px solid var(--rule)}
thead th{border-bottom:2px solid var(--grey)}tbody th{font-weight:600;min-width:12rem;max-width:20rem}
.meaning,.difference,.interval,.none{color:var(--soft);font-weight:400;font-size:.87rem}.interval{white-space:nowrap}
figure{margin:.5rem 0 1.2rem}figcaption{margin:.2rem 0}details{margin:.3rem 0;font-size:.87rem}
summary{color:var(--soft);cursor:pointer}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));gap:0 1.5rem}
.panels figure{display:grid;grid-template-rows:subgrid;grid-row:span 3;gap:0}
.legend{list-style:none;padding:0;margin:.3rem 0;display:flex;flex-wrap:wrap;gap:.2rem 1.4rem}
td:nth-child(2){min-width:6rem}
svg{display:block;width:100%;height:auto}svg text{font:12.5px system-ui,sans-serif;fill:var(--text)}
.swatch{display:inline-block;width:34px;height:14px;vertical-align:-1px}
.grid{stroke:var(--rule)}.axis{fill:none;stroke:var(--grey)}.guide{fill:none;stroke:var(--grey);stroke-dasharray:4 4}
.range{fill:none;stroke:var(--grey);stroke-width:6;opacity:.4}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round}.fill{stroke-width:1.8;fill-opacity:.18}
.s0{stroke:var(--s0)}.s1{stroke:var(--s1)}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}.s4{stroke:var(--s4)}
.mark.s0,.fill.s0{fill:var(--s0)}.mark.s1,.fill.s1{fill:var(--s1)}.mark.s2,.fill.s2{fill:var(--s2)}
.mark.s3,.fill.s3{fill:var(--s3)}.mark.s4,.fill.s4{fill:var(--s4)}
@media print{:root{color-scheme:light;--page:#fff;--text:#000;--soft:#444;--rule:#ccc;--grey:#777;
--s0:#0072b2;--s1:#c04f00;--s2:#007f5c;--s3:#a8457f;--s4:#7a6400}
body{font-size:11pt}main{max-width:none;padding:0}figure,tr,p,section:not(.long){break-inside:avoid}h2,section>p{break-after:avoid}
.wide{overflow:visible}details:not([open]){display:none}svg{print-color-adjust:exact}
figure>svg{width:13cm}.panels figure>svg{width:100%}}
"""
