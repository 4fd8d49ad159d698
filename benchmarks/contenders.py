"""The servers that `benchmarks.serving` compares: how each is started, asked and read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.traffic import http_post

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / ".venv-serving"
SAMPLES = 50
DEFAULT_SEED = "uncertainty, default seed"

Moments = tuple[NDArray[np.float64], NDArray[np.float64] | None]  # mean and, of samples, std: (classes,)
Row = Sequence[int]


@dataclass(frozen=True)
class Route:
    """request: (row, seed) to a whole HTTP request; only Errorbar takes a seed. read: an answer's body to its moments;
    None where there is nothing to read."""

    request: Callable[[Row, int], bytes]
    read: Callable[[Any], Moments] | None


@dataclass(frozen=True)
class Contender:
    """python: of its environment. environment: (port, cores) to variables. ready: answers 200 once it serves, with the
    text that `whole` gives for so many cores in it once all of its processes do."""

    python: Path
    arguments: Sequence[str]
    environment: Callable[[int, int], Mapping[str, str]]
    ready: str
    routes: Mapping[str, Route]
    whole: Callable[[int], str] = lambda cores: ""

    @property
    def installed(self) -> bool:
        return self.python.exists()


def _posted(path: str, body: object) -> bytes:
    return http_post(path, json.dumps(body, separators=(",", ":")).encode())


def _errorbar_uncertainty(row: Row, seed: int) -> bytes:
    return _posted("/v1/models/digits:uncertainty", {"instances": [row], "samples": SAMPLES, "seed": seed})


def _errorbar_default_seed(row: Row, _: int) -> bytes:
    return _posted("/v1/models/digits:uncertainty", {"instances": [row], "samples": SAMPLES})


def _errorbar_predict(row: Row, _: int) -> bytes:
    return _posted("/v1/models/digits:predict", {"instances": [row]})


def _instances(path: str) -> Callable[[Row, int], bytes]:
    return lambda row, _: _posted(path, {"instances": [row]})


def _infer(row: Row, _: int) -> bytes:
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": row}
    return _posted("/v2/models/digits/infer", {"inputs": [tensor]})


def _of_predictions(answer: Any) -> Moments:
    first = answer["predictions"][0]
    if "probabilities" in first:
        return np.array(first["probabilities"]), None
    return np.array(first["mean"]), np.array(first["std"])


def _of_lists(answer: Any) -> Moments:
    return np.array(answer["mean"][0]), np.array(answer["std"][0])


def _of_outputs(answer: Any) -> Moments:
    found = {output["name"]: np.array(output["data"]) for output in answer["outputs"]}
    return found["mean"], found["std"]


_ERRORBAR_ROUTES = {
    "uncertainty": Route(_errorbar_uncertainty, _of_predictions), "predict": Route(_errorbar_predict, _of_predictions),
    DEFAULT_SEED: Route(_errorbar_default_seed, None),  # one seed's answers do not scatter around the truth
}


def _errorbar(workers: Callable[[int], int]) -> Contender:
    def environment(port: int, cores: int) -> dict[str, str]:
        many = workers(cores)
        return {"ERRORBAR_PORT": str(port), "ERRORBAR_DEVICE": "cpu", "ERRORBAR_THREADS": str(max(1, cores // many)),
                "ERRORBAR_WORKERS": str(many)}

    return Contender(
        Path(sys.executable), ["-m", "service", "serve"], environment, "/metrics", _ERRORBAR_ROUTES,
        lambda cores: f"\nerrorbar_processes {workers(cores)}.0\n")


def _workers(port: int, cores: int) -> dict[str, str]:
    """A process a core, a thread each."""
    return {"PORT": str(port), "WORKERS": str(cores), "THREADS": "1"}


def _mlserver(port: int, cores: int) -> dict[str, str]:
    """Its settings are variables. With one core the network runs in the server's own process, else in one a core. Of
    the ports that it wants besides, it takes the next two."""
    settings = {
        "HOST": "127.0.0.1", "HTTP_PORT": port, "GRPC_PORT": port + 1, "METRICS_PORT": port + 2, "DEBUG": "false",
        "PARALLEL_WORKERS": cores if cores > 1 else 0, "METRICS_DIR": str(ENVIRONMENTS / "mlserver" / "metrics"),
    }
    return {"THREADS": "1", **{f"MLSERVER_{name}": str(value) for name, value in settings.items()}}


def _python(name: str) -> Path:
    return ENVIRONMENTS / name / "bin" / "python"


def _fastapi(way: str) -> Contender:
    def environment(port: int, cores: int) -> dict[str, str]:
        return {**_workers(port, cores), "WAY": way}

    routes = {"uncertainty": Route(_instances("/uncertainty"), _of_lists)}
    return Contender(
        _python("fastapi"), ["-m", "benchmarks.serving_peers.fastapi_server"], environment, "/healthz", routes)


ERRORBAR, EMPTY, LOOP = "Errorbar", "empty Starlette route", "FastAPI, usual loop"
ERRORBAR_WORKERS = "Errorbar, a worker a core"
CONTENDERS = {
    EMPTY: Contender(
        Path(sys.executable), ["-m", "benchmarks.serving_peers.empty_server"], _workers, "/",
        {"empty": Route(lambda row, _: _posted("/", {"instances": [row]}), None)}),
    ERRORBAR: _errorbar(lambda cores: 1),
    ERRORBAR_WORKERS: _errorbar(lambda cores: cores),
    LOOP: _fastapi("loop"),
    "FastAPI, repeat the batch": _fastapi("repeated"),
    "LitServe, batching": Contender(
        _python("litserve"), ["-m", "benchmarks.serving_peers.litserve_server"], _workers, "/health",
        {"uncertainty": Route(_instances("/predict"), _of_lists)}),
    "MLServer, adaptive batching": Contender(
        _python("mlserver"),
        ["-c", "from mlserver.cli import main; main()", "start", "benchmarks/serving_peers/mlserver"], _mlserver,
        "/v2/models/digits/ready", {"uncertainty": Route(_infer, _of_outputs)}),
}


def contenders(cores: int) -> dict[str, Contender]:
    """Those that differ on so many cores."""
    return {name: each for name, each in CONTENDERS.items() if cores > 1 or name != ERRORBAR_WORKERS}
