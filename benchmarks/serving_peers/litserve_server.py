"""LitServe with its batching: waiting requests become one batch, repeated a time a sample.

PORT, WORKERS (inference workers and API servers) and THREADS in the environment. `fast_queue` is what its own
documentation advises above 100 requests a second; it polls its queue where the batch timeout is 0. Annotations are
read while it runs, so they are not postponed here.
"""

import os
from typing import Any

import litserve
import torch
from torch import Tensor

from benchmarks.serving_peers.network import Digits


class Api(litserve.LitAPI):  # type: ignore[misc]  # not installed where types are checked
    def setup(self, device: str) -> None:
        self._digits = Digits()

    def decode_request(self, request: dict[str, Any]) -> Tensor:
        return torch.tensor(request["instances"][0], dtype=torch.float32)

    def predict(self, rows: Tensor) -> list[tuple[list[float], list[float]]]:
        mean, std = self._digits.repeated(rows)
        return list(zip(mean.tolist(), std.tolist(), strict=True))

    def encode_response(self, output: tuple[list[float], list[float]]) -> dict[str, Any]:
        mean, std = output
        return {"mean": [mean], "std": [std]}


if __name__ == "__main__":
    workers = int(os.environ["WORKERS"])
    server = litserve.LitServer(
        Api(max_batch_size=64, batch_timeout=0.005), accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=workers, generate_client_file=False,
        log_level="warning",
    )
