"""A file imports its own floor and lower ones, never higher; importing changes nothing of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.process.conftest import ROOT

WEB = ("fastapi", "starlette", "uvicorn", "prometheus_client", "httpx")
EXTRAS = ("PIL", "tokenizers", "huggingface_hub")
TEST_ONLY = ("sklearn", "pytest", "hypothesis")
FLOORS = {
    "service.errors": ("torch", "numpy", "pydantic", *WEB, "service.statistics", "service.sampling"),
    "service.clock": ("torch", "numpy", "pydantic", *WEB, "service.statistics", "service.sampling"),
    "service.events": ("torch", "numpy", "pydantic", *WEB, "service.statistics", "service.sampling"),
    "service.native": (*WEB, "pydantic", "service.statistics", "service.sampling"),
    "service.statistics": (*WEB, "pydantic", "service.sampling", "service.repository", "service.scheduling"),
    "service.sampling": (*WEB, "pydantic", "service.repository", "service.scheduling", "service.api"),
    "service.preprocessing.readers": ("torch", "pydantic", *WEB, *EXTRAS, "service.sampling", "service.repository"),
    "service.preprocessing.images": ("torch", "pydantic", *WEB, "tokenizers", "service.repository", "service.api"),
    "service.preprocessing.texts": ("torch", "pydantic", *WEB, "PIL", "service.repository", "service.api"),
    "service.calibration": (
        *WEB, *EXTRAS, "scipy", "pydantic", "service.repository", "service.scheduling", "service.api"),
    "service.evaluation.report": (
        "torch", "scipy", "pydantic", *WEB, *EXTRAS, "service.repository", "service.scheduling", "service.api"),
    "service.repository": (*WEB, *EXTRAS, "pydantic", "service.scheduling", "service.api"),
    "service.scheduling": (*WEB, "pydantic", "service.api", "service.metrics"),
    "service.keys": ("torch", "numpy", *WEB, "service.settings", "service.api"),
    "service.rates": ("torch", "numpy", "pydantic", *WEB, "service.keys", "service.api"),
    "service.logs": ("torch", "numpy", "pydantic", *WEB, "service.settings", "service.api"),
    "service.tls": ("torch", "numpy", "pydantic", *WEB, "service.settings", "service.api"),
    "service.watched": ("torch", "numpy", "pydantic", *WEB, "service.settings", "service.api"),
    "service.connection_limits": ("torch", "numpy", "pydantic", *WEB, "service.settings", "service.api"),
    "service.wire": ("torch", *WEB, "service.sampling"),
    "service.api.app": (*EXTRAS, "uvicorn", "httpx", "typer", "service.cli", "service.client"),
    "service.files.command": (
        *EXTRAS, "fastapi", "uvicorn", "httpx", "prometheus_client", "service.cli", "service.client"),
    "service.client": ("torch", "fastapi", "starlette", "prometheus_client", "service.sampling", "service.api"),
    "service.cli": ("torch", "fastapi"),
    "service.workers": ("torch", "numpy", "pydantic", "fastapi"),  # the parent of workers, which is to be small
    "models.architectures.mlp": (*WEB, "service"),
    "models.architectures.cnn": (*WEB, "service"),
}


@pytest.mark.parametrize("module", FLOORS)
def test_a_floor_knows_nothing_of_what_stands_above_it(module) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert loaded & {*FLOORS[module], *TEST_ONLY} == set()


def test_importing_changes_no_global_flag_of_torch() -> None:
    code = """
import torch
def flags():
    return (torch.get_float32_matmul_precision(), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled(), torch.is_inference_mode_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().sum().item(),
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)
before = flags()
import service.server, service.cli, service.client
assert flags() == before, (before, flags())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
