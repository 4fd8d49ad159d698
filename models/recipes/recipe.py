"""What a recipe is: everything that makes one bundled model, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from models.recipes.data import Split
from models.recipes.training import Augment, Schedule
from service.repository import Feature

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Recipe:
    """One bundled model, from its data to the words of its card.

    `sizes` and `dropout` are the factory's arguments in the manifest. `scaling` gives the arguments that become
    buffers (input and target scaling), from the training rows. `features` names the inputs, from the training rows.
    `about_data` and `about_training` are Markdown paragraphs of the card. The first of `seeds` trains the model that
    is served; the others only show how much the figures move with the seed.
    """

    name: str
    task: Task
    description: str
    labels: tuple[str, ...]
    split: Callable[[], Split]
    input_shape: tuple[int, ...]
    input_range: tuple[float, float] | None
    features: Callable[[Split], tuple[Feature, ...]]
    factory: type[nn.Module]
    sizes: Mapping[str, Any]
    dropout: Mapping[str, Any]
    scaling: Callable[[Split], Mapping[str, Any]]
    schedule: Schedule
    augment: Augment | None
    about_data: str
    about_training: str
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    @property
    def command(self) -> str:
        """What makes the model again, bit for bit on one machine."""
        return f"python -m models.recipes.{self.name}"

    def build(self, split: Split, *, with_dropout: bool) -> nn.Module:
        """A fresh network; without dropout it is the same one with every rate at zero."""
        rates = self.dropout if with_dropout else {name: _zeroed(rate) for name, rate in self.dropout.items()}
        return self.factory(**self.sizes, **rates, **self.scaling(split))


def no_features(split: Split) -> tuple[Feature, ...]:
    """For inputs whose entries have no names of their own, such as pixels."""
    return ()


def _zeroed(rate: float | tuple[float, ...]) -> float | tuple[float, ...]:
    return 0.0 if isinstance(rate, float) else tuple(0.0 for _ in rate)
