"""Multilayer perceptrons with dropout after each hidden layer: one for classes, one for a regression target."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from models.architectures.scaling import Numbers, Restore, Standardise


class MLP(nn.Module):
    """Rows of numbers in their own units to one logit a class.

    Each hidden layer is linear, ReLU, dropout; the output layer is linear. `dropout` has one rate a hidden layer, the
    chance that a unit is dropped. `shift` and `scale` (one number, or one an input) standardise the inputs; they are
    buffers, so a factory called with sizes alone gets them from the weights.
    Forward: (rows, inputs) -> (rows, outputs). ValueError where `hidden` and `dropout` differ in length.
    """

    def __init__(
        self,
        inputs: int = 512,
        hidden: Sequence[int] = (256, 128),
        outputs: int = 10,
        dropout: Sequence[float] = (0.5, 0.3),
        shift: Numbers = 0.0,
        scale: Numbers = 1.0,
    ) -> None:
        super().__init__()
        if len(hidden) != len(dropout):
            raise ValueError(f"expected one dropout rate a hidden layer, got {len(dropout)} rates for {len(hidden)}")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = inputs
        for number, (units, rate) in enumerate(zip(hidden, dropout, strict=True), start=1):
            layers[f"linear{number}"] = nn.Linear(width, units)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"dropout{number}"] = nn.Dropout(rate)
            width = units
        layers["output"] = nn.Linear(width, outputs)
        self.standardise = Standardise((inputs,), shift, scale)
        self.body = nn.Sequential(layers)

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.body(self.standardise(rows))
        return logits


class RegressionMLP(MLP):
    """Rows of numbers in their own units to a target in its own unit.

    As `MLP`, then the target's mean and standard deviation (`target_shift`, `target_scale`; buffers) are put back.
    Forward: (rows, inputs) -> (rows, outputs), in the target's unit.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        dropout: Sequence[float],
        shift: Numbers = 0.0,
        scale: Numbers = 1.0,
        target_shift: Numbers = 0.0,
        target_scale: Numbers = 1.0,
    ) -> None:
        super().__init__(inputs, hidden, outputs, dropout, shift, scale)
        self.restore = Restore(outputs, target_shift, target_scale)

    def forward(self, rows: Tensor) -> Tensor:
        values: Tensor = self.restore(super().forward(rows))
        return values
