"""What the comparison may and may not say."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.compared_networks import NETWORKS, deterministic_flop_share
from benchmarks.peers import ENGINE
from benchmarks.rightness import reference
from benchmarks.versus import cell, closing, network_table, ready, summary, together
from tests.benchmarks.test_rightness import NORMALISED


def test_a_way_that_is_wrong_is_marked_and_never_the_best_peer() -> None:
    truth = reference(NORMALISED, 1000)
    ways, found, notes = ready(NORMALISED, truth, 10)
    right = {name for name, each in found.items() if each.right}
    one = cell(NORMALISED, 2, ways, right, truth, budget_s=0.1, memory_gib=1)
    assert one["best_right_peer"] in right - {"usual loop", *ENGINE.values()}
    assert one["ratio"].keys() == {ENGINE["float32"]} | right & {ENGINE["bfloat16"]}
    table = {"title": "", "deterministic_flop_share": 0.5, "notes": notes, "cells": [one],
             "right": {name: each.right for name, each in found.items()}}
    heads, _, cells = (line.split(" | ") for line in network_table(table).splitlines()[4:7])
    shown = dict(zip(heads, cells, strict=True))
    assert shown["usual loop"].endswith("✗")
    assert "✗" not in shown["careful loop"]
    assert "- usual loop: wrong: " in network_table(table)


def test_the_geometric_mean_is_over_the_cells_that_the_engine_serves() -> None:
    name = ENGINE["float32"]
    ratios = [{name: 2.0}, {}, {name: 8.0}]
    cells = [{"rows": n, "ratio": r, "ratio_without_cache": r} for n, r in zip((1, 8, 32), ratios, strict=True)]
    told = summary({"net": {"cells": cells}})[name]["ratio"]
    assert told["geometric_mean"] == pytest.approx(math.sqrt(16))
    assert (told["cells"], told["least"], told["least_cell"]) == (2, 2.0, "net at 1")
    assert "geometric mean **4.0** over 2 cells, least 2.00 (net at 1)" in closing({"summary": {name: {"ratio": told}}})


def test_networks_that_were_measured_apart_are_told_together_but_none_twice(tmp_path) -> None:
    files = [tmp_path / f"{name}.json" for name in ("mlp", "cnn")]
    for file in files:
        file.write_text(json.dumps({"networks": {file.stem: {"cells": []}}}))
    assert list(together(files)) == ["mlp", "cnn"]
    with pytest.raises(ValueError, match="measured in another file too: mlp"):
        together([*files, files[0]])


@pytest.mark.parametrize(("net", "share"), [("mlp", 512 * 256 / (512 * 256 + 256 * 128 + 128 * 10)), ("lstm", 0.43)])
def test_the_deterministic_share_is_of_what_comes_before_the_first_site(net, share) -> None:
    assert deterministic_flop_share(NETWORKS[net]) == pytest.approx(share, abs=0.005)
