"""The regression benchmark: networks trained together, how they are scored, and a run that is killed and goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.recipes.uci_data import BadSet, UciSet, read_set
from models.recipes.uci_journal import BadJournal, Journal
from models.recipes.uci_regression import PUBLISHED, Settings, SplitResult, main, report, run, summary
from models.recipes.uci_scoring import (
    DropoutRegression,
    Scaling,
    constant_log_likelihood,
    log_densities,
    mixture_levels,
    score,
    validate,
)
from models.recipes.uci_training import BATCH_ROWS, Dropped, Streams, Task, Weights, train

pytestmark = pytest.mark.slow
HIDDEN = 6


def write_set(folder: Path, rows: int = 60, splits: int = 2) -> Path:
    """A small set of the layout: two inputs that tell, one that does not vary."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    inputs = np.column_stack([rng.normal(size=(rows, 2)), np.full(rows, 7.0)])
    target = 100 + 5 * inputs[:, 0] - 3 * np.abs(inputs[:, 1]) + rng.normal(size=rows)
    lines = [" ".join(f"{number:.6f}" for number in row) for row in np.column_stack([inputs, target])]
    (folder / "data.txt").write_text("\n".join(lines) + "\n")
    settings = {
        "index_features": "0\n1\n2\n", "index_target": "3\n", "n_hidden": f"{HIDDEN}\n", "n_epochs": "1\n",
        "dropout_rates": "0.05\n0.1", "tau_values": "0.5\n",
    }  # fmt: skip
    for split in range(splits):
        order = rng.permutation(rows)
        settings[f"index_train_{split}"] = "".join(f"{row}\n" for row in order[: rows - 10 - split])
        settings[f"index_test_{split}"] = "".join(f"{row}\n" for row in order[rows - 10 - split :])
    for name, text in settings.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "tiny")


BRIEF = Settings(samples=100)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UciSet, list[SplitResult]]:
    folder = write_set(tmp_path_factory.mktemp("whole") / "tiny")
    uci = read_set(folder, [0, 1])
    return folder, uci, run(uci, BRIEF, folder / "journal.json")


def task(rows: int, rate: float = 0.1, tau: float = 0.5, seed: int = 0, features: int = 3) -> Task:
    rng = np.random.default_rng(rows)
    inputs = rng.normal(size=(rows, features))
    return Task(inputs, np.tanh(inputs[:, 0]) + inputs[:, 1] ** 2, rate, tau, (seed, rows))


def trained_slowly(one: Task, hidden: int, epochs: int) -> list[torch.Tensor]:
    """The same by torch's autograd, Adam and dense masks, one network, in float64."""
    streams, (rows, features) = Streams(one.seed, one.rate), one.inputs.shape
    first, second = (torch.tensor(part, requires_grad=True) for part in streams.initial(features, hidden))
    biases = [torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in (hidden, 1)]
    optimiser = torch.optim.Adam([first, second, *biases], lr=1e-3)

    def masks(stream: Dropped, width: int) -> torch.Tensor:
        mask = torch.full((rows * width,), 1 / (1 - one.rate), dtype=torch.float64)
        mask[stream.take(rows * width)] = 0
        return mask.reshape(rows, width)

    for _ in range(epochs):
        order = streams.order(1, rows)[0]
        inputs = torch.from_numpy(one.inputs[order]) * masks(streams.inputs, features)
        targets, on = torch.from_numpy(one.targets[order]), masks(streams.hidden, hidden)
        for start in range(0, rows, BATCH_ROWS):
            some = slice(start, start + BATCH_ROWS)
            values = (torch.relu(inputs[some] @ first + biases[0]) * on[some]) @ second + biases[1]
            penalty = 0.01**2 * (1 - one.rate) / (2 * rows * one.tau) * (first.square().sum() + second.square().sum())
            optimiser.zero_grad()
            (functional.mse_loss(values, targets[some]) + penalty).backward()
            optimiser.step()
    return [part.detach() for part in (first.T, biases[0], second, biases[1][0])]


@pytest.mark.parametrize("tau", [0.5, 1e-6])
def test_a_trained_network_is_that_of_torchs_own_gradients_and_adam(tau: float) -> None:
    one = task(2 * BATCH_ROWS + 9, tau=tau)  # the smaller tau makes the decay as strong as the loss
    found = train([one], HIDDEN, epochs=40)[0]
    for ours, theirs in zip(found, trained_slowly(one, HIDDEN, epochs=40), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


def test_trained_together_or_alone_a_network_is_the_same_however_many_rows_the_others_have() -> None:
    tasks = [
        task(100), task(2 * BATCH_ROWS), task(2 * BATCH_ROWS + 1, rate=0.005), task(100, tau=2.0, seed=1), task(270),
    ]  # fmt: skip
    together = train(tasks, HIDDEN, epochs=30)
    for one, beside in zip(tasks, together, strict=True):
        for ours, theirs in zip(beside, train([one], HIDDEN, epochs=30)[0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_among_networks_with_equally_many_rows_it_is_the_same_to_the_last_bit() -> None:
    tasks = [task(2 * BATCH_ROWS + 9, rate, seed=seed, features=8) for seed, rate in enumerate((0.005, 0.1, 0.1, 0.01))]
    together = train(tasks, 50, epochs=30)
    for some in ([2], [3, 1], [0, 2, 3]):
        for place, found in zip(some, train([tasks[place] for place in some], 50, epochs=30), strict=True):
            assert all(np.array_equal(*parts) for parts in zip(found, together[place], strict=True))


def test_networks_of_one_split_differ_by_their_seeds_and_taus() -> None:
    found = train([task(100), task(100, seed=1), task(100, tau=1e-5)], HIDDEN, epochs=5)
    assert not np.allclose(found[0].hidden, found[1].hidden)
    assert not np.allclose(found[0].hidden, found[2].hidden, rtol=1e-6, atol=0)


def test_a_network_that_goes_astray_is_named() -> None:
    lost = task(20)
    lost.targets[3] = math.inf
    with pytest.raises(FloatingPointError, match=r"rate 0\.1 and tau 0\.5"):
        train([task(30), lost], HIDDEN, epochs=1)


def test_training_leaves_torchs_threads_as_they_were() -> None:
    threads = torch.get_num_threads()
    train([task(20)], HIDDEN, epochs=1)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5, 0.95])
def test_dropped_units_are_as_many_as_the_rate_says_and_each_by_itself(rate: float) -> None:
    units = 400_000
    dropped = np.zeros(units)
    dropped[Dropped(np.random.default_rng(0), rate).take(units)] = 1
    error = math.sqrt(rate * (1 - rate) / units)
    assert dropped.mean() == pytest.approx(rate, abs=4 * error)
    for apart in (1, 2, 50):  # neighbours are dropped together as often as chance has it
        both = (dropped[apart:] * dropped[:-apart]).mean()
        assert both == pytest.approx(rate**2, abs=5 * rate * error + 5 * rate / math.sqrt(units))


def test_a_stream_of_dropped_units_is_the_same_however_it_is_cut() -> None:
    whole = Dropped(np.random.default_rng(1), 0.05).take(10_000)
    parts = Dropped(np.random.default_rng(1), 0.05)
    starts = np.cumsum([0, 1, 128, 4000, 3000])
    cut = [parts.take(int(n)) + start for n, start in zip([1, 128, 4000, 3000, 2871], starts, strict=True)]
    assert np.array_equal(np.concatenate(cut), whole)


def test_the_order_of_rows_is_the_same_however_many_epochs_are_shuffled_at_once() -> None:
    one, other = Streams((3,), 0.1), Streams((3,), 0.1)
    assert np.array_equal(one.order(4, 37), np.concatenate([other.order(1, 37), other.order(3, 37)]))
    assert np.array_equal(np.sort(one.order(2, 37), axis=1), np.tile(np.arange(37), (2, 1)))


def test_the_log_likelihood_is_the_log_of_the_mean_density_over_the_samples() -> None:
    rng, tau = np.random.default_rng(0), 0.3
    draws, targets = rng.normal(2, 3, size=(4, 50)), rng.normal(2, 4, size=4)
    expected = []
    for row, target in zip(draws, targets, strict=True):
        total = 0.0
        for draw in row:
            total += math.sqrt(tau / (2 * math.pi)) * math.exp(-tau * (target - draw) ** 2 / 2)
        expected.append(math.log(total / len(row)))
    found = log_densities(torch.from_numpy(draws), torch.from_numpy(targets), tau)
    assert found.tolist() == pytest.approx(expected)


def test_a_target_far_from_every_sample_has_a_finite_log_likelihood() -> None:
    found = log_densities(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1000.0], dtype=torch.float64), 1.0)
    assert float(found) == pytest.approx(-500_000 - 0.5 * math.log(2 * math.pi))


def test_a_level_is_the_mixtures_chance_of_the_target_or_less() -> None:
    draws, targets, tau = torch.tensor([[0.0, 3.0]]).double(), torch.tensor([1.0]).double(), 4.0
    expected = (0.5 * math.erfc(-2 / math.sqrt(2)) + 0.5 * math.erfc(4 / math.sqrt(2))) / 2
    assert float(mixture_levels(draws, targets, tau)) == pytest.approx(expected)


def test_the_constant_gaussian_is_the_best_that_one_width_for_all_rows_can_do() -> None:
    errors = np.array([1.0, -2.0, 0.5])
    rmse = math.sqrt(np.mean(errors**2))
    expected = torch.distributions.Normal(0.0, rmse).log_prob(torch.from_numpy(errors)).mean()
    assert constant_log_likelihood(rmse) == pytest.approx(float(expected))


def test_a_score_is_that_of_all_rows_though_they_run_in_groups(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    split = read_set(folder, [0]).splits[0]
    scaling, rng = Scaling.of(split.train), np.random.default_rng(0)
    weights = Weights(*(rng.normal(size=shape).astype(np.float32) for shape in ((HIDDEN, 3), HIDDEN, HIDDEN, ())))
    network = DropoutRegression(weights, 0.1, scaling)
    whole = score(network, split.test, 0.5, 0.1, samples=50)
    monkeypatch.setattr("models.recipes.uci_scoring._NUMBERS_AT_ONCE", 150)  # three rows
    assert vars(score(network, split.test, 0.5, 0.1, samples=50)) == pytest.approx(vars(whole))
    found = validate(network, split.test, 0.5, samples=50)
    assert found.log_likelihood == pytest.approx(whole.log_likelihood)
    best = score(network, split.test, found.fitted_tau, 1.1 * found.fitted_tau, samples=50)
    assert best.log_likelihood > max(best.fitted_log_likelihood, whole.log_likelihood, whole.fitted_log_likelihood)


def test_training_rows_alone_scale_and_a_feature_that_does_not_vary_is_only_shifted(folder: Path) -> None:
    train_rows, others = read_set(folder, [0]).splits[0].for_choosing()
    scaling = Scaling.of(train_rows)
    assert scaling.inputs(train_rows).mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-9)
    assert scaling.inputs(train_rows).std(axis=0) == pytest.approx([1, 1, 0])
    assert scaling.targets(train_rows).std() == pytest.approx(1)
    assert abs(scaling.targets(others).mean()) > 1e-3


def test_the_last_fifth_of_the_training_rows_chooses(folder: Path) -> None:
    split = read_set(folder, [0]).splits[0]
    first, last = split.for_choosing()
    assert (len(first.targets), len(last.targets)) == (40, 10)
    assert np.array_equal(np.concatenate([first.targets, last.targets]), split.train.targets)


def test_the_chosen_setting_is_the_one_with_the_highest_log_likelihood_on_the_rows_that_choose(
    uninterrupted: tuple[Path, UciSet, list[SplitResult]],
) -> None:
    folder, uci, results = uninterrupted
    kept = json.loads((folder / "journal.json").read_text())["finished"]
    for result in results:
        tried = [
            kept[f"choose {result.split} {candidate}"]["log_likelihood"] for candidate in range(len(uci.candidates))
        ]
        assert result.validation.log_likelihood == max(tried)
        assert result.chosen == uci.candidates[tried.index(max(tried))]


def test_what_a_journal_says_is_not_done_again(folder: Path) -> None:
    uci, journal = read_set(folder, [0]), folder / "journal.json"
    planted = {f"choose 0 {i}": {"log_likelihood": i - 9.0, "fitted_tau": 0.5} for i in range(2)}
    Journal(journal, {"law": 1, "set": uci.digest, "samples": 100, "seed": 0}).keep(planted)
    said: list[str] = []
    (result,) = run(uci, BRIEF, journal, said.append)
    assert result.chosen == uci.candidates[1]
    assert said[0] == "tiny: choosing: 2 of 2 networks are in the journal"


class Killed(BaseException):
    """Stands for the end of the process, where the run says how far it is."""


def test_a_run_that_was_killed_goes_on_to_the_result_of_one_that_was_not(
    uninterrupted: tuple[Path, UciSet, list[SplitResult]], tmp_path: Path
) -> None:
    folder, uci, expected = uninterrupted
    journal = tmp_path / "journal.json"

    def die(_: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        run(read_set(folder, [1]), BRIEF, journal, die)  # after the choice for the second split
    assert len(json.loads(journal.read_text())["finished"]) == 2
    assert run(uci, BRIEF, journal) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["journal.json"]


@pytest.mark.slow
def test_processes_beside_each_other_give_the_results_of_one(
    uninterrupted: tuple[Path, UciSet, list[SplitResult]],
) -> None:
    _, uci, expected = uninterrupted
    assert run(uci, Settings(samples=100, jobs=2)) == expected


def test_a_journal_of_other_rows_or_settings_and_what_is_none_are_refused(folder: Path) -> None:
    uci, journal = read_set(folder, [0]), folder / "journal.json"
    Journal(journal, {"law": 1, "set": uci.digest, "samples": 100, "seed": 0}).keep({"choose 0 0": 1.0})
    with pytest.raises(BadJournal, match="written for samples 100, and this run is for 200"):
        run(uci, Settings(samples=200), journal)
    (folder / "data.txt").write_text((folder / "data.txt").read_text().replace("7.0", "8.0"))
    with pytest.raises(BadJournal, match="written for set"):
        run(read_set(folder, [0]), BRIEF, journal)
    journal.write_text("{}")
    with pytest.raises(BadJournal, match="is no journal"):
        run(uci, BRIEF, journal)


def test_json_alone_goes_to_stdout_and_one_split_has_no_standard_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(folder), "--splits", "1-1", "--samples", "50", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["set"], found["splits"]) == ("tiny", [1])
    for name in (
        "rmse", "log_likelihood", "coverage", "constant_log_likelihood", "fitted_log_likelihood", "fitted_coverage",
    ):  # fmt: skip
        assert found[name] == {"mean": found[name]["per_split"][0], "se": None, "per_split": found[name]["per_split"]}
    assert 0 < found["rmse"]["mean"] < 10
    assert set(found["chosen"][0]) == {"split", "rate", "tau", "fitted_tau", "validation_log_likelihood"}
    assert err.startswith("tiny: choosing: 2 of 2 networks")


def test_standard_errors_are_over_splits(uninterrupted: tuple[Path, UciSet, list[SplitResult]]) -> None:
    _, uci, results = uninterrupted
    one, other = (result.score.rmse for result in results)
    found = summary(uci, results)["rmse"]
    assert found["se"] == pytest.approx(abs(one - other) / 2)
    assert found["mean"] == pytest.approx((one + other) / 2)


@pytest.mark.parametrize("name", ["tiny", *PUBLISHED])
def test_the_table_has_the_published_figures_and_their_source_where_there_are_such(
    name: str, uninterrupted: tuple[Path, UciSet, list[SplitResult]]
) -> None:
    _, uci, results = uninterrupted
    text = report({**summary(uci, results), "set": name})
    assert ("arXiv 1506.02142" in text) == (name in PUBLISHED)
    assert all(figure in text for figure in PUBLISHED.get(name, ()))


def test_a_set_is_named_by_its_folder_or_the_one_above_data(tmp_path: Path) -> None:
    (tmp_path / "yacht").mkdir()
    assert read_set(write_set(tmp_path / "yacht" / "data"), [0]).name == "yacht"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("data.txt", "1 2 3 4\n1 2 nan 4\n", r"data\.txt, line 2: a finite number expected, got nan"),
        ("data.txt", "1 2 3 4\n\n1 2 x 4\n", r"data\.txt, line 3: a number expected, got 'x'"),
        ("data.txt", "1 2 3 4\n1 2 3\n", r"data\.txt, line 2: 4 numbers expected as in the first, got 3"),
        ("data.txt", "\n", r"data\.txt is empty"),
        ("index_features.txt", "0\n4\n", r"index_features\.txt, line 2: a whole number from 0 to 3 .*, got 4"),
        ("index_features.txt", "0\n3\n", r"index_features\.txt: column 3 is the target"),
        ("index_target.txt", "1\n2\n", r"index_target\.txt: one number expected, got 2"),
        ("index_train_0.txt", "0\n60\n", r"index_train_0\.txt, line 2: a whole number from 0 to 59 .*, got 60"),
        ("index_train_0.txt", "0\n1\n0\n", r"index_train_0\.txt: 0 stands there 2 times"),
        ("index_train_0.txt", "".join(f"{i}\n" for i in range(60)), r"index_test_0\.txt: row \d+ is a training row"),
        ("index_test_0.txt", "1.5\n", r"index_test_0\.txt, line 1: a whole number from 0 to 59 .*, got 1\.5"),
        ("n_hidden.txt", "0\n", r"n_hidden\.txt, line 1: a number of units expected, got 0"),
        ("dropout_rates.txt", "0.1\n1\n", r"dropout_rates\.txt, line 2: a rate between 0 and 1 expected, got 1"),
        ("tau_values.txt", "-1\n", r"tau_values\.txt, line 1: a precision above 0 expected, got -1"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_with_file_and_line(
    file: str, text: str, message: str, folder: Path
) -> None:
    (folder / file).write_text(text)
    with pytest.raises(BadSet, match=message):
        read_set(folder, [0])


def test_too_few_rows_to_train_on_are_refused(folder: Path) -> None:
    for rows in ("0\n", "0\n1\n"):
        (folder / "index_train_0.txt").write_text(rows)
        (folder / "index_test_0.txt").write_text("5\n")
        with pytest.raises(BadSet, match="two training rows with different targets"):
            read_set(folder, [0])


def test_a_folder_or_a_split_that_is_not_there_is_said_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments]) == 2
        return capsys.readouterr().err

    assert "there is no split 2" in (error := said("--data", str(folder), "--splits", "0-5"))
    assert "the folder has 2 splits, 0 to 1" in error
    assert "is not a folder" in said("--data", str(folder / "none"), "--splits", "0-0")
    (folder / "tau_values.txt").unlink()
    assert "tau_values.txt is missing" in said("--data", str(folder), "--splits", "0-0")
    folder.rename(folder.parent / "data")
    assert f"{folder.parent / 'data'} has it" in said("--data", str(folder.parent), "--splits", "0-0")


@pytest.mark.parametrize("splits", ["5-2", "a-b", "1-", ""])
def test_splits_that_are_no_range_are_refused(splits: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(folder), "--splits", splits])
    assert "A-B with A ≤ B expected" in capsys.readouterr().err
