"""From a stream of samples to the answer of one request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from service.statistics.blocks import BLOCK
from service.statistics.information import Information, InformationSums
from service.statistics.moments import FinishedMoments, Moments

T = TypeVar("T")
_MAX_PENDING = 2  # chunks

Task = Literal["classification", "regression", "multilabel", "generic"]
Method = Literal["sampled", "closed_form", "rao_blackwell"]
StopReason = Literal["samples", "tolerance", "decision", "deadline"]
Side = Literal["above", "below"]


class Accumulator:
    """Takes the samples of some rows as they come and keeps what the statistics need: memory does not grow with the
    number of samples unless the samples themselves are kept."""

    def __init__(self, task: Task, balanced: bool, keep: bool = False) -> None:
        self._moments = Moments(balanced, task == "classification")
        self._information = InformationSums(task == "multilabel") if task in ("classification", "multilabel") else None
        self._kept: list[Tensor] | None = [] if keep else None
        self._pending: list[tuple[Tensor, list[int]]] = []  # not yet in the information sums

    def add(self, values: Tensor) -> None:
        """values: (samples, rows, columns), probabilities or outputs; whole blocks of 10 but for the very last."""
        samples = values.shape[0]
        counts = [BLOCK] * (samples // BLOCK)
        if samples % BLOCK:
            counts.append(samples % BLOCK)
        self._moments.add(values, counts)
        if self._information is not None:
            self._pending.append((values, counts))
            if len(self._pending) > _MAX_PENDING:
                self._sum_pending(self._information)
        if self._kept is not None:
            self._kept.append(values.transpose(0, 1))

    @property
    def samples(self) -> int:
        return self._moments.samples

    @cached_property
    def moments(self) -> FinishedMoments:
        return self._moments.finish()

    @cached_property
    def information(self) -> Information | None:
        """None for tasks that have no classes. Its sums wait until it is read, or until many samples wait: whoever
        reads mean and std of a usual request does not pay for it."""
        if self._information is None:
            return None
        at_once = self.moments.at_once
        if at_once is not None and at_once.of_classes is not None:
            return Information.of(at_once.of_classes, self._moments.block_count)
        self._sum_pending(self._information)
        return self._information.finish(self.moments)

    def _sum_pending(self, information: InformationSums) -> None:
        for values, counts in self._pending:
            information.add(values, counts)
        self._pending.clear()

    @cached_property
    def draws(self) -> Tensor | None:
        """(rows, samples, columns)."""
        return None if self._kept is None else torch.cat(self._kept, 1)


class Finished(Protocol):
    """Moments of some rows: tensors (rows, columns), float64."""

    mean: Tensor
    std: Tensor

    @property
    def se_df(self) -> int | None: ...
    def mean_se(self) -> Tensor | None: ...
    def std_se(self) -> Tensor | None: ...


class Part(Protocol):
    """What an answer needs to know of some of its rows."""

    @property
    def samples(self) -> int: ...
    @property
    def moments(self) -> Finished: ...
    @property
    def information(self) -> Information | None: ...
    @property
    def draws(self) -> Tensor | None: ...


class Uncertainty:
    """What the samples say of each row. Tensors have rows first and are float64 unless stated; `shape` is the
    output's, without the row axis. Statistics are computed when first read.

    `mean`, `std`: over the samples of the probabilities (classification, multilabel) or outputs. `*_se` are
    Monte-Carlo standard errors: how far the figure may be from the one that infinitely many samples would give.
    method: "sampled"; "rao_blackwell", where the last site's masks were averaged over exactly and the others' sampled;
    "closed_form", where nothing was sampled: `samples` and the standard errors are 0 and `se_df` is None.

    Where sampling was cut short, rows may rest on different numbers of samples; where a figure exists for some of them
    only (a standard error needs two or three blocks of ten), the others hold NaN.
    """

    def __init__(
        self, parts: Sequence[Part], shape: Sequence[int], method: Method = "sampled", asked: int = 0
    ) -> None:
        """asked: samples that each row was to have; those that have fewer were cut short by their deadline."""
        self._parts = parts
        self._shape = tuple(shape)
        self._asked = asked
        self.method: Method = method

    @property
    def samples(self) -> int:
        """How many samples each row rests on; the most, where rows differ."""
        return max(part.samples for part in self._parts)

    @cached_property
    def samples_per_row(self) -> Tensor:
        """(rows,), int64: differs between rows only where they could stop early or were cut short."""
        return torch.tensor(self._of_rows([part.samples for part in self._parts]))

    @property
    def stopped(self) -> list[StopReason]:
        """Why each row's sampling ended: all samples were drawn, its tolerance or decision was settled, or its deadline
        came."""
        return self._of_rows(["deadline" if part.samples < self._asked else "samples" for part in self._parts])

    def _of_rows(self, of_parts: Sequence[T]) -> list[T]:
        return [value for value, part in zip(of_parts, self._parts, strict=True) for _ in part.moments.mean]

    @property
    def settled(self) -> list[Side | None]:
        """For each row whether its class' probability was settled to be above or below the limit; None if neither."""
        return [None] * len(self.mean)

    @property
    def after_stopping(self) -> list[bool]:
        """Rows that were stopped on what their samples showed: plug-in standard errors are optimistic there."""
        return [False] * len(self.mean)

    @cached_property
    def mean(self) -> Tensor:
        """(rows, *shape)."""
        return self._shaped([part.moments.mean for part in self._parts])

    @cached_property
    def std(self) -> Tensor:
        """Dropout standard deviation, (rows, *shape). Its square is unbiased, so at 50 samples it is itself low by 2
        to 7 %."""
        return self._shaped([part.moments.std for part in self._parts])

    @cached_property
    def mean_se(self) -> Tensor | None:
        """(rows, *shape); None with fewer than two blocks of balanced samples."""
        return self._shaped_or_none([part.moments.mean_se() for part in self._parts])

    @cached_property
    def std_se(self) -> Tensor | None:
        """(rows, *shape); None with fewer than three blocks."""
        return self._shaped_or_none([part.moments.std_se() for part in self._parts])

    @property
    def se_df(self) -> int | None:
        """Degrees of freedom of `mean_se`: blocks - 1 (balanced) or samples - 1 (iid); None where there are none, or
        where rows differ."""
        first, *others = {part.moments.se_df for part in self._parts}
        return None if others else first

    @property
    def se_df_per_row(self) -> list[int | None]:
        return self._of_rows([part.moments.se_df for part in self._parts])

    @property
    def entropy(self) -> Tensor:
        """Entropy of the mean, nats, (rows,); (rows, labels) for multilabel. ValueError for other tasks."""
        return self._information("entropy")

    @property
    def entropy_se(self) -> Tensor | None:
        return self._information_or_none("entropy_se")

    @property
    def expected_entropy(self) -> Tensor:
        """Mean entropy of the samples, nats."""
        return self._information("expected_entropy")

    @property
    def mutual_information(self) -> Tensor:
        """What the samples disagree about, nats; see `Information`."""
        return self._information("mutual_information")

    @property
    def mutual_information_se(self) -> Tensor | None:
        return self._information_or_none("mutual_information_se")

    @property
    def variation_ratio(self) -> Tensor:
        """Share of samples that do not vote for the most popular class, in [0, 1)."""
        return self._information("variation_ratio")

    @property
    def noise_std(self) -> Tensor | None:
        """Standard deviation of the observations' own noise, (rows, *shape), where the network has a noise head: the
        root of the mean over samples of its variance. The target's whole variance is std² + noise_std². Else None."""
        return None

    @cached_property
    def draws(self) -> Tensor | None:
        """The samples themselves, (rows, samples, *shape), float32, where they were asked for; NaN beyond those of a
        row that has fewer."""
        kept = [
            pad(part.draws, (0, 0, 0, self.samples - part.samples), value=torch.nan)
            for part in self._parts if part.draws is not None
        ]
        return torch.cat(kept).reshape(-1, self.samples, *self._shape) if kept else None

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Quantiles of the samples, linear between order statistics: (rows, levels, *shape), float64.

        levels: 0 to 1 each, one at least. ValueError where they are not, or where the samples were not kept
        (`include_samples=True`). With 50 samples a 0.05 quantile rests on
        two or three of them.
        """
        draws = [part.draws for part in self._parts if part.draws is not None]
        if not draws:
            raise ValueError("quantiles need the samples: ask for them with include_samples=True")
        wanted = _checked(levels).to(draws[0].device)
        whole = self._in_order([torch.quantile(values.double(), wanted, 1).transpose(0, 1) for values in draws])
        assert whole is not None
        return whole.reshape(len(whole), len(wanted), *self._shape)

    def _shaped(self, parts: Sequence[Tensor]) -> Tensor:
        whole = self._shaped_or_none(parts)
        assert whole is not None
        return whole

    def _shaped_or_none(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        whole = self._in_order(parts)
        return whole if whole is None or whole.shape[1:] == self._shape else whole.reshape(len(whole), *self._shape)

    def _information_or_none(self, name: str) -> Tensor | None:
        if self._parts[0].information is None:
            raise ValueError(f"{name} is for classification and multilabel models")
        return self._in_order([getattr(part.information, name) for part in self._parts])

    def _in_order(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        """One figure of all rows; NaN where a part has none, None where no part has any."""
        present = next((part for part in parts if part is not None), None)
        if present is None or len(parts) == 1:
            return present
        return torch.cat([
            found if found is not None else present.new_full((len(part.moments.mean), *present.shape[1:]), torch.nan)
            for found, part in zip(parts, self._parts, strict=True)
        ])

    def _information(self, name: str) -> Tensor:
        found = self._information_or_none(name)
        assert found is not None
        return found


def _checked(levels: Sequence[float]) -> Tensor:
    """Levels of quantiles, float64."""
    try:
        given = torch.as_tensor(levels, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        given = torch.empty(0)
    if given.dim() != 1 or not len(given) or not bool(((given >= 0) & (given <= 1)).all()):
        raise ValueError(f"levels: a sequence of numbers from 0 to 1 expected, such as [0.05, 0.95], got {levels!r}")
    return given
