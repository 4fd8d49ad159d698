"""What only one place of an axis is read of is computed there only, and the answer is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from service.sampling import Sampler, prepare

X = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(0))


class Layer(nn.Module):
    """Treats places alike, but for what `mix` adds to all of them."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(24, 8)
        self.drop, self.last = nn.Dropout(p), nn.Dropout(p)
        self.where = nn.Parameter(torch.randn(6, 8))
        self.scale = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.last(self.narrow(self.drop(self.wide(self.norm(x + self.where)).relu())))


class Reading(nn.Module):
    """Two layers, of which the head reads what it is told to."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two, self.head = Layer(), Layer(), nn.Linear(8, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.two(self.one(x))))


class Channels(nn.Module):
    """A mask that is the same at every place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.drop, self.head = nn.Conv1d(6, 7, 3), nn.Dropout1d(0.4), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.drop(self.conv(x)).tanh() * 2).permute(2, 0, 1)[-1])


def places_computed(sampler: Sampler) -> set[int]:
    """How many places the wide linear layers of the suffix see."""
    seen = set()

    class Recorder(fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if getattr(target, "__name__", "") == "linear" and args[1].shape == (24, 8):
                seen.add(args[0].shape[1] if args[0].dim() == 3 else 1)
            return super().call_function(target, args, kwargs)

    split = sampler.kernels[0].split
    with torch.no_grad():
        masks = [torch.ones(1, 1, *site.mask_shape) for site in sampler.sites]
        Recorder(split.suffix).run(1, len(X), *masks, *split.prefix(X))
    return seen


READ_ONE = {
    "first": lambda h: h[:, 0], "last": lambda h: h[:, -1], "kept axis": lambda h: h.transpose(0, 1)[2],
    "behind an activation": lambda h: torch.nn.functional.gelu(h)[:, 3],
}
READ_MORE = {
    "two places": lambda h: h[:, 0] + h[:, 1], "one and all": lambda h: h[:, 0] + h.mean(1),
    "all": lambda h: h.sum(1),
}


@pytest.mark.parametrize("name", [*READ_ONE, *READ_MORE])
@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_the_answer_is_that_of_the_whole_network(name, masks) -> None:
    sampler = prepare(Reading({**READ_ONE, **READ_MORE}[name]), X, task="regression")
    fast = sampler.uncertainty(X, 40, seed=3, masks=masks, include_samples=True)
    slow = sampler.reference(X, 40, seed=3, masks=masks)
    torch.testing.assert_close(fast.draws, slow.draws, atol=1e-5, rtol=0)
    torch.testing.assert_close(sampler.predict(X), sampler.predict_reference(X), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", READ_ONE)
def test_layers_whose_readers_want_one_place_are_computed_there_only(name) -> None:
    assert places_computed(prepare(Reading(READ_ONE[name]), X, task="classification")) == {1}


@pytest.mark.parametrize("name", READ_MORE)
def test_layers_that_are_read_at_more_places_are_computed_at_all(name) -> None:
    assert places_computed(prepare(Reading(READ_MORE[name]), X, task="classification")) == {6}


def test_a_mask_over_channels_reaches_the_one_place() -> None:
    sampler = prepare(Channels(), X, task="classification")
    fast = sampler.uncertainty(X, 40, seed=3, include_samples=True)
    slow = sampler.reference(X, 40, seed=3)
    torch.testing.assert_close(fast.draws, slow.draws, atol=1e-6, rtol=0)
    assert float(fast.std.min()) > 0


def test_an_encoder_that_is_read_at_one_place_gives_what_the_whole_one_gives() -> None:
    torch.manual_seed(4)

    class Encoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x)[:, 0])

    sampler = prepare(Encoded(), X, task="classification")
    fast = sampler.uncertainty(X, 40, seed=3, include_samples=True)
    slow = sampler.reference(X, 40, seed=3)
    torch.testing.assert_close(fast.draws, slow.draws, atol=1e-6, rtol=0)
