"""The generator tells what became of every request, from the time it was meant to be sent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks.load import closed_loop, loopback, open_loop
from benchmarks.outcomes import Result
from benchmarks.traffic import Arrivals, Part, poisson
from tests.benchmarks.scripted_server import OK, Script, ScriptedServer

REQUEST = b"x" * 40


def at(*times: float, patience: float = np.inf, request: bytes = REQUEST) -> Arrivals:
    count = len(times)
    return Arrivals(
        ("all",), np.array(times), np.zeros(count, np.int16), [request] * count, np.full(count, patience), 10.0)


@contextmanager
def scripted(script: Script, request: bytes = REQUEST) -> Iterator[ScriptedServer]:
    server = ScriptedServer(script, len(request))
    try:
        yield server
    finally:
        server.end()


def ran(script: Script, arrivals: Arrivals, **options: object) -> Result:
    with scripted(script, arrivals.requests[0]) as server:
        return open_loop(server.connect, arrivals, clock=server, **options)


def after(seconds: float, answer: bytes = OK) -> Script:
    return lambda _, now: [(now + seconds, answer)]


def test_latency_is_the_servers_time_where_it_answers_at_once() -> None:
    result = ran(after(0.25), at(1.0, 2.0, 3.0))
    assert result.latencies_ms() == pytest.approx([250.0] * 3)
    assert result.counts() == {"200": 3}
    assert result.held == 0


def test_a_stalled_server_delays_every_request_that_was_due_meanwhile() -> None:
    """One connection, the server stalls from 1.0 to 5.0: a closed loop would have seen one slow request of four."""
    result = ran(lambda number, now: [(5.0 if number == 0 else now + 0.5, OK)], at(1.0, 2.0, 3.0, 4.0), connections=1)
    assert result.latencies_ms() == pytest.approx([4000.0, 3500.0, 3000.0, 2500.0])
    assert result.held == 3
    assert result.late_ms == pytest.approx(0.0)


def test_requests_do_not_wait_for_each_other_where_connections_are_left() -> None:
    with scripted(lambda number, now: [(5.0 if number == 0 else now + 0.5, OK)]) as server:
        result = open_loop(server.connect, at(1.0, 2.0, 3.0), clock=server)
        assert result.latencies_ms() == pytest.approx([4000.0, 500.0, 500.0])
        assert server.received == [1.0, 2.0, 3.0]


def test_a_connection_is_kept_and_used_again_but_not_when_it_is_stale() -> None:
    with scripted(after(0.1)) as server:
        open_loop(server.connect, at(1.0, 2.0, 3.0), clock=server)
        assert server.connections == 1
    with scripted(after(0.1)) as server:
        result = open_loop(server.connect, at(1.0, 9.0), clock=server)
        assert server.connections == 2
        assert result.counts() == {"200": 2}


def test_a_client_that_leaves_closes_its_connection_then_and_counts_as_left() -> None:
    with scripted(after(5.0)) as server:
        result = open_loop(server.connect, at(1.0, patience=0.5), clock=server)
        server.wait(0, 0.0)
        assert result.counts() == {"left": 1}
        assert result.ended_s == pytest.approx([1.5])
        assert server.left == [1.5]


def test_a_client_that_was_answered_before_does_not_leave() -> None:
    assert ran(after(0.2), at(1.0, patience=0.5)).counts() == {"200": 1}


def test_a_client_may_leave_before_there_was_a_connection_for_it() -> None:
    arrivals = at(1.0, 2.0)
    arrivals.patience_s[1] = 0.5
    with scripted(after(3.0)) as server:
        result = open_loop(server.connect, arrivals, connections=1, clock=server)
        assert result.counts() == {"200": 1, "left": 1}
        assert len(server.received) == 1


@pytest.mark.parametrize("cut", [1, 9, 20, len(OK) - 5, len(OK) - 1])
def test_an_answer_may_come_in_pieces(cut) -> None:
    result = ran(lambda _, now: [(now + 0.1, OK[:cut]), (now + 0.3, OK[cut:])], at(1.0), keep_bodies=True)
    assert result.latencies_ms() == pytest.approx([300.0])
    assert result.bodies == {0: b"{}"}


def test_headers_are_read_in_any_case_and_order() -> None:
    answer = b"HTTP/1.1 429 Too Many\r\nretry-after: 1\r\ncontent-length:  3\r\nX: content-length: 9\r\n\r\nabc"
    result = ran(after(0.1, answer), at(1.0), keep_bodies=True)
    assert result.counts() == {"429": 1}
    assert result.bodies == {0: b"abc"}
    assert result.percentiles(429).p50 == pytest.approx(100.0)
    assert np.isnan(result.percentiles(200).p50)


@pytest.mark.parametrize(("answer", "counts"), [
    (b"HTTP/1.1 204 No Content\r\n\r\n", {"204": 1}),
    (b"HTTP/1.1 200 OK\r\n\r\n", {"unreadable": 1}),
    (b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n", {"unreadable": 1}),
    (OK + b"more", {"unreadable": 1}),
    (OK[:-1], {"unanswered": 1}),
])
def test_what_is_no_answer_with_a_length_is_not_counted_as_one(answer, counts) -> None:
    assert ran(after(0.1, answer), at(1.0), drain_s=1.0).counts() == counts


@pytest.mark.parametrize("pieces", [[b""], [OK[:10], b""], [OK[:-1], b""]])
def test_a_connection_that_the_server_closes_before_the_answer_is_whole_counts_as_closed(pieces) -> None:
    result = ran(lambda _, now: [(now + 0.1, piece) for piece in pieces], at(1.0, 2.0))
    assert result.counts() == {"closed": 2}


def test_an_idle_connection_that_the_server_closes_is_nobodys_loss() -> None:
    result = ran(lambda _, now: [(now + 0.1, OK), (now + 0.2, b"")], at(1.0, 2.0))
    assert result.counts() == {"200": 2}


def test_a_connection_of_which_the_server_says_close_is_not_used_again() -> None:
    with scripted(after(0.1, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))) as server:
        assert open_loop(server.connect, at(1.0, 2.0), clock=server).counts() == {"200": 2}
        assert server.connections == 2


def test_a_request_larger_than_the_socket_takes_is_sent_in_pieces() -> None:
    assert ran(after(0.1), at(1.0, request=b"x" * 5_000_000)).counts() == {"200": 1}


def test_a_server_that_is_not_there_refuses() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        connect = loopback(f"http://127.0.0.1:{taken.getsockname()[1]}")
        result = open_loop(connect, at(0.0, 0.001), drain_s=10.0)
    assert result.counts() == {"refused": 2}


def test_what_is_not_answered_when_the_run_ends_is_said() -> None:
    result = ran(lambda *_: [], at(1.0, 2.0), connections=1, drain_s=3.0)
    assert result.counts() == {"unanswered": 2}
    assert result.ended_s == pytest.approx([13.0, 13.0])


def test_a_closed_loop_has_so_many_in_flight_and_ends_in_time() -> None:
    with scripted(after(0.5)) as server:
        result = closed_loop(server.connect, [REQUEST], connections=3, seconds=2.0, clock=server)
        assert result.counts() == {"200": 12}
        assert server.connections == 3
        assert result.goodput() == pytest.approx(6.0)
        assert result.latencies_ms() == pytest.approx([500.0] * 12)


def test_a_closed_loop_ends_at_a_count_too() -> None:
    with scripted(after(0.5)) as server:
        result = closed_loop(server.connect, [REQUEST], connections=2, seconds=100.0, most=5, clock=server)
        assert result.counts() == {"200": 5}
        assert result.seconds == pytest.approx(1.5)


def test_goodput_counts_what_was_answered_while_requests_were_sent() -> None:
    assert ran(after(2.0), at(1.0, 2.0, 9.0)).goodput() == pytest.approx(2 / 10.0)


def test_what_came_while_the_server_warmed_up_can_be_left_out() -> None:
    result = ran(lambda number, now: [(now + (3.0 if number == 0 else 0.1), OK)], at(1.0, 5.0, 6.0), keep_bodies=True)
    later = result.after(4.0)
    assert later.latencies_ms() == pytest.approx([100.0, 100.0])
    assert (later.seconds, len(later.bodies)) == (6.0, 2)
    assert later.as_dict()["latency_ms"]["greatest"] == pytest.approx(100.0)


def test_what_became_of_each_part_is_told_apart() -> None:
    mix = [Part("fast", [b"f" * 40]), Part("slow", [b"s" * 40])]
    arrivals = poisson(mix, 20.0, 5.0, seed=0)
    result = ran(after(0.1), arrivals)
    assert result.counts("fast") == {"200": int((arrivals.part == 0).sum())}
    assert result.counts("slow") == {"200": int((arrivals.part == 1).sum())}


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "http://127.0.0.1", "https://127.0.0.1:8080"])
def test_only_a_server_of_this_machine_is_loaded(url) -> None:
    with pytest.raises(ValueError, match="expected, got"):
        loopback(url)
