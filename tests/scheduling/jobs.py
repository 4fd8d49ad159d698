"""Jobs on samplers that do what a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from service.repository import ReadyModel
from service.sampling.steps import Steps, Work
from service.scheduling import Engine, Job, Options

FOREVER = float("inf")


class Scripted:
    """A sampler whose predictions are what `act` makes of the rows, and whose samples come in the steps that `work`
    gives."""

    samples_something, eager_reason, mixes_seeds = True, "", False
    out_of_memory_retries = 0

    def __init__(
        self, act: Callable[[torch.Tensor], torch.Tensor], work: Callable[[], Work[Any]] | None = None
    ) -> None:
        self._act, self._work = act, work

    def predicting(self, inputs: tuple[torch.Tensor, ...]) -> Steps[torch.Tensor]:
        def work() -> Work[torch.Tensor]:
            yield from ()
            return self._act(inputs[0])

        return Steps(work(), nullcontext)

    def sampling(self, *given: Any, **named: Any) -> Steps[Any]:
        assert self._work is not None
        return Steps(self._work(), nullcontext)

    def method_for(self, *arguments: Any) -> str:
        return "sampled"


def scripted(
    model: ReadyModel, act: Callable[[torch.Tensor], torch.Tensor], work: Callable[[], Work[Any]] | None = None,
    name: str | None = None,
) -> ReadyModel:
    manifest = model.manifest if name is None else replace(model.manifest, name=name)
    return replace(model, sampler=Scripted(act, work), manifest=manifest)  # type: ignore[arg-type]


def job(model: ReadyModel, rows: int = 1, deadline: float = FOREVER, act: Any = None, **options: Any) -> Job:
    """A prediction, or with `samples` an uncertainty request."""
    if act is not None:
        model = scripted(model, act)
    own = {name: options.pop(name) for name in ("priority", "partial") if name in options}
    chosen = Options(**{"seed": 0, "masks": "shared", "design": "balanced"} | options) if options else None
    return Job(model, "uncertainty" if options else "predict", {"x": torch.ones(rows, 3)}, deadline, chosen, **own)


def blocked(engine: Engine, model: ReadyModel) -> tuple[threading.Event, Future[Any]]:
    """A job that holds the engine's thread until the event is set."""
    release, started = threading.Event(), threading.Event()

    def act(_: Any) -> torch.Tensor:
        started.set()
        release.wait(30)
        return torch.ones(1, 2)

    future = engine.submit(job(model, act=act))
    assert started.wait(30)
    return release, future
