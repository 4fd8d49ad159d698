"""From a trained module to a sampler that has been held against the module itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from service.errors import UnservableModel
from service.sampling.arming import private_copy
from service.sampling.capture import capture
from service.sampling.plan import make_plan
from service.sampling.probe import admit
from service.sampling.sampler import ExampleInputs, Sampler
from service.statistics import Task


def prepare(
    module: nn.Module, example_inputs: ExampleInputs, task: Task, dtype: str = "float32", device: str = "cpu",
    sites: Sequence[str] | None = None,
) -> Sampler:
    """Makes a network ready to be sampled, and refuses one that could not be served rightly.

    Args:   module: trained, with dropout; it is copied and left as it was found. A classifier gives logits.
            example_inputs: a tensor, a sequence of tensors (positional arguments) or a mapping (keyword arguments),
            rows first, at least one row; the number of rows is free afterwards.
            sites: patterns of the site names that sample ("head.*"); None for all.
    Errors: UnservableModel, with the site and the reason.
    """
    if dtype != "float32":
        raise UnservableModel(f"dtype: only 'float32' is available, got {dtype!r}")
    if task not in ("classification", "regression", "multilabel", "generic"):
        raise UnservableModel(f"task: 'classification', 'regression', 'multilabel' or 'generic' expected, got {task!r}")
    positional = not isinstance(example_inputs, Mapping)
    rows = _probe_rows(example_inputs)
    own = private_copy(module).to(device)
    on_device = {k: v.to(device) for k, v in rows.items()}
    raw = task in ("regression", "generic")  # elsewhere a softmax or sigmoid follows
    plan = make_plan(capture(own, on_device, positional), sites, on_device if raw else None)
    sampler = Sampler(own, plan, list(rows), positional, task, torch.device(device))
    if task == "classification" and (len(plan.output_shape) != 1 or plan.output_shape[0] < 2):
        raise UnservableModel(f"a classifier gives (rows, classes) with two classes or more, got {plan.output_shape}")
    admit(sampler, rows)
    sampler.tune(rows)
    return sampler


def _probe_rows(example_inputs: ExampleInputs) -> dict[str, Tensor]:
    """At least four rows to try the network on: the example's, then noisy copies of them."""
    if isinstance(example_inputs, Mapping):
        given = dict(example_inputs)
    else:
        tensors = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
        given = {f"input_{i}" if len(tensors) > 1 else "input": value for i, value in enumerate(tensors)}
    if not given or any(not isinstance(v, Tensor) or v.dim() == 0 or len(v) == 0 for v in given.values()):
        raise UnservableModel("example_inputs: tensors with at least one row each expected")
    generator = torch.Generator().manual_seed(0)
    return {name: _widened(value.detach().cpu(), generator) for name, value in given.items()}


def _widened(value: Tensor, generator: torch.Generator, rows: int = 4) -> Tensor:
    value = value[: 4 * rows]
    if len(value) >= rows:
        return value.clone()
    copies = value.repeat(-(-rows // len(value)), *[1] * (value.dim() - 1))[:rows].clone()
    if copies.is_floating_point():
        scale = float(value.float().std(correction=0)) or 1.0
        copies[len(value) :] += scale * torch.randn(copies[len(value) :].shape, generator=generator).to(copies.dtype)
    return copies
