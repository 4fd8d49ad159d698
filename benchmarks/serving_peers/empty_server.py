"""A Starlette route that does nothing: what the web server itself costs. PORT, WORKERS in the environment."""

from __future__ import annotations

import os

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def nothing(_: Request) -> Response:
    return Response(b"{}", media_type="application/json")


app = Starlette(routes=[Route("/", nothing, methods=["GET", "POST"])])

if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.serving_peers.empty_server:app", port=int(os.environ["PORT"]), log_level="warning",
        access_log=False, loop="uvloop", http="httptools", workers=int(os.environ["WORKERS"]),
    )
