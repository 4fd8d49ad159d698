"""Whether float32 is exact enough for a network of float64: it is run in float32, and held against itself first."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from service.errors import UnservableModel
from service.sampling.arming import Inputs, call, own_copy, plain_attention
from service.sampling.capture import output_of
from service.sampling.sampler import Sampler

ADMITTED = 1e-4  # of the outputs' scale
_ROWS = 256  # of the examples that are looked at


def hold_to_float64(sampler: Sampler, module: nn.Module, examples: Inputs, positional: bool) -> None:
    """UnservableModel with the figure where the prediction differs from the module's, in eval mode and in its own
    dtype, by more than 1e-4: of 1 for probabilities, of the largest magnitude for values. Nothing is looked at where
    neither module nor examples have float64. module: as the caller gave it. examples: as they were given, by input."""
    double = any(tensor.dtype is torch.float64 for tensor in (*module.parameters(), *module.buffers()))
    if not double and all(value.dtype is not torch.float64 for value in examples.values()):
        return
    some = {name: value[:_ROWS].detach().to(sampler.device) for name, value in examples.items()}
    own = _own_output(own_copy(module).to(sampler.device), some, positional)
    if own is None:
        return
    if sampler.task in ("classification", "multilabel"):
        own, scale = own.softmax(-1) if sampler.task == "classification" else own.sigmoid(), 1.0
    else:
        scale = max(float(own.abs().max()), 1e-30)
    error = float((sampler.predict(some).double() - own).abs().max()) / scale
    if not error <= ADMITTED:
        raise UnservableModel(
            f"the module or its examples are float64 and it is served in float32, where its prediction differs by "
            f"{error:.2g} of the outputs' scale on the example rows; up to {ADMITTED:g} is admitted. Take what is "
            "large off the inputs before they come here, or scale them"
        )


def _own_output(module: nn.Module, rows: Inputs, positional: bool) -> Tensor | None:
    """As float64. None where the module takes its examples in none of these types (it may be of a half one)."""
    for given in _as_taken(rows):
        try:
            with torch.no_grad(), plain_attention(), torch.random.fork_rng(devices=[]):
                return output_of(call(module, given, positional)).double()
        except Exception:
            continue
    return None


def _as_taken(rows: Inputs) -> Iterator[Inputs]:
    """Rows as they are, then their floating point numbers as float64, then as float32."""
    yield rows
    for dtype in (torch.float64, torch.float32):
        yield {name: value.to(dtype) if value.is_floating_point() else value for name, value in rows.items()}
