"""Rows that stop early: each has the answer of its own samples, and leaves the batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from service.errors import InvalidOption, ModelFailed
from service.sampling import Sampler, prepare
from service.sampling.bank import Draw
from service.sampling.kernels import Kernel, Places
from service.sampling.stopping import Decide, block, stop_rule

STATISTICS = ("mean", "std", "mean_se", "std_se", "entropy", "entropy_se", "expected_entropy", "mutual_information",
              "mutual_information_se", "variation_ratio")
ABOVE = {"above": 0.9, "error": 0.01}


class Convolutional(nn.Module):
    """The prefix gives values whose rows are not where a linear layer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.channels = nn.Conv1d(1, 4, 3, padding=1), nn.Dropout1d(0.2)
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        turned = h.transpose(0, 1).relu()  # (channels, rows, length)
        together = self.channels(h).transpose(0, 1) + turned
        return self.out(self.drop(together.transpose(0, 1).flatten(1)) * 2)


def dense() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16), nn.Tanh(), nn.Dropout(0.3),
                         nn.Linear(16, 3))


@pytest.fixture(scope="module")
def chain() -> tuple[Sampler, Tensor]:
    x = 3 * torch.randn(30, 6, generator=torch.Generator().manual_seed(2))
    return prepare(dense(), x, task="classification"), x


@pytest.fixture(scope="module")
def convolutional() -> tuple[Sampler, Tensor]:
    torch.manual_seed(3)
    x = torch.randn(9, 1, 8)
    return prepare(Convolutional(), x, task="classification"), x


class Spy:
    """A kernel that notes how many rows it saw with how many samples."""

    def __init__(self, kernel: Kernel, rows: int | None = None) -> None:
        self._kernel, self.seen = kernel, []
        self.name, self.split, self.rows = kernel.name, kernel.split, rows or kernel.rows
        self.bytes_per_sample, self.working_set_bytes = kernel.bytes_per_sample, kernel.working_set_bytes
        self.per_row_masks, self.normalised = kernel.per_row_masks, kernel.normalised

    def drawn(self, draw: Draw, places: Places) -> list[Tensor]:
        return self._kernel.drawn(draw, places)

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        self.seen.append((rows, samples))
        return self._kernel.run(values, rows, samples, drawn)


def assert_each_row_has_the_answer_of_its_own_samples(sampler, x, answer, **options) -> None:
    for n in answer.samples_per_row.unique().tolist():
        plain = sampler.uncertainty(x, samples=n, design="iid", **options)
        rows = answer.samples_per_row == n
        for name in STATISTICS:
            found, expected = getattr(answer, name), getattr(plain, name)
            if expected is None:
                assert found is None or found[rows].isnan().all(), name
            else:
                torch.testing.assert_close(found[rows], expected[rows], atol=1e-6, rtol=0, msg=name)


def test_the_prefix_of_the_convolutional_network_has_rows_on_two_axes(convolutional) -> None:
    assert sorted(layout.axis for layout in convolutional[0].kernels[0].split.prefix_layouts) == [0, 1]


@pytest.mark.parametrize("masks", ["shared", "independent"])
@pytest.mark.parametrize("rule", [{"tolerance": 0.05}, {"decide": {"above": 0.6, "error": 0.05}, "samples": 300}])
@pytest.mark.parametrize("network", ["chain", "convolutional"])
def test_a_row_that_stopped_after_n_equals_a_request_for_n(request, network, rule, masks) -> None:
    sampler, x = request.getfixturevalue(network)
    answer = sampler.uncertainty(x, seed=3, masks=masks, **rule)
    assert len(answer.samples_per_row.unique()) > 1
    assert_each_row_has_the_answer_of_its_own_samples(sampler, x, answer, seed=3, masks=masks)


@pytest.mark.parametrize("rule", [{"tolerance": 0.05}, {"decide": {"above": 0.6, "error": 0.05}}])
def test_a_row_alone_stops_where_it_stops_in_company(chain, rule) -> None:
    sampler, x = chain
    company = sampler.uncertainty(x, seed=2, **rule)
    for i in range(0, len(x), 5):
        alone = sampler.uncertainty(x[i : i + 1], seed=2, **rule)
        assert alone.samples_per_row[0] == company.samples_per_row[i]
        assert (alone.stopped[0], alone.settled[0]) == (company.stopped[i], company.settled[i])
        torch.testing.assert_close(alone.mean[0], company.mean[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.std[0], company.std[i], atol=1e-6, rtol=0)


def test_rows_of_a_part_of_a_file_keep_the_masks_of_their_places(chain) -> None:
    sampler, x = chain
    whole = sampler.uncertainty(x, masks="independent", tolerance=0.06)
    part = sampler.uncertainty(x[20:], masks="independent", tolerance=0.06, first_row=20)
    assert torch.equal(part.samples_per_row, whole.samples_per_row[20:])
    torch.testing.assert_close(part.mean, whole.mean[20:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows_at_once", [1, 4, 100])
def test_settled_rows_leave_the_batch(chain, rows_at_once, monkeypatch) -> None:
    sampler, x = chain
    plain = sampler.uncertainty(x, tolerance=0.05)
    spy = Spy(sampler.kernels[0], rows_at_once)
    monkeypatch.setattr(sampler._kernels, "every", [*sampler.kernels, spy])
    answer = sampler.uncertainty(x, tolerance=0.05, kernel=spy)
    assert torch.equal(answer.samples_per_row, plain.samples_per_row)
    ran = sum(rows * samples for rows, samples in spy.seen)
    needed = int(answer.samples_per_row.sum())
    assert needed <= ran <= 1.3 * needed  # a row may have run to the end of its block
    assert max(rows for rows, _ in spy.seen) <= rows_at_once


@pytest.mark.parametrize("budget", [1, 400_000])
def test_few_rows_at_a_time_give_the_same_answer(chain, monkeypatch, budget) -> None:
    sampler, x = chain
    for masks in ("shared", "independent"):
        whole = sampler.uncertainty(x[:12], masks=masks, tolerance=0.06)
        monkeypatch.setattr("service.sampling.drawing.SEEN_BYTES", budget)
        small = sampler.uncertainty(x[:12], masks=masks, tolerance=0.06)
        monkeypatch.undo()
        assert torch.equal(small.samples_per_row, whole.samples_per_row)
        for name in STATISTICS:
            torch.testing.assert_close(getattr(small, name), getattr(whole, name), atol=1e-6, rtol=0, equal_nan=True)


def test_an_answer_says_where_each_row_stopped_and_why(chain) -> None:
    sampler, x = chain
    answer = sampler.uncertainty(x, samples=70, tolerance=0.05)
    assert answer.samples == 70
    assert set(answer.stopped) == {"samples", "tolerance"}
    assert answer.after_stopping == [reason == "tolerance" for reason in answer.stopped]
    assert all(n == 70 for n, early in zip(answer.samples_per_row, answer.after_stopping, strict=True) if not early)
    assert answer.settled == [None] * 30
    plain = sampler.uncertainty(x)
    assert (plain.samples_per_row.tolist(), plain.stopped[0], plain.settled[0]) == ([50] * 30, "samples", None)
    assert not any(plain.after_stopping)


def test_up_to_1000_samples_are_drawn_unless_told_otherwise(chain) -> None:
    sampler, x = chain
    answer = sampler.uncertainty(x[:2], tolerance=1e-6)
    assert (answer.samples, answer.samples_per_row.tolist(), answer.stopped) == (1000, [1000] * 2, ["samples"] * 2)


def test_the_draws_and_quantiles_of_a_row_are_of_its_own_samples(chain) -> None:
    sampler, x = chain
    answer = sampler.uncertainty(x, tolerance=0.05, include_samples=True)
    quantiles = answer.quantiles([0.1, 0.5])
    for row, n in enumerate(answer.samples_per_row.tolist()):
        draws = answer.draws[row]
        assert draws[n:].isnan().all()
        torch.testing.assert_close(draws[:n].double().mean(0), answer.mean[row], atol=1e-6, rtol=0)
        expected = torch.quantile(draws[:n].double(), torch.tensor([0.1, 0.5]).double(), 0)
        torch.testing.assert_close(quantiles[row], expected)


def test_each_label_of_a_multilabel_model_is_known_to_the_tolerance(chain) -> None:
    _, x = chain
    sampler = prepare(dense(), x, task="multilabel")
    answer = sampler.uncertainty(x, tolerance=0.05)
    assert "tolerance" in answer.stopped
    assert_each_row_has_the_answer_of_its_own_samples(sampler, x, answer)
    with pytest.raises(InvalidOption, match="only for classification models"):
        sampler.uncertainty(x, decide=ABOVE)


class Fragile(nn.Module):
    """Sure of class 0 as it stands; with any unit dropped, sure of class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.sum, self.out = nn.Dropout(0.5), nn.Linear(10, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.sum.weight.copy_(torch.tensor([[0.1], [-0.1]]).expand(2, 10))
            self.sum.bias.copy_(torch.tensor([-1.0, 1.0]))
            self.out.weight.copy_(torch.tensor([[-200.0, -200.0], [0.0, 0.0]]))
            self.out.bias.copy_(torch.tensor([5.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.sum(self.drop(x)).relu())


def test_a_class_that_only_the_prediction_names_is_never_settled_to_be_above() -> None:
    x = torch.ones(2, 10)
    sampler = prepare(Fragile(), x, task="classification")
    assert sampler.predict(x).argmax(1).tolist() == [0, 0]
    for seed in range(20):
        answer = sampler.uncertainty(x[:1], seed=seed, decide=ABOVE)
        assert answer.mean.argmax(1).tolist() == [1]
        assert answer.settled == ["below"]


class Minority(nn.Module):
    """One thinned network in 33 says class 1, all others class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.out = nn.Dropout(0.03), nn.Linear(1, 2)
        with torch.no_grad():
            self.out.weight.copy_(torch.tensor([[40.0], [0.0]]))
            self.out.bias.copy_(torch.tensor([-20.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(x))


def test_a_minority_of_3_percent_is_wrongly_passed_over_no_more_often_than_allowed() -> None:
    x = torch.ones(1, 1)
    sampler = prepare(Minority(), x, task="classification")
    rule = {"above": 0.975, "error": 0.05}  # the truth is 0.97
    answers = [sampler.uncertainty(x, samples=300, seed=seed, decide=rule) for seed in range(200)]
    assert sum(answer.settled == ["above"] for answer in answers) <= 0.05 * 200
    stopped = [sampler.uncertainty(x, seed=seed, tolerance=0.05) for seed in range(100)]
    assert all(90 <= answer.samples_per_row[0] <= 400 for answer in stopped)
    assert sum(abs(float(answer.mean[0, 0]) - 0.97) > 0.05 for answer in stopped) <= 0.05 * 100


def test_an_output_that_is_not_finite_is_an_error_here_too(chain) -> None:
    sampler, x = chain
    for rule in ({"tolerance": 0.05}, {"decide": ABOVE}):
        with pytest.raises(ModelFailed, match="not finite"):
            sampler.uncertainty(x * float("nan"), **rule)


@pytest.mark.parametrize(("options", "words"), [
    ({"tolerance": 0.0}, "tolerance: a number between 0 and 0.5"),
    ({"tolerance": 0.5}, "tolerance: a number between 0 and 0.5"),
    ({"tolerance": float("nan")}, "tolerance: a number between 0 and 0.5"),
    ({"decide": {"above": 0.49, "error": 0.01}}, "decide.above: a number from 0.5"),
    ({"decide": {"above": 1.0, "error": 0.01}}, "decide.above: a number from 0.5"),
    ({"decide": {"above": 0.9, "error": 0.0}}, "decide.error: a number over 0"),
    ({"decide": Decide(0.9, 0.6)}, "decide.error: a number over 0"),
    ({"decide": ABOVE, "samples": 51}, "at least 52 are needed"),
    ({"decide": {"above": 0.9, "error": 0.001}, "samples": 73}, "at least 74 are needed"),
    ({"decide": {"above": 0.999, "error": 0.01}}, "are needed"),
    ({"decide": ABOVE, "tolerance": 0.05}, "not both"),
    ({"tolerance": 0.05, "design": "balanced"}, "design: tolerance rests on independent samples"),
    ({"tolerance": 0.05, "samples": 0}, "samples: at least 2"),
])
def test_a_rule_that_could_not_hold_is_refused(chain, options, words) -> None:
    sampler, x = chain
    with pytest.raises(InvalidOption, match=words):
        sampler.uncertainty(x, **options)


@pytest.mark.parametrize("task", ["regression", "generic"])
def test_outputs_that_are_no_probabilities_cannot_stop_early(task) -> None:
    for options in ({"tolerance": 0.05, "decide": None}, {"tolerance": None, "decide": ABOVE}):
        with pytest.raises(InvalidOption, match="only for classification"):
            stop_rule(task, **options, design=None, samples=None)


def test_the_fewest_samples_are_enough_to_settle() -> None:
    x = torch.ones(1, 1)
    sampler = prepare(Minority(), x, task="classification")
    answers = [sampler.uncertainty(x, samples=52, seed=seed, decide=ABOVE) for seed in range(20)]
    assert {answer.settled[0] for answer in answers} == {"above", None}
    for answer in answers:
        assert answer.samples_per_row.tolist() == [52]
        assert answer.stopped == ["decision" if answer.settled[0] else "samples"]


def test_blocks_grow_with_what_there_is_and_are_whole() -> None:
    assert [block(0, 2), block(0, 44), block(0, 52), block(60, 52), block(90, 44), block(800, 44)] == [
        10, 50, 60, 10, 20, 100]
