"""Models are captured and probed while others answer: neither disturbs the other, and torch's flags are put back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.architectures.mlp import MLP
from service.sampling import prepare
from service.sampling.process_wide import Shared, traced_alone

PATIENCE_S = 60.0


CALL = nn.Module.__call__
EVENTS = {name: threading.Event() for name in ("tracing", "inside", "left")}


def pass_on(said: str, awaited: str) -> None:
    EVENTS[said].set()
    assert EVENTS[awaited].wait(PATIENCE_S)


class First(nn.Module):
    """Part of the network that is captured: ends while the other network is inside a part of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if nn.Module.__call__ is not CALL:  # it is traced
            pass_on("tracing", "inside")
        return x * 2


class Second(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if nn.Module.__call__ is not CALL:
            EVENTS["left"].set()
        return x + 1


class Inside(nn.Module):
    """Part of the network that answers."""

    def forward(self, x: Tensor) -> Tensor:
        if EVENTS["tracing"].is_set() and not EVENTS["left"].is_set():
            pass_on("inside", "left")
        return x * 1


class Branching(nn.Module):
    """An `if` on data: it cannot be captured, so its modules are called while it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.drop, self.head = Inside(), nn.Dropout(0.5), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.inside(x))) * (1 if float(x.sum()) < 1e9 else 0)


def test_a_network_that_runs_as_it_is_answers_while_another_one_is_captured() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3)
    serving = prepare(Branching(), x, "classification")
    assert serving.eager_reason
    lone = serving.predict(x)
    found: list[Tensor] = []

    def answer() -> None:
        assert EVENTS["tracing"].wait(PATIENCE_S)
        try:
            found.append(serving.predict(x))
        finally:
            EVENTS["inside"].set()

    thread = threading.Thread(target=answer)
    thread.start()
    twice = nn.ReLU()  # of a module that stands at two places torch's tracer hands out stand-ins, to everybody
    network = nn.Sequential(First(), twice, Second(), twice, nn.Dropout(0.5))
    try:
        captured = prepare(network, torch.randn(2, 3), "generic")
    finally:
        EVENTS["left"].set()
        thread.join(PATIENCE_S)
    assert captured.eager_reason == ""
    assert [torch.equal(answer, lone) for answer in found] == [True]


def test_capturing_leaves_the_way_modules_are_called_as_it_was() -> None:
    from torch.fx.experimental.proxy_tensor import _ModuleStackTracer

    before = _ModuleStackTracer.call_module, _ModuleStackTracer.getattr
    with traced_alone(), traced_alone():
        assert _ModuleStackTracer.call_module is not before[0]
    prepare(MLP(3, (4,), 2, (0.5,)), torch.zeros(2, 3), "classification")
    assert (_ModuleStackTracer.call_module, _ModuleStackTracer.getattr) == before


class Log:
    """A setting that says when it was set and put back."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def setting(self, value: str):
        @contextmanager
        def entered() -> Iterator[None]:
            self.said.append(f"set {value}")
            yield
            self.said.append(f"put back {value}")

        return entered


def test_who_needs_the_same_value_shares_it_and_the_last_one_puts_it_back() -> None:
    log, shared = Log(), Shared()
    first, second = (shared.held("a", log.setting("a")) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert log.said == ["set a"]
    second.__exit__(None, None, None)
    assert log.said == ["set a", "put back a"]


def test_who_needs_another_value_waits_until_nobody_holds_the_first() -> None:
    log, shared = Log(), Shared()
    asks = threading.Event()

    def other() -> None:
        asks.set()
        with shared.held("b", log.setting("b")):
            pass

    thread = threading.Thread(target=other)
    with shared.held("a", log.setting("a")):
        thread.start()
        assert asks.wait(PATIENCE_S)
        assert log.said == ["set a"]
    thread.join(PATIENCE_S)
    assert log.said == ["set a", "put back a", "set b", "put back b"]


def test_an_error_inside_puts_the_value_back_too() -> None:
    log, shared = Log(), Shared()
    try:
        with shared.held("a", log.setting("a")):
            raise KeyError
    except KeyError:
        pass
    assert log.said == ["set a", "put back a"]
