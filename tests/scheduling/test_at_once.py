"""A job that is answered here and now has the engine's answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import InvalidInput, ModelFailed
from service.scheduling import Engine, Job, Options
from service.scheduling.at_once import answered


@pytest.mark.parametrize("options", [
    None, Options(20, 3, "shared", "balanced"), Options(20, 3, "independent", "balanced", first_row=7),
    Options(200, 3, "shared", "iid", tolerance=0.2),
], ids=["predict", "shared", "independent", "stopping"])
def test_an_answer_is_the_engines(state, options) -> None:
    model = state.repository.get("flowers")
    rows = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    job = Job(model, "predict" if options is None else "uncertainty", {"x": rows}, float("inf"), options)
    engine = Engine()
    theirs, ours = engine.submit(job).result(), answered(job)
    engine.drain()
    name = "values" if options is None else "mean"
    assert np.allclose(ours.arrays[name], theirs.arrays[name], atol=1e-6, rtol=0)
    assert (ours.stops, ours.samples, ours.method) == (theirs.stops, theirs.samples, theirs.method)


@pytest.mark.parametrize(("raised", "told"), [
    (ZeroDivisionError("by zero"), ModelFailed), (InvalidInput("no"), InvalidInput),
])
def test_a_model_that_raises_fails_the_job(state, raised, told) -> None:
    model = state.repository.get("flowers")

    class Failing:
        out_of_memory_retries = 0

        def predicting(self, inputs: Any) -> Any:
            raise raised

    with pytest.raises(told, match=str(raised)):
        answered(Job(replace(model, sampler=Failing()), "predict", {"x": torch.ones(1, 3)}, float("inf")))
