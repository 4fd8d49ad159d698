"""The slow, obvious way: the module itself, one sample at a time, same masks. The oracle of every fast path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from service.errors import UnservableModel
from service.sampling.arming import Inputs, armed, call, plain_attention
from service.sampling.device import exact_float32
from service.sampling.layouts import Layout
from service.sampling.marks import Mark
from service.sampling.process_wide import Shared

_aten = torch.ops.aten
Noise = Callable[[Sequence[int], float | None], Tensor]


class GivenNoise(TorchDispatchMode):
    """Gives every source of noise in torch what `noise(shape, keep)` says, and refuses those it does not know.
    noise: gives a tensor of that shape, or one number for all of it. UnservableModel where it gives anything else:
    numbers that the module draws apart must not become copies of one.
    keep: the chance of a 1; None where uniform numbers are drawn, of which only the network knows what it makes.

    All kinds of dropout come down to one drawing of Bernoulli numbers, 1 where a unit stays: what is intercepted here
    cannot be missed, wherever in a module or in torch's own code dropout is called.
    """

    def __init__(self, noise: Noise) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._noise = noise

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if func is _aten.bernoulli_.float:
            keep = args[1] if len(args) > 1 else 0.5  # what is the default is left out
            return args[0].copy_(self._given(args[0].shape, keep))
        if func is _aten.bernoulli.p:
            return torch.empty_like(args[0]).copy_(self._given(args[0].shape, args[1]))
        if func is _aten.native_dropout.default:
            value, p, train = args
            if not train:
                return value.clone(), torch.ones_like(value, dtype=torch.bool)
            stays = torch.empty_like(value).copy_(self._given(value.shape, 1 - p))
            return value * stays / (1 - p), stays.bool()
        if func in (_aten.rand.default, _aten.rand_like.default):
            filled = torch.zeros_like(args[0]) if func is _aten.rand_like.default else torch.zeros(args[0], **kwargs)
            return filled.copy_(self._given(filled.shape, None))
        raise UnservableModel(f"the network draws random numbers by {func}, which is not supported")

    def _given(self, shape: torch.Size, keep: float | None) -> Tensor:
        noise = self._noise(shape, keep)
        if noise.dim() and noise.shape != shape:
            raise UnservableModel(f"the module draws noise of shape {tuple(shape)}, where its graph has a site with "
                                  f"noise of shape {tuple(noise.shape)}")
        return noise


_KERNELS = Shared()


def traceable() -> AbstractContextManager[None]:
    """With attention and recurrent layers made of operations that can be intercepted, and with the same ones whatever
    other threads do meanwhile: two passes can be held against each other to the bit."""
    return _KERNELS.held("traceable", _plain_kernels)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    with plain_attention(), sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield


def with_noise(module: nn.Module, rows: Inputs, positional: bool, noise: Noise, off: Sequence[str] = ()) -> Any:
    """The armed module's raw output for one sample. off: paths of modules that stay in eval mode."""
    device = next(iter(rows.values())).device
    with torch.no_grad(), exact_float32(device), traceable(), armed(module, off), GivenNoise(noise):
        return call(module, rows, positional)


class SiteNoise:
    """The noise that gives the module's sites the masks of a draw.

    masks: (samples, rows or 1, *mask_shape) by site name, for the active ones; the others do nothing. off: paths of the
    modules that must stay in eval mode for that, since no noise silences their site.
    """

    def __init__(
        self, marks: Sequence[Mark], layouts: Sequence[Layout], masks: Mapping[str, Tensor], rows: int
    ) -> None:
        inactive = [mark for mark in marks if mark.name not in masks]
        self.off = [mark.owner for mark in inactive if mark.silent is None]
        clash = [mark.name for mark in marks if mark.name in masks and mark.owner in self.off]
        if clash:
            raise UnservableModel(f"site {clash[0]!r} cannot be sampled while another site of the same module is not")
        self._sites = [
            (mark, layout, masks.get(mark.name)) for mark, layout in zip(marks, layouts, strict=True)
            if mark.owner not in self.off
        ]
        self._rows = rows

    def of_sample(self, sample: int) -> list[Tensor]:
        """What each source gives in one sample, in the order in which the module asks."""
        return [self._site(mark, layout, None if m is None else m[sample]) for mark, layout, m in self._sites]

    def _site(self, mark: Mark, layout: Layout, mask: Tensor | None) -> Tensor:
        if mask is None:
            assert mark.silent is not None
            return torch.tensor(mark.silent)
        dropped, kept = mark.noise
        noise = torch.where(mask != 0, kept, dropped)
        noise = noise.expand(self._rows, *noise.shape[1:]).movedim(0, layout.lead)
        return noise.flatten(layout.axis, layout.axis + 1) if layout.per_row > 1 else noise


def reference_sample(
    module: nn.Module, rows: Inputs, positional: bool, noise: Sequence[Tensor], off: Sequence[str]
) -> Any:
    """One sample's raw output. noise: what each source in turn gives, in the shape in which the module asks for it or
    as one number."""
    given = iter(noise)

    def following(shape: Sequence[int], keep: float | None) -> Tensor:
        found = next(given, None)
        if found is None:
            raise UnservableModel(f"the module draws noise more often than its graph has sites ({len(noise)})")
        return found

    output = with_noise(module, rows, positional, following, off)
    if next(given, None) is not None:
        raise UnservableModel(f"the module draws noise less often than its graph has sites ({len(noise)})")
    return output
