"""A report shows every number with its unit, needs nothing from outside, and takes all it is given for text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from service.evaluation.bootstrap import Interval
from service.evaluation.reliability import gaussian_interval_coverage, reliability, top_label
from service.evaluation.report import STYLE, Metric, Report, render, score_histogram
from service.evaluation.scores import class_errors
from service.evaluation.selection import risk_coverage
from tests.evaluation.made import classified, measured


def made(word: str = "", rows: int = 200) -> Report:
    """With everything that a report can have; `word` stands in every text."""
    p, y = classified(rows)
    mean, std, target = measured(rows)
    first, second = f"eval{word}", f"dropout{word}"
    return Report(
        title=f"Evaluation{word}", methods=(first, second),
        metrics=(Metric(f"Accuracy{word}", f"Higher is better{word}", f"share of rows{word}",
                        {first: Interval(0.9, 0.85, 0.95, 0.95), second: 0.91},
                        {second: Interval(0.01, -0.1, 0.2, 0.95)}),),
        facts={f"model{word}": f"digits{word}"}, notes=(f"Note{word}",),
        reliability={m: reliability(*top_label(p, y)) for m in (first, second)},
        risk_coverage={m: risk_coverage(class_errors(p, y), -p.max(1)) for m in (first, second)},
        loss=f"error rate{word}", score=f"entropy{word}", target_unit=f"mm{word}",
        interval_coverage={m: gaussian_interval_coverage(mean, std, target) for m in (first, second)},
        histograms=(score_histogram(f"Entropy{word}", f"nats{word}", {f"in{word}": p[:, 0], f"out{word}": p[:, 1]},
                                    Interval(0.8, 0.7, 0.9, 0.95)),))


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>\n"))


def text(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def shape(element: ElementTree.Element) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Tags and names of attributes in their order."""
    for e in element.iter():
        yield e.tag, tuple(e.attrib)


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onload='alert(1)", "</style></title><b>",
           "</svg>", "&lt;b&gt;", "]]>", "<!--", "javascript:alert(1)", "{{7*7}}", "%0a\r\nx", "\x00\x1b[31m", "\ud800"]


@pytest.mark.parametrize("word", HOSTILE)
def test_what_comes_from_outside_changes_nothing_but_text(word) -> None:
    harmless = "x" * len(word)
    found = parsed(render(made(word)).encode().decode())
    assert [*shape(found)] == [*shape(parsed(render(made(harmless))))]
    attributes = {value for e in found.iter() for value in e.attrib.values()}
    assert attributes == {value for e in parsed(render(made(harmless))).iter() for value in e.attrib.values()}
    seen = text(found)
    kept = " ".join("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in word).split())
    for name in ("Evaluation", "eval", "dropout", "Accuracy", "Higher is better", "share of rows", "model", "digits",
                 "Note", "Entropy", "in", "out"):
        assert f"{name}{kept}".rstrip() in seen, name


def test_letters_that_turn_the_order_of_reading_round_are_shown_as_such() -> None:
    assert "\u202e" not in render(made("\u202egnp.exe"))
    assert "eval\ufffdgnp.exe" in render(made("\u202egnp.exe"))


def test_the_file_asks_for_nothing_outside_itself_and_runs_nothing() -> None:
    html = render(made())
    for word in ("http:", "https:", "//", "src=", "href", "url(", "@import", "<script", "<iframe", "<link"):
        assert word not in html.replace("<!DOCTYPE html>", ""), word
    assert not [a for e in parsed(html).iter() for a in e.attrib if a.startswith("on")]
    assert "default-src 'none'" in html


def test_every_figure_is_described_and_no_two_things_have_the_same_id() -> None:
    found = parsed(render(made()))
    ids = [e.attrib["id"] for e in found.iter() if "id" in e.attrib]
    assert len(set(ids)) == len(ids)
    plots = [e for e in found.iter("svg") if e.get("aria-hidden") != "true"]
    assert len(plots) == 2 + 1 + 1 + 1
    for svg in plots:
        assert set(svg.attrib["aria-labelledby"].split()) <= {*ids}
        assert svg.attrib["role"] == "img"
    assert len([*found.iter("details")]) == 2 + 2 + 2 + 1  # the numbers of every curve
    assert found.attrib["lang"] == "en"


def test_a_metric_is_shown_with_its_unit_its_meaning_its_interval_and_its_difference() -> None:
    row = next(e for e in parsed(render(made())).iter("tr") if "Accuracy" in text(e))
    assert [text(cell) for cell in row] == [
        "AccuracyHigher is better", "share of rows", "0.90 (0.85 to 0.95)", "0.91+0.01 (-0.10 to 0.20) against eval"]
    assert "at 95 %." in render(made())


@pytest.mark.parametrize(("value", "expected"), [
    (Interval(0.12345, 0.12345 - 0.002, 0.12345 + 0.002, 0.95), "0.1235 (0.1215 to 0.1255)"),
    (Interval(1234.5, 1200.0, 1300.0, 0.9), "1234 (1200 to 1300)"),
    (Interval(math.inf, 2.5, math.inf, 0.95), "∞ (2.5 to ∞)"),
    (Interval(math.nan, math.nan, math.nan, 0.95), "not defined (no interval)"),
    (Interval(0.5, 0.5, 0.5, 0.95), "0.5 (no interval: the same in all resamples)"),
    (0.098314, "0.09831"), (None, "not measured"),
])
def test_a_number_has_as_many_digits_as_its_interval_allows(value, expected) -> None:
    metric = Metric("m", "", "nats", {} if value is None else {"a": value})
    row = next(e for e in parsed(render(Report("t", ("a",), (metric,)))).iter("tr") if text(e[0]) == "m")
    assert text(row[2]) == expected


def test_what_is_empty_is_left_out() -> None:
    found = parsed(render(Report("t", ("a",))))
    assert [text(e) for e in found.iter("h2")] == ["What these numbers do not say"]
    assert [*found.iter("svg")] == []


def test_a_method_keeps_its_style_in_every_figure_also_where_another_is_missing() -> None:
    report = made()
    alone = replace(report, risk_coverage={"dropout": report.risk_coverage["dropout"]})
    section = next(e for e in parsed(render(alone)).iter("section") if text(e[0]) == "Risk and coverage")
    lines = [e.attrib["class"] for e in section.iter("path") if e.attrib["class"].startswith("line")]
    assert lines == ["line s1", "line s1"]  # in the legend and in the plot
    panel = next(e for e in parsed(render(report)).iter("figure") if text(e).startswith("dropout"))
    assert {"line s1", "mark s1"} < {e.attrib["class"] for e in panel.iter("path")}


def test_where_points_may_lie_by_chance_is_never_outside_0_to_1() -> None:
    sure = reliability([0.01, 0.02, 0.99, 1.0] * 5, [0, 0, 1, 1] * 5, bins=4)
    found = parsed(render(Report("t", ("a",), reliability={"a": sure})))
    d = next(e.attrib["d"] for e in found.iter("path") if e.attrib["class"] == "range")
    heights = [float(y) for pair in re.findall(r"M[\d.-]+ ([\d.-]+)V([\d.-]+)", d) for y in pair]
    assert (min(heights), max(heights)) == (12, 360 - 52)


def test_a_report_of_many_rows_is_not_much_larger_than_one_of_few() -> None:
    assert len(render(made(rows=50_000))) < 1.5 * len(render(made(rows=500)))


def test_curves_of_one_row_and_of_negative_scores_are_drawn() -> None:
    report = Report("t", ("a",), risk_coverage={"a": risk_coverage([1.0], [-3.0])},
                    reliability={"a": reliability([1.0], [1])},
                    histograms=(score_histogram("s", "", {"in": [0.0], "out": [0.0, 0.0]}),))
    assert "nan" not in render(report).replace("names", "")
    assert len([*parsed(render(report)).iter("svg")]) == 3 + 4


def test_shares_of_a_histogram_are_of_each_sets_own_rows_and_none_is_lost() -> None:
    found = score_histogram("s", "nats", {"in": [0.0, 1.0, 2.0, 3.0], "out": [6.0, 6.0]}, bins=3)
    assert found.edges.tolist() == [0, 2, 4, 6]
    assert found.shares["in"].tolist() == [0.5, 0.5, 0]
    assert found.shares["out"].tolist() == [0, 0, 1]
    assert found.rows == {"in": 4, "out": 2}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: render(Report("t", ())), "methods: distinct names, at least one, expected, got"),
    (lambda: render(Report("t", ("a", "a"))), "methods: distinct names"),
    (lambda: render(Report("t", ("a",), (Metric("m", "", "", {"b": 1.0}),))),
     "values of m: one of a expected, got 'b'"),
    (lambda: render(replace(made(), methods=("eval",), metrics=())),
     "reliability: one of eval expected, got 'dropout'"),
    (lambda: score_histogram("s", "", {"in": [1.0]}), "sets: two expected, got 1"),
    (lambda: score_histogram("s", "", {"in": [1.0], "out": []}), "out: at least one row expected"),
    (lambda: score_histogram("s", "", {"in": [1.0], "out": [math.inf]}), "out: finite numbers expected, got inf"),
])
def test_what_cannot_be_shown_rightly_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def luminance(colour: str) -> float:
    """Relative, as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[k: k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("mode", [0, 1, 2], ids=["light", "dark", "paper"])
def test_text_and_lines_stand_out_from_the_page(mode) -> None:
    colours = dict(re.findall(r"--(\w+):(#\w+)", re.findall(r":root\{([^}]*)\}", STYLE)[mode]))
    assert {*colours} == {"page", "text", "soft", "rule", "grey", "s0", "s1", "s2", "s3", "s4"}

    def contrast(name: str) -> float:
        dark, light = sorted((luminance(colours[name]), luminance(colours["page"])))
        return (light + 0.05) / (dark + 0.05)

    assert min(contrast("text"), contrast("soft")) >= 4.5
    assert min(contrast(name) for name in ("grey", "s0", "s1", "s2", "s3", "s4")) >= 3
