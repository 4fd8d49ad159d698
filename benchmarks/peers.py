"""Every way to get mean and std out of T samples that is compared: a way takes (input, seed) and answers both.

The other libraries are not installed beside the engine but in `.venv-peers` (`make bench-engine`), and are imported
only where they are used. Each is used as its own documentation says, with its own options for the case at hand.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from benchmarks.compared_networks import Network, dropout_on
from service.errors import UnservableModel
from service.sampling import prepare

SAMPLES, SEEDS = 50, 8

Answer = tuple[Tensor, Tensor]  # mean and std, (rows, classes) each


@dataclass(frozen=True)
class Way:
    """call: (input, seed where it takes one) to mean and std. module: whose weights and buffers must stay as they are.
    folds: whether it holds all samples of all rows in memory at once."""

    call: Callable[[Tensor, int], Answer]
    module: nn.Module
    folds: bool = False


class NotAvailable(Exception):
    """This way cannot answer for this network; the message is the reason."""


def over_samples(logits: Tensor) -> Answer:
    """logits: (samples, rows, classes)."""
    draws = logits.softmax(-1)
    return draws.mean(0), draws.std(0)


def usual_loop(network: Network) -> Way:
    """`model.train()`, then a pass a sample."""
    return _loop(network.made().train())


def careful_loop(network: Network) -> Way:
    """As the usual loop, but only what drops is in training mode: right where the usual one is not."""
    return _loop(dropout_on(network.made(), network.sites is not None))


def _loop(module: nn.Module) -> Way:
    def call(x: Tensor, _: int) -> Answer:
        with torch.no_grad():
            return over_samples(torch.stack([module(x) for _ in range(SAMPLES)]))

    return Way(call, module)


def repeated(network: Network) -> Way:
    """One pass of the batch repeated T times, with only what drops in training mode."""
    module = dropout_on(network.made(), network.sites is not None)

    def call(x: Tensor, _: int) -> Answer:
        with torch.no_grad():
            return over_samples(module(x.repeat(SAMPLES, *[1] * (x.dim() - 1))).unflatten(0, (SAMPLES, -1)))

    return Way(call, module, folds=True)


def torch_uncertainty(network: Network, on_batch: bool) -> Way:
    """`torch_uncertainty.methods.mc_dropout`. Its `last_layer` option where only the head samples."""
    try:
        wrapped = _mc_dropout_file().mc_dropout(
            network.made(), SAMPLES, last_layer=network.sites is not None, on_batch=on_batch).eval()
    except ValueError as e:
        raise NotAvailable(f"it refuses: {e}") from e

    def call(x: Tensor, _: int) -> Answer:
        with torch.no_grad():
            return over_samples(wrapped(x).unflatten(0, (SAMPLES, -1)))

    return Way(call, wrapped.core_model, folds=on_batch)


def _mc_dropout_file() -> ModuleType:
    """The installed file of the wrapper, loaded by itself: the package's own `__init__` imports lightning, torchvision
    and more, of which the wrapper uses nothing."""
    name = "benchmarks_torch_uncertainty_mc_dropout"
    if name not in sys.modules:
        package = importlib.util.find_spec("torch_uncertainty")
        if package is None or package.origin is None:
            raise NotAvailable("torch-uncertainty is not installed")
        spec = importlib.util.spec_from_file_location(name, Path(package.origin).parent / "methods" / "mc_dropout.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def baal(network: Network, in_memory: bool = False, cached: bool = False) -> Way:
    """`ModelWrapper.predict_on_batch` of a module patched by `MCDropoutModule` (its head, where only that samples), and
    by `MCCachingModule` if `cached`."""
    try:
        from baal.bayesian.caching_utils import MCCachingModule
        from baal.bayesian.dropout import MCDropoutModule
        from baal.modelwrapper import ModelWrapper, TrainingArgs
    except ImportError as e:
        raise NotAvailable(f"baal cannot be imported: {e}") from e
    module = network.made()
    if network.sites is None:
        module = MCDropoutModule(module)
    else:
        module.set_submodule("head", MCDropoutModule(module.get_submodule("head")))
    if cached:
        module = MCCachingModule(module)
    wrapper = ModelWrapper(module, TrainingArgs(use_cuda=False, replicate_in_memory=in_memory))
    wrapper.eval()

    def call(x: Tensor, _: int) -> Answer:
        return over_samples(wrapper.predict_on_batch(x, SAMPLES).movedim(-1, 0))

    return Way(call, module, folds=in_memory)


def engine(network: Network, dtype: str) -> Way:
    module = network.made()
    try:
        sampler = prepare(module, network.input(4, 0), "classification", dtype=dtype, sites=network.sites)
    except UnservableModel as e:
        raise NotAvailable(f"refused: {e.detail}") from e
    if sampler.dtype != dtype:
        raise NotAvailable(sampler.dtype_note)

    def call(x: Tensor, number: int) -> Answer:
        answer = sampler.uncertainty(x, SAMPLES, seed=number)
        return answer.mean, answer.std

    return Way(call, module)


ENGINE = {"float32": "engine, float32", "bfloat16": "engine, bf16"}
WAYS: dict[str, Callable[[Network], Way]] = {
    "usual loop": usual_loop,
    "careful loop": careful_loop,
    "repeat the batch": repeated,
    "torch-uncertainty, loop": lambda network: torch_uncertainty(network, on_batch=False),
    "torch-uncertainty, on_batch": lambda network: torch_uncertainty(network, on_batch=True),
    "baal, loop": baal,
    "baal, in memory": lambda network: baal(network, in_memory=True),
    "baal, cache": lambda network: baal(network, cached=True),
    ENGINE["float32"]: lambda network: engine(network, "float32"),
    ENGINE["bfloat16"]: lambda network: engine(network, "bfloat16"),
}


def versions() -> dict[str, str]:
    found = {}
    for name in ("baal", "torch_uncertainty"):
        if importlib.util.find_spec(name) is not None:
            found[name.replace("_", "-")] = version(name)
    return found
