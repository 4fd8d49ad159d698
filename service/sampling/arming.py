"""A private copy of a module, with dropout on where that is safe.

*Armed*: eval mode, then `training = True` on every module but those that rest. A module with running statistics rests:
in training mode it would use those of the batch, which makes a row's answer depend on its neighbours, and overwrite
what it learned. One that draws random numbers itself does not rest, or its dropout would be silently off.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from service.errors import UnservableModel
from service.sampling.process_wide import Shared

Inputs = Mapping[str, Tensor]
_RESTING = "_errorbar_resting"


def private_copy(module: nn.Module) -> nn.Module:
    """As `own_copy`, float32."""
    return own_copy(module).float()


def own_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode that shares nothing with the caller's module, which is left as it was found. Wrappers for
    many devices or for compilation are taken off."""
    while isinstance(module, nn.DataParallel) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, nn.DataParallel) else cast(nn.Module, module._orig_mod)
    try:
        return copy.deepcopy(module).eval().requires_grad_(False)
    except Exception as e:
        raise UnservableModel(f"the module cannot be copied ({type(e).__name__}: {e})") from e


def with_running_statistics(module: nn.Module) -> list[str]:
    """Paths of the modules that keep running statistics."""
    return [
        path for path, part in module.named_modules()
        if any(name.startswith("running_") for name, _ in part.named_buffers(recurse=False))
    ]


def rest(module: nn.Module, paths: Collection[str]) -> None:
    """Settles which parts of a private copy stay in eval mode when it is armed."""
    object.__setattr__(module, _RESTING, frozenset(paths))


@contextmanager
def armed(module: nn.Module, off: Collection[str] = ()) -> Iterator[nn.Module]:
    """The module with dropout on and running statistics off; in eval mode again afterwards. off: paths of further
    modules that stay in eval mode."""
    module.eval()
    resting = getattr(module, _RESTING, None)
    if resting is None:
        resting = with_running_statistics(module)
    for path, part in module.named_modules():
        part.training = path not in resting and path not in off
    try:
        yield module
    finally:
        module.eval()


@contextmanager
def no_foreign_randomness() -> Iterator[None]:
    """UnservableModel where what runs inside draws from Python's or numpy's generator: no mask can stand for that."""
    before = random.getstate(), np.random.get_state()
    yield
    now = random.getstate(), np.random.get_state()
    if before[0] != now[0] or any(not np.array_equal(a, b) for a, b in zip(before[1], now[1], strict=True)):
        raise UnservableModel("the forward pass draws from Python's or numpy's generator, which cannot be sampled")


def plain_attention() -> AbstractContextManager[None]:
    """Without the fused transformer path, which leaves dropout out. The flag is put back."""
    return _ATTENTION.held("plain", _plain_attention)


_ATTENTION = Shared()


@contextmanager
def _plain_attention() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def call(module: Callable[..., Any], rows: Inputs, positional: bool) -> Any:
    """What the module gives for rows by name. It gets a copy: its first layer may work in place."""
    copies = {name: value.clone() for name, value in rows.items()}
    return module(*copies.values()) if positional else module(**copies)


def state_digest(module: nn.Module) -> str:
    """sha256 over the names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        flat = value.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
