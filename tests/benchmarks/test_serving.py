"""What the comparison of servers may and may not say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders import CONTENDERS, EMPTY, ERRORBAR, ERRORBAR_WORKERS, LOOP, contenders
from benchmarks.plausibility import CALLS, ROWS, Truth, truth, unlike
from benchmarks.processes import DidNotStart, cpu_s, free_port, memory_bytes, runs, started, tree
from benchmarks.saturation import _DONE, _quoted
from benchmarks.serving import arguments_of
from benchmarks.serving_report import ratios, ratios_list, table
from benchmarks.traffic import digit_rows

PEER = "FastAPI, repeat the batch"


def of_route(rate: float, p50: float = 1.0, p99: float | None = 4.0, wrong: str = "", **outcomes: int) -> dict:
    at = {"latency_ms": {"p50": p50, "p99": p99}, "outcomes": {"200": 10, **outcomes}, "generator_late_ms": 0.1,
          "cpu_ms_a_request": 0.2}
    return {"wrong": wrong, "saturation": rate, "tried": [{"connections": 16, "rate": rate}],
            "at": {"50%": at, "80%": at}}


def server(**routes: dict) -> dict:
    return {"routes": routes, "memory_mib": 100.0, "idle_cpu_percent": 0.25}


def a_round(**changed: dict) -> dict:
    return {
        EMPTY: server(empty=of_route(10_000.0)),
        ERRORBAR: server(uncertainty=of_route(5000.0), predict=of_route(6000.0)),
        LOOP: server(uncertainty=of_route(400.0)), PEER: server(uncertainty=of_route(1500.0)), **changed,
    }


def test_ratios_are_within_a_round() -> None:
    slow = a_round() | {ERRORBAR: server(uncertainty=of_route(2500.0), predict=of_route(3000.0))}
    found = ratios([a_round(), slow])
    assert found[f"{ERRORBAR}: uncertainty / predict, requests a second"] == pytest.approx([5 / 6, 5 / 6])
    assert found[f"{ERRORBAR}: predict / empty route"] == pytest.approx([0.6, 0.3])
    assert found[f"{ERRORBAR}: uncertainty / usual loop's"] == pytest.approx([12.5, 6.25])
    assert found[f"{ERRORBAR}: uncertainty / best other peer's"] == pytest.approx([5000 / 1500, 2500 / 1500])
    assert found[f"{ERRORBAR}: p99 / p50 of uncertainty at 80 %"] == [4.0, 4.0]
    assert not any(name.startswith(ERRORBAR_WORKERS) for name in found)
    assert f"- {ERRORBAR}: predict / empty route: **0.45** (0.30 to 0.60 over 2 rounds)" in ratios_list(found)


def test_a_server_that_is_wrong_or_did_not_start_is_no_peer() -> None:
    found = ratios([{**a_round(), "LitServe, batching": server(uncertainty=of_route(9000.0, wrong="std is 0")),
                     "MLServer, adaptive batching": {"failed": "not installed"}}])
    assert found[f"{ERRORBAR}: uncertainty / best other peer's"] == pytest.approx([5000 / 1500])
    assert f"{ERRORBAR}: uncertainty / usual loop's" not in ratios([{**a_round(), LOOP: {"failed": "not installed"}}])


def test_the_table_says_what_is_wrong_lost_or_missing() -> None:
    rounds = [{**a_round(), PEER: server(uncertainty=of_route(1500.0, wrong="std is 0")),
               "LitServe, batching": {"failed": "not installed"},
               LOOP: server(uncertainty=of_route(400.0, p50=None, p99=None, closed=3))}]
    text = table({"cores": 1, "generator_shares_cores": False, "wrk": True, "rounds": rounds})
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "1500 ✗" in lines[PEER]
    assert "✗" not in lines[LOOP]
    assert " – " in lines[LOOP]
    assert f"- {PEER}, uncertainty: wrong: std is 0" in text
    assert "- LitServe, batching: not installed" in text
    assert "at 80%, besides 200: 3 closed" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


@pytest.fixture(scope="module")
def known() -> Truth:
    return truth()


def drawn(known: Truth, spread: float, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).normal(size=(CALLS, *known.mean.shape))
    std = np.sqrt(known.variance)
    return known.mean + noise * std / 50**0.5 + shift * std, np.broadcast_to(spread * std, noise.shape)


def test_true_moments_are_plausible_and_wrong_ones_are_not(known) -> None:
    assert known.mean.shape == known.plain.shape == (ROWS, 10)
    assert np.sqrt(known.variance).max() > 0.05  # rows that tell a server with dropout off from one with it on
    assert unlike(*drawn(known, 1.0), known) == ""
    assert unlike(*drawn(known, 0.0), known) == "std is 0"
    assert unlike(*drawn(known, 0.8), known) == "std is 0.80 of the true one"
    assert unlike(*drawn(known, 1.3), known) == "std is 1.30 of the true one"
    assert unlike(*drawn(known, 1.0, shift=1.0), known).startswith("mean is off by")


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_request_of_every_server_has_the_row_and_its_length(name) -> None:
    row = digit_rows(1, 0)[0]
    for route in CONTENDERS[name].routes.values():
        head, _, body = route.request(row, 3).partition(b"\r\n\r\n")
        assert head.startswith((b"POST /", b"GET /"))
        assert f"Content-Length: {len(body)}".encode() in head
        assert json.dumps(row, separators=(",", ":")) in body.decode()
        assert json.loads(body)


@pytest.mark.parametrize(("name", "answer"), [
    (ERRORBAR, {"predictions": [{"mean": [0.25, 0.75], "std": [0.1, 0.2]}]}),
    (LOOP, {"mean": [[0.25, 0.75]], "std": [[0.1, 0.2]]}),
    ("LitServe, batching", {"mean": [[0.25, 0.75]], "std": [[0.1, 0.2]]}),
    ("MLServer, adaptive batching", {"outputs": [{"name": "mean", "data": [0.25, 0.75]},
                                                 {"name": "std", "data": [0.1, 0.2]}]}),
])
def test_an_answer_of_every_server_is_read_to_its_moments(name, answer) -> None:
    read = CONTENDERS[name].routes["uncertainty"].read
    assert read is not None
    mean, std = read(answer)
    assert mean.tolist() == [0.25, 0.75]
    assert std.tolist() == [0.1, 0.2]


def test_workers_are_compared_where_there_is_more_than_one_core() -> None:
    assert ERRORBAR_WORKERS not in contenders(1)
    assert list(contenders(2)) == list(CONTENDERS)
    assert CONTENDERS[ERRORBAR_WORKERS].environment(1, 2)["ERRORBAR_WORKERS"] == "2"
    assert CONTENDERS[ERRORBAR].environment(1, 2)["ERRORBAR_THREADS"] == "2"


def test_a_request_is_a_string_of_lua_and_what_wrk_says_is_read() -> None:
    assert _quoted(b'a "b"\\\r\n') == '"a \\"b\\"\\\\\\r\\n"'
    found = _DONE.search("Requests/sec: 1\nrequests 120 duration 2000000 refused 20 lost 1\n")
    assert found is not None
    assert found.groups() == ("120", "2000000", "20", "1")


def test_the_pinned_peers_are_those_of_the_page() -> None:
    folder = Path(__file__).parent.parent.parent
    page = (folder / "docs" / "benchmarks.md").read_text()
    for title, package, file in (("LitServe", "litserve", "litserve"), ("MLServer", "mlserver", "mlserver")):
        pins = (folder / "benchmarks" / "serving_peers" / f"{file}.txt").read_text()
        version = re.search(rf"^{package}==(\S+)$", pins, re.MULTILINE)
        assert version is not None
        assert re.search(rf"\| {title}, .* \| {re.escape(version[1])}, ", page)


def test_a_started_server_and_what_it_started_are_measured_and_ended(tmp_path) -> None:
    port = free_port()
    command = ["bash", "-c", f"exec python3 -m http.server {port} --bind 127.0.0.1 & wait"]
    with started(command, {}, [0], f"http://127.0.0.1:{port}/", tmp_path / "log") as pid:
        pids = tree(pid)
        assert len(pids) == 2
        assert memory_bytes(pid) > 1 << 20
        assert cpu_s(pid) > 0
    assert [one for one in pids if runs(one)] == []


def test_a_server_that_does_not_start_says_why(tmp_path) -> None:
    command = ["bash", "-c", "echo one; echo 'ValueError: no such model'; echo bye; exit 1"]
    with pytest.raises(DidNotStart, match=r"^ValueError: no such model"), \
            started(command, {}, [0], f"http://127.0.0.1:{free_port()}/", tmp_path / "log"):
        pass


def test_a_short_run_can_be_asked_for() -> None:
    assert arguments_of(["--quick", "--cores", "1"]).cores == [1]
    assert arguments_of([]).cores == [1, 2]
