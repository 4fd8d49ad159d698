"""A private copy of a module, with dropout on where that is safe.

*Armed*: eval mode, then `training = True` on every module but those with running statistics, whose batch statistics
would make a row's answer depend on its neighbours, and which would overwrite what they learned.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from service.errors import UnservableModel

Inputs = Mapping[str, Tensor]


def private_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode that shares nothing with the caller's module, which is left as it was found."""
    try:
        return copy.deepcopy(module).eval().requires_grad_(False)
    except Exception as e:
        raise UnservableModel(f"the module cannot be copied ({type(e).__name__}: {e})") from e


@contextmanager
def armed(module: nn.Module) -> Iterator[nn.Module]:
    """The module with dropout on and running statistics off; in eval mode again afterwards."""
    module.eval()
    for part in module.modules():
        part.training = not any(name.startswith("running_") for name, _ in part.named_buffers(recurse=False))
    try:
        yield module
    finally:
        module.eval()


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without the fused transformer path, which leaves dropout out. The flag is put back."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def call(module: Callable[..., Tensor], rows: Inputs, positional: bool) -> Tensor:
    """The module's output for rows by name. It gets a copy: its first layer may work in place."""
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
