"""Networks of the kinds that people serve, with random weights from a seed: what benchmarks and GPU tests run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.architectures.cnn import CNN
from models.architectures.mlp import MLP


@dataclass(frozen=True)
class Network:
    """make: a new module; row_shape: of one row of its input, standard normal."""

    name: str
    make: Callable[[], nn.Module]
    row_shape: tuple[int, ...]

    def module(self) -> nn.Module:
        """In eval mode, the same weights every time. Leaves torch's generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().eval()

    def rows(self, count: int, seed: int = 0) -> Tensor:
        return torch.randn(count, *self.row_shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Two 3×3 convolutions with batch normalisation and channel dropout between, and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.drop = nn.Dropout2d(0.1)
        self.two = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.around = nn.Identity() if (inputs, stride) == (outputs, 1) else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.norm_one(self.one(x)).relu())
        return (self.norm_two(self.two(hidden)) + self.around(x)).relu()


def resnet(channels: Sequence[int] = (64, 128, 256, 512), blocks: int = 2, outputs: int = 10) -> nn.Module:
    """Of ResNet-18's shape by default, for small images: (rows, 3, side, side) to (rows, outputs)."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, padding=1)]
    width = channels[0]
    for stage, wider in enumerate(channels):
        for block in range(blocks):
            layers.append(Residual(width, wider, 2 if stage and not block else 1))
            width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(width, outputs))


class Encoder(nn.Module):
    """A transformer encoder with dropout 0.1 everywhere and a classifier of the first place: (rows, length, width) to
    (rows, outputs)."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12, outputs: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x)[:, 0])
        return logits


NETWORKS = (
    Network("MLP 512-256-128-10", MLP, (512,)),
    Network("CNN 32/64 channels, 28×28", lambda: CNN(side=28, channels=(32, 64), hidden=128), (1, 28, 28)),
    Network("ResNet-18-like, 32×32", resnet, (3, 32, 32)),
    Network("BERT-base-like, length 128", Encoder, (128, 768)),
)
SMALL_NETWORKS = (
    Network("MLP", lambda: MLP(12, (32, 16), 3, (0.5, 0.3)), (12,)),
    Network("CNN", lambda: CNN(side=8, channels=(4, 8), hidden=16), (1, 8, 8)),
    Network("ResNet-like", lambda: resnet((4, 8), 1), (3, 8, 8)),
    Network("transformer", lambda: Encoder(2, 16, 2), (5, 16)),
)
