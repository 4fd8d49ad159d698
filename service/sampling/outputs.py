"""What a network's outputs stand for: from numbers to probabilities, and from samples of them to an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import byref

import torch
from torch import Tensor

from service import native
from service.errors import ModelFailed, UnservableModel
from service.statistics import (
    Accumulator,
    ClosedForm,
    ConditionalAccumulator,
    Method,
    NoiseHead,
    NoisyAccumulator,
    NoisyUncertainty,
    Task,
    Uncertainty,
)

SampleAccumulator = Accumulator | ConditionalAccumulator | ClosedForm


class Outputs:
    """task: of the network. shape: of a row's answer. noise_head: what the second half of the columns is of the first;
    None where all columns are answers."""

    def __init__(self, task: Task, shape: tuple[int, ...]) -> None:
        self.task: Task = task
        self.shape = shape
        self.noise_head: NoiseHead | None = None

    def use_noise_head(self, head: NoiseHead) -> None:
        """UnservableModel where the outputs are not locations and as many of their noise."""
        if self.task != "regression" or len(self.shape) != 1 or self.shape[0] % 2:
            raise UnservableModel(
                f"a network with a noise head is a regression and gives (rows, 2·targets), locations and then as many "
                f"of their noise; this one is of the task {self.task} and gives {self.shape} for a row"
            )
        self.noise_head, self.shape = head, (self.shape[0] // 2,)

    def read(self, output: Tensor) -> Tensor:
        """(…, rows, …) as the network gives it, to float32 probabilities (classification, multilabel) or values."""
        output = output.float()
        if self.task == "classification":
            if native.reads(output) and output.shape[-1] <= native.MOST_CLASSES:
                return _softmax(output)
            # rows innermost in memory: softmax and statistics over classes are several times faster so
            if output.dim() == 3 and (classes_first := output.permute(2, 0, 1)).is_contiguous():
                return classes_first.softmax(0).permute(1, 2, 0)
            return output.mT.contiguous().softmax(-2).mT
        return output.sigmoid() if self.task == "multilabel" else output

    def located(self, values: Tensor) -> Tensor:
        """Without the columns of the noise."""
        return values if self.noise_head is None else values[:, : self.shape[0]].contiguous()

    def accumulator(self, balanced: bool, keep: bool, method: Method = "sampled") -> SampleAccumulator:
        """What takes the samples of some rows."""
        if self.noise_head is not None:
            return NoisyAccumulator(self.noise_head, balanced, keep)
        if method == "sampled":
            return Accumulator(self.task, balanced, keep)
        return ClosedForm() if method == "closed_form" else ConditionalAccumulator(balanced)

    def answer(
        self, parts: Sequence[SampleAccumulator], method: Method = "sampled", asked: int = 0
    ) -> Uncertainty:
        """asked: samples that each row was to have."""
        kind = Uncertainty if self.noise_head is None else NoisyUncertainty
        return kind(parts, self.shape, method, asked)


def _softmax(logits: Tensor) -> Tensor:
    """(…, classes)."""
    probabilities = torch.empty_like(logits)
    classes = logits.shape[-1]
    wanted = native.Classes(1, logits.numel() // classes, classes, logits.data_ptr(), probabilities.data_ptr())
    library = native.library()
    assert library is not None
    library.errorbar_softmax(byref(wanted), native.threads(logits.numel()))
    return probabilities


NOT_FINITE = "the model gave an output that is not finite (NaN or infinity)"


def finite(values: Tensor) -> Tensor:
    """The same. ModelFailed where any value is not finite."""
    # a sum is not finite where any summand is not: one pass, no tensor of flags
    if not math.isfinite(values.sum().item()) and not torch.isfinite(values).all():
        raise ModelFailed(NOT_FINITE)
    return values


class Checks:
    """Whether numbers are finite. On the CPU one that is not is told at once; on a device, where each look would wait
    for all that was launched, when the checks are settled."""

    def __init__(self, device: torch.device) -> None:
        self._deferred = device.type != "cpu"
        self._found: list[tuple[Tensor, str]] = []

    def finite(self, values: Tensor, wrong: str = NOT_FINITE) -> Tensor:
        """The same. wrong: what is said where any value is not finite."""
        if self._deferred:
            self._found.append((values.isfinite().all(), wrong))
            return values
        try:
            return finite(values)
        except ModelFailed:
            raise ModelFailed(wrong) from None

    def finished(self, accumulator: SampleAccumulator) -> None:
        """That all samples were finite."""
        self.finite(accumulator.moments.mean)  # not finite where any sample is not
        if isinstance(accumulator, NoisyAccumulator):
            self.finite(accumulator.noise_variance,
                        "the noise head gave a negative standard deviation, or one that is not finite")
        if not isinstance(accumulator, Accumulator):
            self.finite(accumulator.moments.std)  # computed, not sampled

    def settle(self) -> None:
        """ModelFailed where any value was not finite."""
        if self._found:
            flags, messages = zip(*self._found, strict=True)
            for good, wrong in zip(torch.stack(flags).tolist(), messages, strict=True):
                if not good:
                    raise ModelFailed(wrong)
