"""Small models on disk, made in a moment, for the tests of everything above the engine."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from models.architectures.mlp import MLP
from service.api.app import Server, create_app
from service.cli import main
from service.clock import MonotonicClock
from service.settings import Settings
from tests.manifests import manifest, mlp, tensor


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and what the tests start would do so too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


CLASSIFIER = manifest(
    "flowers", "classification", [tensor("x", 3)], mlp(3, [16, 8], 2, [0.5, 0.3]), labels=["daisy", "rose"],
    description="Two kinds of flower, from three lengths.",
    features=[
        {"name": "petal", "unit": "cm", "min": 0.0, "max": 2.5},
        {"name": "stem", "unit": "cm", "min": 1.0, "max": 30.0},
        {"name": "leaf", "unit": "cm", "min": 0.1, "max": 4.0},
    ],
)
REGRESSION = manifest(
    "height", "regression", [tensor("x", 4)], mlp(4, [16], 1, [0.2]), description="A height in metres.",
    noise={"tau": 4.0},
)
WITHOUT_DROPOUT = manifest(
    "plain", "classification", [tensor("x", 2)], mlp(2, [4], 2, [0.0]), description="No dropout at all.",
    labels=["a", "b"],
)


def classifier() -> MLP:
    """The network of CLASSIFIER, with new weights."""
    return MLP(3, (16, 8), 2, (0.5, 0.3))


def write_model(root: Path, name: str, manifest: str, net: torch.nn.Module, version: str = "1") -> Path:
    folder = root / name / version
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(manifest)
    save_file(net.state_dict(), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    write_model(root, "flowers", CLASSIFIER, classifier())
    write_model(root, "height", REGRESSION, MLP(4, (16,), 1, (0.2,)))
    write_model(root, "plain", WITHOUT_DROPOUT, MLP(2, (4,), 2, (0.0,)))
    return root


def loaded(models: Path, **settings: Any) -> Server:
    """A server in this process, with these models ready."""
    server = Server(Settings(models=models, device="cpu", **settings), MonotonicClock())
    server.load()
    return server


@pytest.fixture(scope="session")
def state(small_models: Path) -> Server:
    return loaded(small_models, body_bytes=2_000_000)


def client_of(server: Server) -> TestClient:
    """Asks a server without a socket; what it raises is an answer with status 500. No lifespan: the server outlives
    the client."""
    return TestClient(create_app(server.settings, state=server), raise_server_exceptions=False)


@pytest.fixture(scope="session")
def application(state: Server) -> TestClient:
    """With the small models loaded."""
    return client_of(state)


@pytest.fixture
def run(
    small_models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process, in a folder of its own: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, models: bool = True) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([*arguments, *(["--models", str(small_models)] if models else [])])
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    return call
