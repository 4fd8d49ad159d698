"""The shapes of what goes over the wire, for the OpenAPI page and the client. Knows pydantic only."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

Numbers = list[Any]  # a number, or nested lists of numbers


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow")


class PredictRequest(_Wire):
    instances: list[Any] = Field(
        description="Rows: nested lists in the input's shape, or objects by input name or by feature name. A value may "
        'be {"b64": "..."} of a tensor or an image, or a text, where the model\'s card says so.'
    )
    timeout_ms: int = Field(60_000, ge=1, description="The caller's deadline, milliseconds from arrival.")
    priority: int = Field(5, ge=0, le=9, description="Higher is answered first.")


class Decide(_Wire):
    above: float = Field(ge=0.5, lt=1, description="Is the predicted class' mean probability above this?")
    error: float = Field(gt=0, le=0.5, description="How likely each answer may be wrong.")


class UncertaintyRequest(PredictRequest):
    samples: int = Field(
        50, ge=2, le=10_000,
        description="The most samples to draw; balanced rounds up to a multiple of 10. 1000 with tolerance or decide.",
    )
    seed: int = Field(0, ge=0, le=2**53 - 1, description="Same request and seed, same answer.")
    masks: Literal["shared", "independent"] = Field(
        "shared", description="One thinned network a sample for all rows, or masks of its own for every row."
    )
    design: Literal["balanced", "iid"] = "balanced"
    method: Literal["auto", "sampled"] = Field(
        "auto", description="auto: no sampling of what can be averaged over exactly; quantiles and samples need it."
    )
    quantiles: list[float] | None = Field(None, description="Levels in (0, 1) of the samples.")
    include_samples: bool = Field(False, description="Return the samples themselves.")
    on_deadline: Literal["fail", "partial"] = Field(
        "fail", description="partial: answer in time with the samples there are, at least 20."
    )
    tolerance: float | None = Field(
        None, gt=0, lt=0.5, examples=[0.05],
        description="Stop a row once each of its mean probabilities is known to ± this (95 %, anytime-valid). For "
        "classification and multilabel; implies design iid.",
    )
    decide: Decide | None = Field(
        None, examples=[{"above": 0.9, "error": 0.01}],
        description="Stop a row once it is settled whether its predicted class' mean probability is above a limit. For "
        "classification; implies design iid.",
    )


class Prediction(_Wire):
    label: str | None = None
    index: int | None = None
    probabilities: list[float] | None = None
    value: float | list[float] | None = None
    output: Numbers | float | None = None
    out_of_range: list[str] = []


class PredictResponse(_Wire):
    model: str
    version: str
    digest: str
    predictions: list[Prediction]


class Sampling(_Wire):
    method: Literal["sampled", "closed_form", "rao_blackwell"]
    samples: int = Field(description="That were drawn; 0 for a closed form.")
    seed: int
    masks: str
    design: str
    dtype: str
    sites_active: int
    sites_total: int
    tolerance: float | None = None
    decide: Decide | None = None


class Interval(_Wire):
    lower: float
    upper: float
    coverage: float


class UncertainPrediction(_Wire):
    label: str | None = None
    index: int | None = None
    mean: Numbers | float
    std: Numbers | float
    mean_se: Numbers | float | None
    std_se: Numbers | float | None
    se_df: int | None
    entropy: float | list[float] | None = None
    entropy_se: float | list[float] | None = None
    expected_entropy: float | list[float] | None = None
    mutual_information: float | list[float] | None = None
    mutual_information_se: float | list[float] | None = None
    variation_ratio: float | list[float] | None = None
    noise_std: Numbers | float | None = Field(
        None, description="Of the observations: from the manifest's tau, the same for all targets, or a noise head."
    )
    total_std: Numbers | float | None = None
    samples: int
    stopped: Literal["samples", "tolerance", "decision", "deadline"] | None = Field(
        description="Why the row has no more samples; null in an event of a stream while it is still sampled."
    )
    settled: Literal["above", "below"] | None
    after_stopping: bool = Field(
        False, description="The row stopped on what its samples showed: its standard errors are optimistic."
    )
    decision: Literal["accept", "abstain"] | None
    prediction_set: list[str] | None = None
    calibrated_probabilities: list[float] | None = None
    interval: Interval | None = None
    ood_score: float | None
    calibration_reason: str | None
    quantiles: Numbers | None = None
    sample_values: Numbers | None = None
    out_of_range: list[str] = []


class UncertaintyResponse(_Wire):
    model: str
    version: str
    digest: str
    request_id: str
    sampling: Sampling
    predictions: list[UncertainPrediction]


class ModelEntry(_Wire):
    name: str
    version: str
    task: str
    ready: bool


class ModelList(_Wire):
    models: list[ModelEntry]


class InputCard(_Wire):
    name: str
    dtype: str
    shape: list[int]
    range: list[float] | None
    image: dict[str, Any] | None = Field(None, description="How a PNG or JPEG becomes this input, where it takes one.")
    text: dict[str, Any] | None = Field(None, description="How a text becomes this input, where it takes one.")


class FeatureCard(_Wire):
    name: str
    unit: str
    min: float
    max: float


class SiteCard(_Wire):
    name: str
    kind: str
    p: float
    active: bool
    mask_shape: list[int]
    note: str


class DtypeError(_Wire):
    """How far bfloat16 or tf32 moves the figures, measured when the model was loaded, in standard
    errors of 50 samples."""

    mean: float
    std: float
    prediction: float


class SamplingCard(_Wire):
    samples: int
    seed: int
    masks: str
    design: str
    dtype: str
    dtype_error: DtypeError | None = Field(description="Of a model in bfloat16 or tf32, else null.")
    locked: bool
    engine: Literal["captured", "eager"]
    device: str
    deterministic_flop_share: float | None
    closed_form: bool


class ModelCard(_Wire):
    name: str
    version: str
    ready: bool
    task: str
    description: str
    digest: str
    inputs: list[InputCard]
    features: list[FeatureCard] | None
    labels: list[str] | None
    sites: list[SiteCard]
    sampling: SamplingCard
    noise: dict[str, Any] | None = Field(description="Regression: its tau, or what its noise head gives.")
    calibration: dict[str, Any] | None
    warnings: list[str]


class WrongValue(_Wire):
    path: str
    message: str


class Problem(_Wire):
    """RFC 9457. `code` is stable and what programs look at."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[WrongValue] | None = None


class OpenInferenceProblem(Problem):
    """As it is told under /v2, in plain JSON. `error` is `detail`."""

    error: str


Datatype = Literal["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32",
                   "FP64", "BF16", "BYTES"]
Parameters = dict[str, str | float | bool]


class Live(_Wire):
    live: bool


class Ready(_Wire):
    ready: bool


class ServerMetadata(_Wire):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Wire):
    name: str
    datatype: Datatype
    shape: list[int] = Field(description="-1 for the row axis, and for what the request decides.")
    parameters: Parameters | None = Field(None, description="Of an output: its mode, and the option it depends on.")


class ModelMetadata(_Wire):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(_Wire):
    name: str
    ready: bool


class InferInput(_Wire):
    name: str
    datatype: Datatype
    shape: list[int] = Field(min_length=1, description="Rows first.")
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_size: so many bytes behind the JSON are the data.")
    data: list[Any] | None = Field(None, description="Row-major, flat or nested as the shape says.")


class RequestedOutput(_Wire):
    name: str
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data, true or false; classification: the k largest, as value:index:label.")


class InferRequest(_Wire):
    inputs: list[InferInput]
    outputs: list[RequestedOutput] | None = Field(None, description="All of the mode where there is none.")
    id: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description='mode, "predict" or "uncertainty"; the options of :uncertainty by their names; '
        "binary_data_output; timeout, in microseconds.")


class InferOutput(_Wire):
    name: str
    datatype: Datatype
    shape: list[int]
    data: list[Any] | None = None
    parameters: Parameters | None = Field(
        None, description="binary_data_size: so many bytes behind the JSON are the data.")


class InferResponse(_Wire):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters
    outputs: list[InferOutput]


class VersionEntry(_Wire):
    name: str
    version: str
    state: Literal["LOADING", "READY", "UNAVAILABLE"]
    reason: str
    digest: str | None = Field(description="Of what answers.")
    role: Literal["default", "canary", "shadow"] | None = Field(description="What requests it gets.")


class VersionIndex(RootModel[list[VersionEntry]]):
    """All versions there are."""


class Versions(_Wire):
    name: str
    versions: list[VersionEntry]
