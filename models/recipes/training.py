"""One seeded training loop for every recipe."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.recipes.data import Rows, Split

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) of a batch to the mean loss of its rows."""
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train: AdamW, the learning rate falling to zero along a half cosine."""

    epochs: int
    batch_rows: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class EpochLosses:
    """Mean loss with every dropout off and nothing augmented, after one epoch."""

    train: float
    validation: float


@dataclass(frozen=True)
class Fit:
    """A trained network in eval mode, with the weights of its best epoch, and the losses of all epochs."""

    module: nn.Module
    epochs: tuple[EpochLosses, ...]

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the lowest validation loss, the earliest of equals."""
        return 1 + min(range(len(self.epochs)), key=lambda index: self.epochs[index].validation)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seeded and on one thread inside; torch's random state and thread count are put back afterwards.

    Sums over several threads are added in an order that may change, so bit-equal reruns need one thread.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def fit(
    build: Callable[[], nn.Module],
    split: Split,
    loss: Loss,
    schedule: Schedule,
    seed: int,
    augment: Augment | None = None,
) -> Fit:
    """Trains `build()` on the training rows and keeps the epoch with the lowest validation loss.

    Initial weights, the order of the rows and the augmentation depend on the seed and not on the dropout rates, so
    two networks that differ in their rates alone are compared like for like. Bit-equal when rerun on one machine.
    """
    with reproducible(seed):
        module = build()
        inputs, targets = torch.from_numpy(split.train.inputs), torch.from_numpy(split.train.targets)
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(
            module.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, schedule.epochs)
        history: list[EpochLosses] = []
        best = copy.deepcopy(module.state_dict())
        for _ in range(schedule.epochs):
            module.train()
            for batch in torch.randperm(len(inputs), generator=generator).split(schedule.batch_rows):
                rows = inputs[batch] if augment is None else augment(inputs[batch], generator)
                optimiser.zero_grad()
                loss(module(rows), targets[batch]).backward()
                optimiser.step()
            cosine.step()
            module.eval()
            losses = EpochLosses(_mean_loss(module, split.train, loss), _mean_loss(module, split.validation, loss))
            if all(losses.validation < earlier.validation for earlier in history):
                best = copy.deepcopy(module.state_dict())
            history.append(losses)
        module.load_state_dict(best)
        return Fit(module, tuple(history))


@torch.no_grad()
def _mean_loss(module: nn.Module, rows: Rows, loss: Loss) -> float:
    return float(loss(module(torch.from_numpy(rows.inputs)), torch.from_numpy(rows.targets)))
