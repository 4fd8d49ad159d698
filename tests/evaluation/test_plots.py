"""Axes hold what is drawn, points stand where their numbers say, and styles differ without colour."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evaluation.plots import SHARE, Axis, Guide, Line, Ranges, Steps, axis, plot, shown, swatch, text_of

SIZES = st.floats(-1e9, 1e9)


@given(low=SIZES, span=st.floats(1e-6, 1e9))
def test_an_axis_holds_its_range_with_a_few_round_ticks_of_different_names(low, span) -> None:
    found = axis("", low, low + span)
    step = found.ticks[1] - found.ticks[0]
    assert found.ticks[0] <= low + 1e-6 * step
    assert found.ticks[-1] >= low + span - 1e-6 * step
    assert 2 <= len(found.ticks) <= 12
    assert len({*found.names()}) == len(found.ticks)


@pytest.mark.parametrize(("low", "high", "names"), [
    (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]), (-3, 12, ["-5", "0", "5", "10", "15"]),
    (0.0, 0.00031, ["0.0000", "0.0001", "0.0002", "0.0003", "0.0004"]),
    (0, 1e-7, ["0", "2e-08", "4e-08", "6e-08", "8e-08", "1e-07"]),
    (0, 0, ["-0.6", "-0.4", "-0.2", "0.0", "0.2", "0.4", "0.6"]),
    (4, 4, ["2", "3", "4", "5", "6"]), (0, 3e7, ["0", "1e+07", "2e+07", "3e+07"]),
])
def test_ticks_are_named_as_people_would(low, high, names) -> None:
    assert axis("", low, high).names() == names


def paths(svg: str, kind: str) -> list[str]:
    return [e.attrib["d"] for e in ElementTree.fromstring(svg).iter("path") if e.attrib["class"].split()[0] == kind]


def test_points_stand_where_their_numbers_say() -> None:
    x, y = Axis("x", (0.0, 10.0)), Axis("y", (-1.0, 1.0))
    svg = plot("p", "t", "d", x, y, [Line((0, 5, 10), (-1, 0, 1), 0), Guide((0, 10), (1, 1)), Ranges((5,), (-1,), (0,)),
                                     Steps((0, 5, 10), (1, 0), 1)], 182, 164)  # 100 × 100 between the axes
    assert paths(svg, "line") == ["M66.0 112.0L116.0 62.0L166.0 12.0"]
    assert paths(svg, "guide") == ["M66.0 12.0L166.0 12.0"]
    assert paths(svg, "range") == ["M116.0 112.0V62.0"]
    assert paths(svg, "fill") == ["M66.0 62.0L66.0 12.0L116.0 12.0L116.0 62.0L166.0 62.0L166.0 62.0Z"]


def test_marks_stand_on_the_last_point_and_every_so_many_before_it() -> None:
    x = Axis("", (0.0, 4.0))
    for every, marks in ((0, []), (1, [166, 141, 116, 91, 66]), (2, [166, 116, 66]), (3, [166, 91]), (9, [166])):
        found = paths(plot("p", "t", "d", x, x, [Line(range(5), range(5), 1, every)], 182, 164), "mark")
        assert [float(v) + 3.2 for d in found for v in re.findall(r"M([\d.]+)", d)] == pytest.approx(marks)


def test_a_plot_says_in_words_what_it_shows_and_what_its_axes_count() -> None:
    svg = ElementTree.fromstring(plot("p", "Title", "Text", Axis("speed (m/s)", SHARE), Axis("rows", SHARE), []))
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-labelledby"] == "p-title p-text"
    assert {e.attrib["id"]: e.text for e in svg if "id" in e.attrib} == {"p-title": "Title", "p-text": "Text"}
    assert {"speed (m/s)", "rows"} <= {e.text for e in svg.iter("text")}


def test_a_label_that_is_too_long_is_cut_and_says_so() -> None:
    svg = plot("p", "t", "d", Axis("x" * 500, SHARE), Axis("y" * 500, SHARE), [])
    assert re.search(r">x{50,90}…</text>", svg)
    assert re.search(r">y{30,60}…</text>", svg)


def test_lines_differ_by_dash_and_mark_as_well_as_by_colour() -> None:
    drawn = [ElementTree.fromstring(swatch(style)) for style in range(20)]
    looks = [(e[0].attrib["class"], e[0].get("stroke-dasharray")) for e in drawn]
    assert len({*looks}) == 20
    assert len({e[0].get("stroke-dasharray") for e in drawn[:4]}) == 4
    assert len({e[1].attrib["d"] for e in drawn[:4]}) == 4


@pytest.mark.parametrize(("value", "decimals", "text"), [
    (0.123456, None, "0.1235"), (0.123456, 2, "0.12"), (float("inf"), 2, "∞"), (-float("inf"), None, "-∞"),
    (float("nan"), 2, "not defined"), (1e-9, 12, "1e-09"), (12345.0, 0, "12345"), (1e20, 2, "1e+20"),
])
def test_numbers_are_shown_as_people_read_them(value, decimals, text) -> None:
    assert shown(value, decimals) == text


@given(st.text(st.characters(codec=None, exclude_categories=[])))
def test_any_text_is_shown_as_text_and_nothing_else(text) -> None:
    read = ElementTree.fromstring(f'<a b="{text_of(text)}">{text_of(text)}</a>'.encode().decode())
    assert len(read) == 0
    assert len(read.text or "") == len(text)
    assert not set(text_of(text)) & set("<>\"'\u202e\u2066\x00")
