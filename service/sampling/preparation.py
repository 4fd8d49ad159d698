"""From a trained module to a sampler that has been held against the module itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from service.errors import ErrorbarError, Uncapturable, UnservableModel, nearest
from service.sampling.arming import (
    Inputs,
    armed,
    call,
    no_foreign_randomness,
    plain_attention,
    private_copy,
    state_digest,
)
from service.sampling.bound import ROWS, hold_to_float32
from service.sampling.capture import capture, output_of
from service.sampling.device import exact_float32, lacks_bfloat16, lacks_tf32
from service.sampling.double import hold_to_float64
from service.sampling.eager import eager_plan, settle_resting
from service.sampling.options import DTYPES, Dtype
from service.sampling.plan import Plan, make_plan
from service.sampling.probe import admit
from service.sampling.rows import ExampleInputs, named_inputs
from service.sampling.sampler import Sampler
from service.statistics import NoiseHead, Task

_PROBE_ROWS = 5


def prepare(
    module: nn.Module, example_inputs: ExampleInputs, task: Task, dtype: str = "float32", device: str = "cpu",
    sites: Sequence[str] | None = None, noise_head: NoiseHead | None = None,
) -> Sampler:
    """Makes a network ready to be sampled, and refuses one that could not be served rightly.

    Args:   module: trained, with dropout; it is copied and left as it was found. A classifier gives logits.
            example_inputs: a tensor, a sequence of tensors (positional arguments) or a mapping (keyword arguments),
            rows first, at least one row; the number of rows is free afterwards.
            A network of float64 is run in float32, or refused where that shows on these rows.
            dtype: "float32", or "bfloat16": matrix products in bfloat16, masks, statistics and answers as ever. Where
            the device has no fast bfloat16 float32 runs, and `Sampler.dtype` and `dtype_note` say so. "tf32": products
            of float32 round what they multiply to ten bits, as CUDA devices can; refused elsewhere.
            sites: patterns of the site names that sample ("head.*"); None for all.
            noise_head: for a regression that gives 2·k columns a row, the k locations first: what the last k are,
            "log_variance" (natural logarithm of the noise's variance) or "std" (its standard deviation). Such a
            network is always sampled: no average over the last site's masks is exact for its noise.
    Errors: UnservableModel, with the site and the reason.
    """
    if dtype not in DTYPES:
        raise UnservableModel(f"dtype: 'float32', 'tf32' or 'bfloat16' expected, got {dtype!r}{nearest(dtype, DTYPES)}")
    if task not in ("classification", "regression", "multilabel", "generic"):
        raise UnservableModel(f"task: 'classification', 'regression', 'multilabel' or 'generic' expected, got {task!r}")
    if noise_head not in (None, "log_variance", "std"):
        raise UnservableModel(f"noise_head: 'log_variance' or 'std' expected, got {noise_head!r}")
    positional = not isinstance(example_inputs, Mapping)
    try:
        with exact_float32(torch.device(device)):
            rows = {name: value.to(device) for name, value in _probe_rows(example_inputs).items()}
            own = private_copy(module).to(device)
            with no_foreign_randomness():
                settle_resting(own, rows, positional)
                _check_forward(own, rows, positional)
            raw = task in ("regression", "generic") and noise_head is None  # elsewhere a nonlinear map follows
            plan = _plan(own, rows, positional, sites, raw)
            sampler = Sampler(own, plan, rows, positional, task, torch.device(device))
            shape = sampler.output_shape
            if task == "classification" and (len(shape) != 1 or shape[0] < 2):
                raise UnservableModel(
                    f"a classifier gives (rows, classes) with two classes or more, got {shape} for a row")
            hold_to_float64(sampler, module, _given(example_inputs), positional)
            admit(sampler, rows)
            if dtype != "float32":
                sampler = _lowered(sampler, cast(Dtype, dtype), rows, _probe_rows(example_inputs, ROWS))
            sampler.tune(rows)
            if noise_head is not None:
                sampler.use_noise_head(noise_head)
    except ErrorbarError:
        raise
    except Exception as e:
        reason = str(e).strip().split("\n")[0][:300]
        raise UnservableModel(f"the network cannot be run on the example rows: {type(e).__name__}: {reason}") from e
    return sampler


def _plan(module: nn.Module, rows: Inputs, positional: bool, sites: Sequence[str] | None, raw_output: bool) -> Plan:
    try:
        return make_plan(capture(module, rows, positional), sites, raw_output)
    except Uncapturable as e:
        return eager_plan(module, rows, positional, sites, e.detail)


def _lowered(exact: Sampler, dtype: Dtype, rows: Inputs, many: Inputs) -> Sampler:
    """The same in bfloat16 or tf32, held against `exact`; `exact` itself with a note where there is no fast bfloat16.
    many: the rows that it is held against."""
    device = next(iter(rows.values())).device
    if exact.eager_reason:
        raise UnservableModel(f"{dtype} needs a captured network, and this one runs eagerly: {exact.eager_reason}")
    if not exact.samples_something:
        raise UnservableModel(f"{dtype} is admitted by the spread of dropout, and this network has none to sample")
    lacking = lacks_tf32(device) if dtype == "tf32" else lacks_bfloat16(device)
    if lacking and dtype == "tf32":
        raise UnservableModel(f"there is no tf32 here: {lacking}. Serve it in float32")
    if lacking:
        exact.dtype_note = f"bfloat16 was asked for; float32 runs, because {lacking}"
        return exact
    lowered = exact.lowered(rows, dtype)
    lowered.dtype_error = hold_to_float32(lowered, exact, {name: value.to(device) for name, value in many.items()})
    return lowered


def _check_forward(module: nn.Module, rows: Inputs, positional: bool) -> None:
    """What is wrong with a network before its graph is looked at."""
    before = state_digest(module)
    with torch.no_grad(), plain_attention(), torch.random.fork_rng(devices=[]):
        output = output_of(call(module, rows, positional))
        if not bool(output.isfinite().all()):
            raise UnservableModel("the network gives NaN or infinity on the example rows")
        with armed(module):
            call(module, rows, positional)
    if state_digest(module) != before:
        raise UnservableModel("the forward pass changes the model's state")


def _probe_rows(example_inputs: ExampleInputs, count: int = _PROBE_ROWS) -> dict[str, Tensor]:
    """Rows to try the network on, by input."""
    generator = torch.Generator().manual_seed(0)
    return {name: _probes(value.detach().cpu(), generator, count) for name, value in _given(example_inputs).items()}


def _given(example_inputs: ExampleInputs) -> dict[str, Tensor]:
    """The rows as they were given, by input."""
    if isinstance(example_inputs, Mapping):
        names = list(example_inputs)
    elif isinstance(example_inputs, Tensor | np.ndarray) or len(example_inputs) == 1:
        names = ["input"]
    else:
        names = [f"input_{i}" for i in range(len(example_inputs))]
    given = named_inputs(example_inputs, names)
    if not given or any(value.dim() == 0 or value.shape[0] == 0 for value in given.values()):
        raise UnservableModel("example_inputs: tensors with at least one row each expected")
    return given


def _probes(value: Tensor, generator: torch.Generator, count: int) -> Tensor:
    """So many rows: the example's first, and at least two that differ from them, so that a row that looks at its
    neighbours is found out. Integers are drawn from their row's own, so that they stay what a network can take."""
    given = value[: count - 2]
    copies = given.repeat(count, *[1] * (value.dim() - 1))[: count - given.shape[0]].clone()
    if value.is_floating_point():
        given, copies = given.float(), copies.float()
        scale = float(given.std(correction=0)) or 1.0
        return torch.cat([given, copies + scale * torch.randn(copies.shape, generator=generator)])
    for i, row in enumerate(copies):
        chosen = torch.randint(row.numel(), (row.numel(),), generator=generator)
        copies[i] = row.flatten()[chosen].view(row.shape)
    return torch.cat([given, copies])
