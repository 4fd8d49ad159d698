"""A shadow's answers are compared with what was served, and nobody waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from service import events
from service.clock import ManualClock
from service.errors import ModelFailed, Overloaded
from service.repository import Repository
from service.scheduling import Answer, Job, Keeper, Shadowing
from service.scheduling.shadow import LOWEST_PRIORITY, compared
from tests.repository.stand_ins import put, stand_in


def answer(*rows: list[float], **arrays: list[list[float]]) -> Answer:
    given = {"values": rows} if rows else arrays
    return Answer({name: np.array(value) for name, value in given.items()})


def test_classes_agree_where_the_label_is_the_same_and_differ_by_probability() -> None:
    agrees, apart = compared("classification", answer([0.9, 0.1], [0.6, 0.4]), answer([0.7, 0.3], [0.4, 0.6]), 0.01)
    assert agrees.tolist() == [True, False]
    assert apart.tolist() == pytest.approx([0.2, 0.2])


def test_labels_agree_where_each_is_on_the_same_side_of_one_half() -> None:
    agrees, _ = compared("multilabel", answer([0.9, 0.1], [0.9, 0.1]), answer([0.6, 0.4], [0.6, 0.6]), 0.01)
    assert agrees.tolist() == [True, False]


def test_other_outputs_agree_within_a_share_of_the_rows_largest_value() -> None:
    served, shadow = answer([100.0, 1.0], [100.0, 1.0], [0.0, 0.0]), answer([100.5, 1.0], [102.0, 1.0], [0.0, 0.0])
    agrees, apart = compared("generic", served, shadow, 0.01)
    assert agrees.tolist() == [True, False, True]
    assert apart.tolist() == pytest.approx([0.005, 0.02, 0.0])


def test_an_uncertainty_differs_where_its_standard_deviation_does() -> None:
    served = answer(mean=[[10.0]], std=[[1.0]])
    agrees, apart = compared("regression", served, answer(mean=[[10.0]], std=[[2.0]]), 0.01)
    assert (agrees.tolist(), apart.tolist()) == ([False], pytest.approx([0.1]))


def test_a_row_with_a_figure_that_is_missing_differs_by_infinity() -> None:
    agrees, apart = compared("classification", answer([0.9, 0.1]), answer([float("nan"), 0.1]), 0.01)
    assert (agrees.tolist(), apart.tolist()) == ([False], [np.inf])


class Device:
    """An engine that answers, or raises, what it is told to."""

    clock = ManualClock()

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.outcome: Answer | Exception = answer([0.9, 0.1])

    def submit(self, job: Job) -> Future[Answer]:
        self.jobs.append(job)
        if isinstance(self.outcome, Overloaded):
            raise self.outcome
        future: Future[Answer] = Future()
        if isinstance(self.outcome, Exception):
            future.set_exception(self.outcome)
        else:
            future.set_result(self.outcome)
        return future


class Stage:
    def __init__(self, root: Path, rules: str) -> None:
        for version in ("1", "2"):
            put(root, "a", version)
        (root / "a" / "serving.toml").write_text(rules)
        self.repository, self.device = Repository(root), Device()
        Keeper(self.repository, lambda model: None).start_up()
        self.told: list[events.Event] = []
        self.shadowing = Shadowing(self.device, self.repository, self.told.append)

    def answered(self, version: str = "1", partial: bool = False) -> None:
        job = Job(self.repository.get("a", version), "predict", {"x": torch.zeros(1, 3)}, 1.0, partial=partial)
        self.shadowing.answered(job, answer([0.8, 0.2]))

    def outcomes(self) -> list[dict[str, int]]:
        self.shadowing.finish()
        return [dict(e.outcomes) for e in self.told if isinstance(e, events.ShadowCompared)]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr("service.repository.repository.model_of", stand_in)
    made = Stage(tmp_path, '[shadow]\nversion = "2"\n')
    yield made
    made.shadowing.stop()


def test_the_shadow_gets_the_same_job_after_all_others(stage) -> None:
    stage.answered()
    assert stage.outcomes() == [{"agrees": 1}]
    (job,) = stage.device.jobs
    assert (job.model.version, job.priority) == ("2", LOWEST_PRIORITY)


@pytest.mark.parametrize(("outcome", "told"), [
    (ModelFailed("not finite"), "failed"), (ZeroDivisionError("by zero"), "failed"),
    (Overloaded("full", retry_after_s=1.0), "skipped"),
])
def test_a_shadow_that_gives_no_answer_is_counted_and_the_next_is_compared(stage, outcome, told) -> None:
    stage.device.outcome = outcome
    stage.answered()
    assert stage.outcomes() == [{told: 1}]
    stage.device.outcome = answer([0.1, 0.9])
    stage.answered()
    assert stage.outcomes()[1:] == [{"differs": 1}]


def test_a_shadow_that_takes_other_inputs_is_not_asked(stage, tmp_path) -> None:
    manifest = tmp_path / "a" / "2" / "model.toml"
    manifest.write_text(manifest.read_text().replace('"rose"', '"tulip"'))
    Keeper(stage.repository, lambda model: None).load("a")
    stage.answered()
    assert stage.outcomes() == [{"failed": 1}]
    assert stage.device.jobs == []


def test_what_named_the_shadow_itself_or_was_cut_short_is_not_compared(stage) -> None:
    stage.answered("2")
    stage.answered(partial=True)
    assert stage.outcomes() == []


def test_of_all_answers_its_share_is_compared(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("service.repository.repository.model_of", stand_in)
    stage = Stage(tmp_path, '[shadow]\nversion = "2"\nshare = 0.25\n')
    for _ in range(40):
        stage.answered()
        stage.shadowing.finish()
    assert len(stage.device.jobs) == 10
    stage.shadowing.stop()


def test_answers_that_come_faster_than_the_shadow_works_are_skipped_and_counted(stage, monkeypatch) -> None:
    monkeypatch.setattr(stage.shadowing, "_start", lambda: None)
    for _ in range(6):
        stage.answered()
    assert [e.outcomes for e in stage.told] == [{"skipped": 1}] * 2
