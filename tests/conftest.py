"""Small models on disk, made in a moment, for the tests of everything above the engine."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from models.architectures.mlp import MLP
from service.api.app import Server, create_app
from service.cli import main
from service.clock import MonotonicClock
from service.settings import Settings


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and what the tests start would do so too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


CLASSIFIER = """
name = "flowers"
task = "classification"
description = "Two kinds of flower, from three lengths."
labels = ["daisy", "rose"]

[[inputs]]
name = "x"
dtype = "float32"
shape = [3]

[[features]]
name = "petal"
unit = "cm"
min = 0.0
max = 2.5
[[features]]
name = "stem"
unit = "cm"
min = 1.0
max = 30.0
[[features]]
name = "leaf"
unit = "cm"
min = 0.1
max = 4.0

[architecture]
factory = "models.architectures.mlp:MLP"
[architecture.arguments]
inputs = 3
hidden = [16, 8]
outputs = 2
dropout = [0.5, 0.3]
"""

REGRESSION = """
name = "height"
task = "regression"
description = "A height in metres."

[[inputs]]
name = "x"
dtype = "float32"
shape = [4]

[architecture]
factory = "models.architectures.mlp:MLP"
[architecture.arguments]
inputs = 4
hidden = [16]
outputs = 1
dropout = [0.2]

[noise]
tau = 4.0
"""

WITHOUT_DROPOUT = """
name = "plain"
task = "classification"
description = "No dropout at all."
labels = ["a", "b"]

[[inputs]]
name = "x"
dtype = "float32"
shape = [2]

[architecture]
factory = "models.architectures.mlp:MLP"
[architecture.arguments]
inputs = 2
hidden = [4]
outputs = 2
dropout = [0.0]
"""


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
    write_model(root, "flowers", CLASSIFIER, MLP(3, (16, 8), 2, (0.5, 0.3)))
    write_model(root, "height", REGRESSION, MLP(4, (16,), 1, (0.2,)))
    write_model(root, "plain", WITHOUT_DROPOUT, MLP(2, (4,), 2, (0.0,)))
    return root


@pytest.fixture(scope="session")
def state(small_models: Path) -> Server:
    server = Server(Settings(models=small_models, device="cpu", body_bytes=2_000_000), MonotonicClock())
    server.load()
    return server


@pytest.fixture(scope="session")
def application(state: Server) -> TestClient:
    """The loaded application, called without a socket. No lifespan: the server outlives the tests."""
    return TestClient(create_app(state.settings, state=state), raise_server_exceptions=False)


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
