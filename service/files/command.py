"""A file of rows into a file of answers, as somebody at a terminal sees it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from service.api.decode import decode_options
from service.errors import InvalidInput, ModelFailed, OutputRefused
from service.files.formats import format_of
from service.files.partial import Partial, opened
from service.files.run import Run, Watch, threads_of
from service.files.source import Source
from service.repository import ReadyModel
from service.sampling.untimed import chosen_by_rule
from service.scheduling import Limits, Mode


def to_file(
    load: Callable[[], ReadyModel], file: str, out: Path, mode: Mode, options: Mapping[str, Any], overwrite: bool,
    restart: bool, console: Console,
) -> None:
    """Answers the rows that no earlier run has answered. load: gives the model, which is to be prepared here. Errors in
    a sentence, that says how to go on; an interruption ends in SystemExit, with the status that shells know."""
    format_of(out)
    if file != "-" and out.exists() and Path(file).exists() and out.samefile(file):
        raise OutputRefused(f"{out}: this is the file of the rows")
    with _sigterm_ends(), chosen_by_rule(), opened(out, overwrite, restart) as partial:
        try:
            torch.set_num_threads(threads_of(partial))
            model = load()
            chosen = decode_options(options, model, Limits()) if mode == "uncertainty" else None
            with closing(Source(file, model)) as source:
                run = Run(model, chosen, source, partial)
                began = time.monotonic()
                _through(run, mode, console)
        except KeyboardInterrupt as e:
            console.print(f"errorbar: interrupted{_and_then(partial)}", style="red")
            raise SystemExit(128 + signal.SIGINT) from e
        except _Terminated:
            console.print(f"errorbar: told to end{_and_then(partial)}", style="red")
            raise
    sampled = f", {chosen.effective_samples} samples, seed {chosen.seed}, {chosen.masks} masks" if chosen else ""
    earlier = f", {run.kept:,} of them by an earlier run" if run.kept else ""
    console.print(f"{partial.rows:,} rows in {out}{earlier}: {model.name}/{model.version}{sampled}, "
                  f"{time.monotonic() - began:.1f} s")


def _through(run: Run, mode: Mode, console: Console) -> None:
    if run.kept:
        with console.status(f"{run.kept:,} rows are answered already: reading past them"):
            run.take_up()
    with _watching(mode, run.kept, run.source.share(), console) as watch:
        try:
            run.go_on(watch)
        except (InvalidInput, ModelFailed, OutputRefused) as e:
            raise type(e)(f"{e.detail}{_and_then(run.partial)}", faults=e.faults) from e


def _and_then(partial: Partial) -> str:
    kept = f"; {partial.rows:,} rows are kept in {partial.part}, and the same command goes on behind them"
    return kept if partial.rows else "; no rows are kept"


class _Terminated(SystemExit):
    """By SIGTERM."""


@contextmanager
def _sigterm_ends() -> Iterator[None]:
    """As an exception, so that what is open is closed and something is said."""

    def end(number: int, frame: object) -> NoReturn:
        raise _Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _watching(mode: Mode, kept: int, share: float | None, console: Console) -> Iterator[Watch]:
    """A bar, on a terminal."""
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]}"),
               TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = None if share is None else 1.0
        task = progress.add_task(mode, total=total, rows=f"{kept:,} rows")
        progress.update(task, completed=share or 0.0)

        def watch(rows: int, share: float | None) -> None:
            speed = (rows - kept) / max(1e-9, time.monotonic() - began)
            progress.update(task, completed=share or 0.0, rows=f"{rows:,} rows, {speed:,.0f} a second")

        yield watch
