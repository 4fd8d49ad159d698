"""Whether float32 is exact enough for a network of float64: it is run in float32, and held against itself first."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from service.errors import UnservableModel
from service.sampling.agreement import furthest, scale_of
from service.sampling.arming import Inputs, armed, call, own_copy, plain_attention
from service.sampling.capture import output_of
from service.sampling.device import generator_put_back
from service.sampling.sampler import Sampler

ADMITTED = 1e-4  # of an output's scale
ADMITTED_OF_SPREAD = 1e-2  # of its standard deviation over dropout
_ROWS = 256  # of the examples that are looked at
_PASSES, _SPREAD_ROWS = 20, 16  # with dropout on, for the standard deviation
_ROUNDING = 1e-12  # of an output's scale: a spread that float64 leaves where dropout has none


def hold_to_float64(sampler: Sampler, module: nn.Module, examples: Inputs, positional: bool) -> None:
    """UnservableModel with the figure where the prediction differs from the module's, in eval mode and in its own
    dtype, by more than 1e-4: of 1 for probabilities, for values of the largest magnitude of each output; or by more
    than a hundredth of what dropout makes an output vary, for float32 would then tell another spread. Nothing is looked
    at where neither module nor examples have float64. module: as the caller gave it. examples: as they were given, by
    input."""
    double = any(tensor.dtype is torch.float64 for tensor in (*module.parameters(), *module.buffers()))
    if not double and all(value.dtype is not torch.float64 for value in examples.values()):
        return
    some = {name: value[:_ROWS].detach().to(sampler.device) for name, value in examples.items()}
    found = _own_outputs(own_copy(module).to(sampler.device), some, positional, sampler.samples_something)
    if found is None:
        return
    own, spread = found
    if sampler.task == "classification":
        own = own.softmax(-1)
    elif sampler.task == "multilabel":
        own = own.sigmoid()
    served, scale = sampler.predict(some).double(), scale_of(own, sampler.task)
    error = furthest(served, own, scale)
    if not error <= ADMITTED:
        raise _refused(f"{error:.2g} of the output's scale", f"{ADMITTED:g}")
    if isinstance(scale, Tensor):  # probabilities are held to 1
        varies = spread > _ROUNDING * scale
        error = furthest(served[:, varies], own[:, varies], spread[varies]) if bool(varies.any()) else 0.0
        if not error <= ADMITTED_OF_SPREAD:
            raise _refused(f"{error:.2g} of the output's standard deviation over dropout", f"{ADMITTED_OF_SPREAD:g}")


def _refused(error: str, admitted: str) -> UnservableModel:
    return UnservableModel(
        f"the module or its examples are float64 and it is served in float32, where its prediction differs by {error} "
        f"on the example rows; up to {admitted} is admitted. Take what is large off the inputs before they come here, "
        "or scale them"
    )


def _own_outputs(module: nn.Module, rows: Inputs, positional: bool, samples: bool) -> tuple[Tensor, Tensor] | None:
    """The module's prediction (rows, …), and how far its own dropout makes each output vary: the largest standard
    deviation that any row has, (…). float64. None where the module takes its examples in none of these types (it may be
    of a half one). samples: whether it has dropout; where not, nothing varies."""
    with torch.no_grad(), plain_attention(), generator_put_back(next(iter(rows.values())).device):
        for given in _as_taken(rows):
            try:
                predicted = output_of(call(module, given, positional)).double()
            except Exception:
                continue
            if not samples:
                return predicted, torch.zeros_like(predicted[0])
            few = {name: value[:_SPREAD_ROWS] for name, value in given.items()}
            with armed(module):
                passes = [output_of(call(module, few, positional)).double() for _ in range(_PASSES)]
            return predicted, torch.stack(passes).std(0).amax(0)
    return None


def _as_taken(rows: Inputs) -> Iterator[Inputs]:
    """Rows as they are, then their floating point numbers as float64, then as float32."""
    yield rows
    for dtype in (torch.float64, torch.float32):
        yield {name: value.to(dtype) if value.is_floating_point() else value for name, value in rows.items()}
