"""What an image costs on its way: one 3×224×224 picture of float32 to an idle server and its answer back.

    python -m benchmarks.image

The network is next to nothing (means of patches and two small layers), so that what is left is the way: bytes of the
array, HTTP, decoding, the queue, the answer. Each way is asked in turns over a connection that stays open; told: the
median and the 99th percentile, in milliseconds, beside a request that carries nothing and what JSON costs.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.engine import machine
from benchmarks.processes import free_port, started
from service.cli import main as errorbar
from service.repository import loader

_SHAPE = (3, 224, 224)
_AIM_MS: float = 2.0
_NAME: str = "glance"
_MANIFEST: str = f"""
name = "{_NAME}"
task = "classification"
description = "A glance at a picture: means of its patches."
labels = ["day", "night"]
[[inputs]]
name = "image"
dtype = "float32"
shape = [3, 224, 224]
[architecture]
factory = "benchmarks.image:Glance"
"""

Ask = tuple[str, str, Callable[[], bytes], dict[str, str]]  # method, path, body, headers


class Glance(nn.Module):
    """(rows, 3, 224, 224) to two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.AvgPool2d(32)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 7 * 7, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.patches(image))
        return logits


def _serve(folder: Path, port: str) -> None:
    loader.TRUSTED_FACTORIES = "benchmarks."
    version = folder / _NAME / "1"
    version.mkdir(parents=True)
    (version / "model.toml").write_text(_MANIFEST)
    torch.manual_seed(0)
    save_file(Glance().state_dict(), version / "weights.safetensors")
    errorbar(["serve", "--models", str(folder), "--port", port, "--device", "cpu"])


def _ways(picture: np.ndarray) -> dict[str, Ask]:
    infer, shape = f"/v2/models/{_NAME}/infer", [1, *_SHAPE]

    def npy() -> bytes:
        file = io.BytesIO()
        np.save(file, picture)
        return file.getvalue()

    def head(mode: str) -> bytes:
        tensor = {"name": "image", "datatype": "FP32", "shape": shape,
                  "parameters": {"binary_data_size": picture.nbytes}}
        return json.dumps({"inputs": [tensor], "parameters": {"mode": mode, "binary_data_output": True}}).encode()

    def listed() -> bytes:
        return json.dumps({"instances": picture.tolist()}).encode()

    def tensor() -> bytes:
        return json.dumps({"inputs": [
            {"name": "image", "datatype": "FP32", "shape": shape, "data": picture.ravel().tolist()}]}).encode()

    def binary(start: bytes) -> Callable[[], bytes]:
        return lambda: start + picture.tobytes()

    arrays = {"Content-Type": "application/x-npy", "Accept": "application/x-npz"}
    ways: dict[str, Ask] = {"nothing: GET /healthz": ("GET", "/healthz", lambda: b"", {})}
    for mode in ("predict", "uncertainty"):
        start = head(mode)
        ways[f"Open Inference, binary, {mode}"] = (
            "POST", infer, binary(start), {"Inference-Header-Content-Length": str(len(start))})
        ways[f".npy and .npz, {mode}"] = ("POST", f"/v1/models/{_NAME}:{mode}", npy, arrays)
    ways["Open Inference, JSON, predict"] = ("POST", infer, tensor, {})
    ways["JSON, predict"] = ("POST", f"/v1/models/{_NAME}:predict", listed, {})
    return ways


def _asked(connection: http.client.HTTPConnection, way: Ask) -> float:
    """Milliseconds from the array to the answer's last byte."""
    method, path, body, headers = way
    began = time.perf_counter()
    connection.request(method, path, body(), headers)
    answer = connection.getresponse()
    content = answer.read()
    spent = time.perf_counter() - began
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {content[:300].decode(errors='replace')}")
    return spent * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=300, help="requests of each way; a tenth of JSON's")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(Path(given.serve[0]), given.serve[1])
        return
    picture = np.random.default_rng(0).normal(size=(1, *_SHAPE)).astype(np.float32)
    ways, port = _ways(picture), free_port()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.image", "--serve", f"{folder}/models", str(port)]
        with started(command, {}, (0, 1), f"http://127.0.0.1:{port}/readyz", Path(folder) / "log"):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for turn in range(given.times + 20):
                for name, way in ways.items():
                    if "JSON" not in name or turn % 10 == 0:
                        spent[name].append(_asked(connection, way))
    print(f"{machine()}\n\n| way | median, ms | 99 % | less than {_AIM_MS:.0f} ms |\n| --- | --- | --- | --- |")
    for name, found in spent.items():
        found = found[2 if "JSON" in name else 20 :]  # without the first
        median, late = statistics.median(found), statistics.quantiles(found, n=100)[98]
        aim = "" if "JSON" in name or "nothing" in name else "yes" if median < _AIM_MS else "no"
        print(f"| {name} | {median:.2f} | {late:.2f} | {aim} |")


if __name__ == "__main__":
    main()
