"""Whether bfloat16 or tf32 is exact enough for a network: measured against float32 with the same masks, when it is
prepared.

What it changes must be small beside what is not known anyway, the Monte-Carlo error at 50 samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.errors import UnservableModel
from service.sampling.agreement import scale_of
from service.sampling.arming import Inputs
from service.sampling.sampler import Sampler
from service.statistics import Task, Uncertainty

ADMITTED = 0.1
ROWS = 32
_SAMPLES = 50
_ALONE = 4  # rows that are tried alone
_FLOOR = 1e-6  # of the output's scale: what any two ways of computing a row may differ by


@dataclass(frozen=True)
class DtypeError:
    """How far a type of products moved `mean` and the prediction, in `mean_se`, and `std`, in `std_se`, of 50 samples:
    root mean square over the outputs of the probe batch, the largest over the kernels. Values are counted in the
    standard errors of their own column. `mean` and `std` are under 0.1, or it is refused; the prediction is only
    told."""

    mean: float
    std: float
    prediction: float


def hold_to_float32(lowered: Sampler, exact: Sampler, rows: Inputs) -> DtypeError:
    """Measures a sampler in bfloat16 or tf32 against the same in float32, with the same masks. rows: at least 32.

    UnservableModel with the figures where it is too far off, or where a row alone is not itself in company.
    """
    true = exact.uncertainty(rows, _SAMPLES, method="sampled")
    told = [lowered.uncertainty(rows, _SAMPLES, kernel=kernel, method="sampled") for kernel in lowered.kernels]
    assert true.mean_se is not None
    assert true.std_se is not None
    mean_se, std_se = (_own_scale(each, lowered.task) for each in (true.mean_se, true.std_se))
    error = DtypeError(
        mean=max(_ratio(each.mean - true.mean, mean_se) for each in told),
        std=max(_ratio(each.std - true.std, std_se) for each in told),
        prediction=_ratio(lowered.predict(rows) - exact.predict(rows), mean_se),
    )
    if not (error.mean < ADMITTED and error.std < ADMITTED):
        raise UnservableModel(
            f"{lowered.dtype} is too coarse for this network: on {len(true.mean)} probe rows the mean of {_SAMPLES} "
            f"samples moves by {error.mean:.3f} of its standard error and the std by {error.std:.3f} of its own (root "
            f"mean square); under {ADMITTED} each is admitted. Serve it in float32"
        )
    _check_alone(lowered, rows, told)
    return error


def _own_scale(standard_error: Tensor, task: Task) -> Tensor:
    """Root mean square over the rows, for each column, or over all of them where they are probabilities."""
    squares = standard_error.double().square()
    mean = squares.mean() if task in ("classification", "multilabel") else squares.mean(0)
    return mean.sqrt().expand(standard_error.shape[1:])


def _ratio(difference: Tensor, scale: Tensor) -> float:
    """Root mean square, in scales. Columns that dropout does not reach have none, and do not count."""
    reached = scale > 0
    if not bool(reached.any()):
        return float("inf")
    return float((difference.double() / scale)[:, reached].square().mean().sqrt())


def _check_alone(lowered: Sampler, rows: Inputs, company: Sequence[Uncertainty]) -> None:
    """A row alone by any kernel and in company by any: within a tenth of its standard error."""
    for kernel in lowered.kernels:
        for i in range(_ALONE):
            row = {name: value[i : i + 1] for name, value in rows.items()}
            alone = lowered.uncertainty(row, _SAMPLES, kernel=kernel, method="sampled")
            for others in company:
                assert others.mean_se is not None
                allowed = ADMITTED * others.mean_se[i] + _FLOOR * scale_of(others.mean, lowered.task)
                if bool(torch.any((alone.mean[0] - others.mean[i]).abs() > allowed)):
                    raise UnservableModel(
                        f"in {lowered.dtype} a row alone differs from itself in company by more than {ADMITTED} of its "
                        "standard error. Serve it in float32"
                    )
