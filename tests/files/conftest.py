"""Small models prepared by rule, and runs of them in chunks of four rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from models.architectures.mlp import MLP
from service.files import run as run_module
from service.files.partial import opened
from service.files.run import Run, Watch
from service.files.source import Source
from service.repository import ReadyModel
from service.repository.loader import load_model
from service.sampling.untimed import chosen_by_rule
from service.scheduling import Options
from tests.conftest import CLASSIFIER, classifier, write_model
from tests.manifests import manifest, mlp, tensor

CHUNK = 4
SHARED = Options(20, 3, "shared", "balanced")
INDEPENDENT = Options(20, 3, "independent", "balanced")

TWO_TARGETS = manifest("sizes", "regression", [tensor("x", 4)], mlp(4, [16], 2, [0.2]))
BOTH_KINDS = CLASSIFIER.replace('"flowers"', '"both"').replace('"classification"', '"multilabel"')
ANYTHING = manifest("anything", "generic", [tensor("x", 4)], mlp(4, [16], 3, [0.2]))


@pytest.fixture(scope="session")
def by_rule(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReadyModel]:
    """One of each task, by name."""
    root = tmp_path_factory.mktemp("tasks")
    torch.manual_seed(1)
    folders = [
        small_models / "flowers" / "1", small_models / "height" / "1",
        write_model(root, "sizes", TWO_TARGETS, MLP(4, (16,), 2, (0.2,))),
        write_model(root, "both", BOTH_KINDS, classifier()),
        write_model(root, "anything", ANYTHING, MLP(4, (16,), 3, (0.2,))),
    ]
    with chosen_by_rule():
        return {model.name: model for model in map(load_model, folders)}


@pytest.fixture
def flowers(by_rule: dict[str, ReadyModel]) -> ReadyModel:
    return by_rule["flowers"]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "chunk_rows", lambda model, options: CHUNK)


def answer_file(
    model: ReadyModel, file: Path, out: Path, options: Options | None = SHARED, *, restart: bool = False,
    overwrite: bool = False, watch: Watch = lambda rows, share: None,
) -> Run:
    """What the command does, without its terminal."""
    source = Source(str(file), model)
    with chosen_by_rule(), opened(out, overwrite, restart) as partial, closing(source) as rows:
        run = Run(model, options, rows, partial)
        run.take_up()
        run.go_on(watch)
        return run


class Interrupted(Exception):
    """What no code foresees."""


@pytest.fixture
def interrupting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Lets so many writes to disk through, and of the next one so many bytes; then the process ends, as it were."""
    from service.files import partial

    write = partial._write
    left: list[int] = []

    def interrupted(file: Any, content: bytes) -> None:
        if not left:
            return write(file, content)
        if left[0]:
            left[0] -= 1
            return write(file, content)
        write(file, content[: left[1]])
        left.clear()
        raise Interrupted

    def set_to(writes: int, of_the_next: int) -> None:
        left[:] = [writes, of_the_next]

    monkeypatch.setattr(partial, "_write", interrupted)
    yield set_to
    left.clear()
