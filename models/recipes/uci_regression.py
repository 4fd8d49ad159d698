"""Gal & Ghahramani's regression benchmark with this service's engine. Run `python -m models.recipes.uci_regression`.

Each split's settings (dropout rate and noise precision) are chosen by log-likelihood on the last 20 % of its training
rows; a network with these is then trained on all of them, and scored on the test rows. The networks of many settings
and splits are trained together (`models.recipes.uci_training`). Beside the protocol's figures stand those with a noise
precision that was fitted on the rows that chose, as a server's would be: the precisions that are tried are few, and
in some sets all of them are too low.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import multiprocessing.process
import os
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from models.recipes.uci_data import BadSet, Candidate, Part, Split, UciSet, read_set
from models.recipes.uci_journal import BadJournal, Journal
from models.recipes.uci_scoring import SAMPLES, DropoutRegression, Scaling, Score, Validation, score, validate
from models.recipes.uci_training import Task, one_thread, train
from service.errors import ErrorbarError

LAW = 1
"""Of everything that decides a figure and is not a setting; a journal of another law is refused."""
TOGETHER = 24
"""Networks that are trained together at most: more are hardly faster, and are lost where a run is killed."""
NUMBERS_TOGETHER = 32_000_000
"""As many numbers at most have the training rows of those that are trained together, unless one alone has more."""

PUBLISHED = {
    "concrete": ("4.83 ± .16", "-2.94 ± .025"),
    "energy": ("0.539 ± .014", "-1.21 ± .005"),
    "power-plant": ("4.01 ± .04", "-2.81 ± .009"),
    "yacht": ("0.67 ± .05", "-1.25 ± .015"),
}
"""RMSE and log-likelihood by the set's folder, mean ± standard error over the 20 splits."""
SOURCE = (
    "Published: Gal & Ghahramani 2016 (arXiv 1506.02142), with the authors' corrected grid search: recomputed from the "
    "results of each split in github.com/yaringal/DropoutUncertaintyExps."
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One network: which split, and which of the set's candidates."""

    split: int
    candidate: int


@dataclass(frozen=True)
class Batch:
    """Networks that one process trains together and scores. choosing: on the part of the training rows that chooses."""

    trials: tuple[Trial, ...]
    choosing: bool


@dataclass(frozen=True)
class SplitResult:
    """What was chosen for a split, and how good it is on its test rows."""

    split: int
    chosen: Candidate
    validation: Validation
    score: Score


@dataclass(frozen=True)
class Settings:
    """samples: dropout samples of every figure. seed: of weights, orders and masks. jobs: processes."""

    samples: int = SAMPLES
    seed: int = 0
    jobs: int = 1


def run(
    uci: UciSet, settings: Settings = Settings(), journal_file: Path | None = None, say: Say = lambda _: None
) -> list[SplitResult]:
    """All splits of the set that were read, in their order.

    Neither the number of processes, nor which splits run together, nor a journal changes a figure.
    """
    journal = Journal(
        journal_file, {"law": LAW, "set": uci.digest, "samples": settings.samples, "seed": settings.seed}
    )  # fmt: skip
    every = [Trial(split, candidate) for split in uci.splits for candidate in range(len(uci.candidates))]
    _finish_all(uci, settings, every, True, journal, say)
    chosen = {split: _best(journal, split, len(uci.candidates)) for split in uci.splits}
    _finish_all(uci, settings, [Trial(*each) for each in chosen.items()], False, journal, say)
    return [
        SplitResult(
            split, uci.candidates[candidate], Validation(**journal[_key(Trial(split, candidate), True)]),
            Score(**journal[_key(Trial(split, candidate), False)]),
        )
        for split, candidate in chosen.items()
    ]  # fmt: skip


def finish(uci: UciSet, settings: Settings, batch: Batch, fitted_taus: Mapping[int, float]) -> dict[str, Any]:
    """Trains and scores a batch, on one thread: what is to be kept, by journal key. fitted_taus: by split."""
    with one_thread():
        return _finish(uci, settings, batch, fitted_taus)


def _finish(uci: UciSet, settings: Settings, batch: Batch, fitted_taus: Mapping[int, float]) -> dict[str, Any]:
    fitted = []
    for trial in batch.trials:
        rows, others = _parts(uci.splits[trial.split], batch.choosing)
        scaling, candidate = Scaling.of(rows), uci.candidates[trial.candidate]
        seed = settings.seed, trial.split, trial.candidate, int(batch.choosing)
        task = Task(scaling.inputs(rows), scaling.targets(rows), candidate.rate, candidate.tau, seed)
        fitted.append((trial, task, scaling, others))
    trained = train([task for _, task, *_ in fitted], uci.hidden, uci.epochs)
    found: dict[str, Any] = {}
    for (trial, task, scaling, others), weights in zip(fitted, trained, strict=True):
        network = DropoutRegression(weights, task.rate, scaling)
        found[_key(trial, batch.choosing)] = asdict(
            validate(network, others, task.tau, settings.samples)
            if batch.choosing
            else score(network, others, task.tau, fitted_taus[trial.split], settings.samples)
        )
    return found


def summary(uci: UciSet, results: Sequence[SplitResult]) -> dict[str, Any]:
    """Mean, standard error over splits (None for one) and each split's value of each figure, and what was chosen."""
    figures = {
        figure.name: _over_splits([getattr(result.score, figure.name) for result in results])
        for figure in fields(Score)
    }  # fmt: skip
    chosen = [
        {
            "split": result.split, **asdict(result.chosen), "fitted_tau": result.validation.fitted_tau,
            "validation_log_likelihood": result.validation.log_likelihood,
        }
        for result in results
    ]  # fmt: skip
    return {"set": uci.name, "splits": [result.split for result in results], **figures, "chosen": chosen}


def report(found: dict[str, Any]) -> str:
    """A table for people, beside the published figures where there are such."""
    published = PUBLISHED.get(found["set"])
    rows = [["split", "rate", "tau", "RMSE", "log-likelihood", "in 90 %", "fitted tau", "log-likelihood", "in 90 %",
             "constant noise"]]  # fmt: skip
    protocol, fitted = ("rmse", "log_likelihood", "coverage"), ("fitted_log_likelihood", "fitted_coverage")
    names = (*protocol, *fitted, "constant_log_likelihood")
    for place, chosen in enumerate(found["chosen"]):
        values = [f"{found[name]['per_split'][place]:.3f}" for name in names]
        values.insert(len(protocol), f"{chosen['fitted_tau']:.3g}")
        rows.append([str(chosen["split"]), f"{chosen['rate']:g}", f"{chosen['tau']:g}", *values])
    for name, word in (("mean", "mean"), ("se", "± s.e.")):
        values = ["" if found[each][name] is None else f"{found[each][name]:.3f}" for each in names]
        values.insert(len(protocol), "")
        rows.append([word, "", "", *values])
    if published:
        rows.append(["published", "", "", *published, *[""] * 5])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [
        f"{found['set']}: RMSE in the target's unit, likelihoods in nats a row. In 90 %: share of test rows in the "
        "central 90 % interval of the mixture of samples and noise. Fitted tau, and what follows: with the precision "
        "that makes the rows that choose most likely, instead of the best of those that are tried. Constant noise: "
        "log-likelihood of one Gaussian with the RMSE for standard deviation.",
        *([SOURCE] if published else []),
    ]
    return "\n".join([*lines, "", *notes])


def _finish_all(
    uci: UciSet, settings: Settings, trials: Sequence[Trial], choosing: bool, journal: Journal, say: Say
) -> None:
    """Finishes what the journal lacks of these trials, and says how far it is."""
    doing = f"{uci.name}: {'choosing' if choosing else 'refitting'}"
    wanted = [trial for trial in trials if _key(trial, choosing) not in journal]
    known, done, began = len(trials) - len(wanted), 0, time.monotonic()
    if known:
        say(f"{doing}: {known} of {len(trials)} networks are in the journal")
    taus = {} if choosing else {trial.split: journal[_key(trial, True)]["fitted_tau"] for trial in trials}
    for count, found in _finished(uci, settings, _batches(uci, wanted, choosing, settings.jobs), taus):
        journal.keep(found)
        done += count
        took = time.monotonic() - began
        left = took / done * (len(wanted) - done)
        say(f"{doing}: {known + done} of {len(trials)} networks, {took:.0f} s, about {left:.0f} s left of this")


def _batches(uci: UciSet, trials: Sequence[Trial], choosing: bool, jobs: int) -> list[Batch]:
    """Equal shares for the processes, none too large. Networks train together where they have equally many rows: only
    then are sums taken in the same order in any company, so that a run that goes on gives the same last digits."""
    by_rows: dict[int, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_rows[len(_parts(uci.splits[trial.split], choosing)[0].targets)].append(trial)
    batches = []
    columns = next(iter(uci.splits.values())).train.inputs.shape[1] + 2
    for rows, alike in by_rows.items():
        together = max(1, min(TOGETHER, NUMBERS_TOGETHER // (rows * columns)))
        count = min(len(alike), jobs * math.ceil(len(alike) / (together * jobs)))
        cuts = [i * len(alike) // count for i in range(count + 1)]
        batches += [Batch(tuple(alike[start:end]), choosing) for start, end in pairwise(cuts)]
    return batches


def _finished(
    uci: UciSet, settings: Settings, batches: Sequence[Batch], fitted_taus: Mapping[int, float]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """How many networks, and what came of them, in the order in which batches end."""
    if settings.jobs == 1 or len(batches) <= 1:
        for batch in batches:
            yield len(batch.trials), finish(uci, settings, batch, fitted_taus)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(settings.jobs, len(batches)), context, _begin_worker) as pool:
        running = {pool.submit(finish, uci, settings, batch, fitted_taus): batch for batch in batches}
        try:
            for future in as_completed(running):
                yield len(running[future].trials), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin_worker() -> None:
    """Ends with the parent, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _parts(split: Split, choosing: bool) -> tuple[Part, Part]:
    """The rows that train, and those that score."""
    return split.for_choosing() if choosing else (split.train, split.test)


def _best(journal: Journal, split: int, candidates: int) -> int:
    """The candidate with the highest log-likelihood on the rows that choose, the first of equals."""
    return max(range(candidates), key=lambda candidate: journal[_key(Trial(split, candidate), True)]["log_likelihood"])


def _key(trial: Trial, choosing: bool) -> str:
    return f"{'choose' if choosing else 'test'} {trial.split} {trial.candidate}"


def _over_splits(values: list[float]) -> dict[str, Any]:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": mean(values), "se": error, "per_split": values}


def _splits(text: str) -> range:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise argparse.ArgumentTypeError(f"A-B with A ≤ B expected, such as 0-19, got {text!r}")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 expected, got {text!r}")
    return int(text)


def _from_zero(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0 expected, got {text!r}")
    return int(text)


def main(given: Sequence[str] | None = None) -> int:
    """The command line: progress on stderr, results on stdout. Returns the exit status: 2 where the input is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m models.recipes.uci_regression", description=__doc__.split("\n\n")[0] if __doc__ else None
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with data.txt and the splits' index files")
    parser.add_argument("--splits", type=_splits, required=True, metavar="A-B", help="both included; 0-0 is one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--jobs", type=_positive, default=1, help="processes of one thread each (%(default)s)")
    parser.add_argument("--journal", type=Path, help="file that keeps what is finished; a run that finds it goes on")
    parser.add_argument("--samples", type=_positive, default=SAMPLES, help="dropout samples (%(default)s)")
    parser.add_argument("--seed", type=_from_zero, default=0, help="of weights, orders and masks (%(default)s)")
    arguments = parser.parse_args(given)
    settings = Settings(arguments.samples, arguments.seed, arguments.jobs)
    try:
        uci = read_set(arguments.data, arguments.splits)
        results = run(uci, settings, arguments.journal, lambda line: print(line, file=sys.stderr, flush=True))
    except (BadSet, BadJournal) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except (ErrorbarError, FloatingPointError, OSError) as e:
        print(f"error: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    found = summary(uci, results)
    print(json.dumps(found) if arguments.json else report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
