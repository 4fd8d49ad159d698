"""The bundled digits MLP with dropout on, as its peers sample it. Knows torch and safetensors, nothing of Errorbar."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.architectures.mlp import MLP

SAMPLES = 50
FOLDER = Path(__file__).parent.parent.parent / "models" / "repository" / "digits" / "1"


class Digits:
    """Threads: of one pass, from the variable THREADS. Rows are lists of 64 numbers."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["THREADS"]))
        manifest = tomllib.loads((FOLDER / "model.toml").read_text(encoding="utf-8"))
        self._module = MLP(**manifest["architecture"]["arguments"])
        self._module.load_state_dict(load_file(FOLDER / "weights.safetensors"))
        self._module.eval()
        self._dropouts = [module for module in self._module.modules() if isinstance(module, nn.Dropout)]
        for dropout in self._dropouts:
            dropout.train()

    @torch.inference_mode()
    def loop(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The usual loop: a pass a sample. rows: (rows, 64); mean and std: (rows, 10)."""
        draws = torch.stack([self._module(rows) for _ in range(SAMPLES)]).softmax(-1)
        return draws.mean(0), draws.std(0)

    @torch.inference_mode()
    def repeated(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the batch repeated a time a sample."""
        draws = self._module(rows.repeat(SAMPLES, 1)).softmax(-1).unflatten(0, (SAMPLES, -1))
        return draws.mean(0), draws.std(0)

    @torch.inference_mode()
    def plain(self, rows: Tensor) -> Tensor:
        """Probabilities, every dropout off; for one caller at a time."""
        for dropout in self._dropouts:
            dropout.eval()
        probabilities: Tensor = self._module(rows).softmax(-1)
        for dropout in self._dropouts:
            dropout.train()
        return probabilities
