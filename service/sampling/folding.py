"""Samples folded into the rows of a tensor, sample-major (place t·rows + b), and masks on such tensors."""

from __future__ import annotations

from torch import Tensor, fx

from service.sampling.layouts import Layout
from service.sampling.recipe import Recipe


def repeat_rows(value: Tensor, layout: Layout, samples: int) -> Tensor:
    """(…, rows, …) to (…, samples·rows, …), sample-major."""
    split = layout.split(value, -1).unsqueeze(layout.lead)
    shape = list(split.shape)
    shape[layout.lead] = samples
    return layout.joined(split.expand(shape), 2)


def masked(value: Tensor, mask: Tensor | Recipe, layout: Layout, samples: int) -> Tensor:
    """value: (…, samples·rows, …); mask: (samples, rows or 1, …) with the other axes in value's order."""
    if isinstance(mask, Recipe):
        return layout.joined(mask.multiplied(layout.split(value, samples, -1), layout.lead), 2)
    return layout.joined(layout.split(value, samples, -1) * _placed(mask, layout), 2)


def masked_broadcast(value: Tensor, mask: Tensor | Recipe, layout: Layout) -> Tensor:
    """value: (…, rows, …), the same for every sample; mask: (samples, rows or 1, …)."""
    if isinstance(mask, Recipe):
        return layout.joined(mask.multiplied(layout.split(value, -1).unsqueeze(layout.lead), layout.lead), 2)
    return layout.joined(layout.split(value, -1).unsqueeze(layout.lead) * _placed(mask, layout), 2)


def _placed(mask: Tensor, layout: Layout) -> Tensor:
    lead = layout.lead
    return mask if lead == 0 else mask.movedim((0, 1), (lead, lead + 1))


for _function in (repeat_rows, masked, masked_broadcast):
    fx.wrap(_function.__name__)
