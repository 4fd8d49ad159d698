"""What differs between the CPU and a CUDA device, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from service.sampling.process_wide import Shared

_AMPERE = (8, 0)
_EXACT = {"ieee", "none"}  # torch's names
_flag: Any = torch._C._get_fp32_precision_getter  # every request reads flags: their public names take 2 µs
_CPU_WORKING_SET = 4 << 20  # about what stays in a core's cache
_CUDA_WORKING_SET = 256 << 20  # enough to keep a device busy; not measured yet
_CUDA_ROOM = 16  # so many times what is held on a CPU; not measured yet


def roomy(cpu_bytes: int, device: torch.device) -> int:
    """A bound of memory that is meant for a CPU, as it is for that device."""
    return cpu_bytes * _CUDA_ROOM if device.type == "cuda" else cpu_bytes


def working_set_bytes(device: torch.device) -> int:
    """Of activations that run together."""
    return _CUDA_WORKING_SET if device.type == "cuda" else _CPU_WORKING_SET


def lacks_bfloat16(device: torch.device) -> str:
    """Why bfloat16 would not be fast there, "" where it is: products of bfloat16 must be instructions of their own, not
    made of float32 ones."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return "" if capability >= _AMPERE else f"the device's compute capability {capability} is under {_AMPERE}"
    if device.type != "cpu":
        return f"it is not known for {device.type}"
    cpu: Any = torch.cpu
    found = (getattr(cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "" if any(f() for f in found if f is not None) else "the CPU has neither AVX512-BF16 nor AMX"


def warm_up_turns(device: torch.device) -> int:
    """Runs of anything that go before it is timed: on a device the first ones load and choose kernels, and what is
    asked for twice is recorded."""
    return 2 if device.type == "cuda" else 0


def lacks_tf32(device: torch.device) -> str:
    """Why there is no TF32, "" where there is."""
    if device.type != "cuda":
        return f"it is arithmetic of CUDA devices, and this is the {device.type.upper()}"
    capability = torch.cuda.get_device_capability(device)
    return "" if capability >= _AMPERE else f"the device's compute capability {capability} is under {_AMPERE}"


def finish(device: torch.device) -> None:
    """Waits for what was launched, so that a clock read next tells the time that it took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    """Gives memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def global_generator(device: torch.device) -> torch.Generator:
    """The generator that a module's own dropout draws from there."""
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


@contextmanager
def generator_put_back(device: torch.device) -> Iterator[None]:
    """Leaves torch's generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def exact_float32(device: torch.device) -> AbstractContextManager[None]:
    """Products of float32 without rounding what they multiply. On CUDA torch allows TF32 for convolutions and recurrent
    layers by default, whose ten bits would move an answer by 1e-3; on a CPU with AMX
    `torch.set_float32_matmul_precision("medium")`, by whoever shares the process, allows bfloat16. The flags are put
    back."""
    if device.type == "cuda":
        return _ON_CUDA.held("ieee", lambda: _precision("ieee", _cuda_flags()))
    if _ON_CPU.in_use or _cpu_may_round():
        return _ON_CPU.held("ieee", lambda: _precision("ieee", _cpu_flags()))
    return nullcontext()


def tf32_products(device: torch.device) -> AbstractContextManager[None]:
    """With TF32 in all products of float32. The flags are put back."""
    if device.type != "cuda":
        return nullcontext()
    return _ON_CUDA.held("tf32", lambda: _precision("tf32", _cuda_flags()))


_ON_CUDA, _ON_CPU = Shared(), Shared()


def _cuda_flags() -> list[Any]:
    cudnn: Any = torch.backends.cudnn
    return [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]


def _cpu_flags() -> list[Any]:
    onednn: Any = torch.backends.mkldnn
    return [onednn.conv, onednn.rnn, onednn.matmul]


def _cpu_may_round() -> bool:
    exact = _flag("mkldnn", "conv") in _EXACT and _flag("mkldnn", "rnn") in _EXACT
    return not (exact and _flag("mkldnn", "matmul") in _EXACT)


@contextmanager
def _precision(kind: str, flags: list[Any]) -> Iterator[None]:
    """kind: as torch's flags name it."""
    before = [flag.fp32_precision for flag in flags]
    try:
        for flag in flags:
            flag.fp32_precision = kind
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.fp32_precision = value
