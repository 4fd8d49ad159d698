"""The networks of the comparison, with seeded weights and inputs. What each one is for stands in `NETWORKS`."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.architectures.mlp import MLP

CLASSES = 10
INPUTS = 64  # that rotate
LOGIT_SPREAD = 2.0  # standard deviation


@dataclass(frozen=True)
class Network:
    """build: the module, with a part named `head` where only that samples. inputs: (rows, generator) to a tensor.
    size: numbers in the largest activation of one row. sites: what `prepare` gets."""

    title: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], Tensor]
    size: int
    sites: tuple[str, ...] | None = None

    def made(self) -> nn.Module:
        """With weights of seed 0, and logits as far apart as a trained classifier's; torch's own generator is left as
        it was."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            module = self.build().eval()
            last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
            factor = LOGIT_SPREAD / module(self.input(16, 0)).std()
            last.weight.mul_(factor)
            last.bias.mul_(factor)
        return module

    def input(self, rows: int, number: int) -> Tensor:
        return self.inputs(rows, torch.Generator().manual_seed(1000 * rows + number))


class SmallCNN(nn.Module):
    """(rows, 1, 28, 28): two blocks of convolution, batch normalisation, ReLU, max-pool, `Dropout2d`; a head."""

    def __init__(self, channels: tuple[int, int] = (32, 64), side: int = 28, hidden: int = 128) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in ((1, channels[0]), channels):
            blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
                       nn.MaxPool2d(2), nn.Dropout2d(0.2)]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(channels[1] * (side // 4) ** 2, hidden), nn.ReLU(),
                                  nn.Dropout(0.5), nn.Linear(hidden, CLASSES))
        self.train()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():  # running statistics such as training leaves them
            for _ in range(20):
                self(images(64, generator, channels=1, side=side))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


class VGG16(nn.Module):
    """(rows, 3, 32, 32): the 13 convolutions of VGG-16 (configuration D) and a head of width 512 with dropout."""

    widths = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: max-pool

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in self.widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
            before = width or before
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5),
                                  nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, CLASSES))
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                assert part.bias is not None
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


class Transformer(nn.Module):
    """(rows, 64) token numbers: embedding, four `nn.TransformerEncoderLayer`s, a head on the first place."""

    tokens, width, length = 1000, 256, 64

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Embedding(self.tokens, self.width)
        self.place = nn.Parameter(torch.randn(self.length, self.width))
        layer = nn.TransformerEncoderLayer(self.width, 8, 4 * self.width, dropout=p, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(p), output=nn.Linear(self.width, CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.embed(x) + self.place)[:, 0])
        return logits


class LSTM(nn.Module):
    """(rows, 32, 64): two layers of 128 with `dropout=` between them, the last step read by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, 128, num_layers=2, dropout=0.3, batch_first=True)
        self.output = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.lstm(x)[0][:, -1])
        return logits


def images(rows: int, generator: torch.Generator, channels: int, side: int) -> Tensor:
    """Noise of a contrast and a brightness that differ from row to row, as those of photographs do."""
    contrast = 0.2 + torch.rand(rows, 1, 1, 1, generator=generator)
    brightness = torch.randn(rows, 1, 1, 1, generator=generator)
    return contrast * torch.randn(rows, channels, side, side, generator=generator) + brightness


def _tokens(rows: int, generator: torch.Generator) -> Tensor:
    return torch.randint(Transformer.tokens, (rows, Transformer.length), generator=generator)


_FEED_FORWARD = Transformer.length * 4 * Transformer.width

NETWORKS = {
    "mlp": Network("MLP 512-256-128-10, .5 and .3", MLP, lambda n, g: torch.randn(n, 512, generator=g), 512),
    "cnn": Network("CNN 32/64 channels, 28×28, BN, Dropout2d .2, head .5", SmallCNN,
                   lambda n, g: images(n, g, channels=1, side=28), 32 * 28 * 28),
    "vgg": Network("VGG-16, 3×32×32, dropout .5 in the head only", VGG16,
                   lambda n, g: images(n, g, channels=3, side=32), 64 * 32 * 32),
    "transformer": Network("transformer, 4 layers, d 256, length 64, .1 everywhere", Transformer, _tokens,
                           _FEED_FORWARD),
    "transformer-head": Network("the same, only the head's dropout samples", Transformer, _tokens, _FEED_FORWARD,
                                ("head*",)),
    "lstm": Network("LSTM, 2 layers, hidden 128, length 32, .3 between", LSTM,
                    lambda n, g: torch.randn(n, 32, 64, generator=g), 32 * 512),
}


def dropout_on(module: nn.Module, head_only: bool) -> nn.Module:
    """Eval mode, but with dropout on wherever it acts (or in `head` alone), and nothing that has running statistics:
    what a careful user does. The owner of a dropout that is no module (LSTM, attention) is switched on too."""
    module.eval()
    part = module.get_submodule("head") if head_only else module
    for child in part.modules():
        child.training = not any(name.startswith("running_") for name, _ in child.named_buffers(recurse=False))
    return module


@contextmanager
def _plain_operators() -> Iterator[None]:
    """Attention and LSTM as separate products, so that every FLOP is counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # leaving mkldnn's flags warns of a GPU that is not there
            with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _FirstDraw(TorchDispatchMode):
    """Notes the FLOPs counted before the first operator that draws at random."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter
        self.flops: int | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.flops is None and torch.Tag.nondeterministic_seeded in func.tags:
            self.flops = self._counter.get_total_flops()
        return func(*args, **(kwargs or {}))


def deterministic_flop_share(network: Network) -> float:
    """Share of one pass' FLOPs before the first site, counted on the module itself."""
    module = dropout_on(network.made(), network.sites is not None)
    x, counter = network.input(1, 0), FlopCounterMode(display=False)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _plain_operators(), counter, _FirstDraw(counter) as first:
        module(x)
    assert first.flops is not None
    return first.flops / counter.get_total_flops()

