"""What a competent team writes in an afternoon: FastAPI, the network in a pool of as many threads as it has cores.

PORT, WORKERS, THREADS and WAY (loop or repeated) in the environment. Dropout draws from torch's one generator.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import orjson
import torch
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.serving_peers.network import Digits


class Rows(BaseModel):
    instances: list[list[float]]


def create() -> FastAPI:
    digits = Digits()
    sample = {"loop": digits.loop, "repeated": digits.repeated}[os.environ["WAY"]]
    pool = ThreadPoolExecutor(int(os.environ["THREADS"]))
    app = FastAPI()

    def answer(rows: list[list[float]]) -> bytes:
        mean, std = sample(torch.tensor(rows))
        return orjson.dumps({"mean": mean.tolist(), "std": std.tolist()})

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"live": True}

    @app.post("/uncertainty")
    async def uncertainty(body: Rows) -> Response:
        content = await asyncio.get_running_loop().run_in_executor(pool, answer, body.instances)
        return Response(content, media_type="application/json")

    return app


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.serving_peers.fastapi_server:create", factory=True, port=int(os.environ["PORT"]),
        log_level="warning", access_log=False, loop="uvloop", http="httptools", workers=int(os.environ["WORKERS"]),
    )
