"""The columns of a file of answers: the fields of the contract's rows, each of one kind and shape.

What is null for want of a calibration is left out, since it would be so in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from service.repository import ReadyModel
from service.scheduling import Options
from service.statistics.summary import Side, StopReason

OF_A_CALIBRATION = ("interval", "prediction_set", "calibrated_probabilities", "decision", "ood_score",
                    "calibration_reason")
_OF_CLASSES = ("entropy", "entropy_se", "expected_entropy", "mutual_information", "mutual_information_se",
               "variation_ratio")


@dataclass(frozen=True)
class Column:
    """name: of the field. kind: "number" and "text" may be null; "names" is a list of some of `of`. shape: of a row's
    value. of: what stands along its axis, if that has names; of text, what it may be."""

    name: str
    kind: Literal["number", "integer", "text", "truth", "names"] = "number"
    shape: tuple[int, ...] = ()
    of: Sequence[str] = ()


def columns_of(model: ReadyModel, options: Options | None) -> list[Column]:
    """options: None for a prediction."""
    manifest, shape = model.manifest, model.sampler.output_shape
    if manifest.task == "regression" and prod(shape) == 1:
        shape = ()
    labels = manifest.labels if manifest.task in ("classification", "multilabel") else None
    named = labels or ()
    columns = [] if labels is None else [Column("label", "text", of=labels), Column("index", "integer")]
    if options is None:
        name = "value" if manifest.task == "regression" else "output" if labels is None else "probabilities"
        columns.append(Column(name, "number", shape, named))
    else:
        columns += [Column(name, "number", shape, named) for name in ("mean", "std", "mean_se", "std_se")]
        if manifest.task in ("classification", "multilabel"):
            each = shape if manifest.task == "multilabel" else ()
            columns += [Column(name, "number", each, named if each else ()) for name in _OF_CLASSES]
        columns.append(Column("se_df"))
        if manifest.task == "regression":
            own = shape if model.sampler.noise_head is not None else ()
            total = shape if model.sampler.noise_head is not None or manifest.tau is not None else ()
            columns += [Column("noise_std", "number", own), Column("total_std", "number", total)]
        columns += [Column("samples", "integer"), Column("stopped", "text", of=get_args(StopReason)),
                    Column("settled", "text", of=get_args(Side))]
        if options.stops_early:
            columns.append(Column("after_stopping", "truth"))
    if manifest.features is not None:
        columns.append(Column("out_of_range", "names", of=[f.name for f in manifest.features]))
    return columns
