"""A file of rows through a model into a file of answers, chunk by chunk, as though nothing could interrupt it.

What an interrupted run has written stays; the same command goes on behind it, and the file in the end is the same byte
for byte. For that, every number must come out again as it was, down to its last bit: chunks begin at the same rows
whatever happens, a rule and not the clock chooses kernels (`service.sampling.untimed`), as many threads compute as in
the beginning, and before a run goes on it answers the last chunk that is kept once more and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from math import prod
from typing import Any

import orjson
import torch
from torch import Tensor

import service
from service.api.decode import out_of_range
from service.api.encode import answer_body
from service.errors import ModelFailed, OutputRefused
from service.files.columns import columns_of
from service.files.formats import Format, format_of
from service.files.partial import Partial
from service.files.source import Source
from service.repository import ReadyModel
from service.scheduling import Job, Options
from service.scheduling.at_once import answered

_PASSES = 1600  # of a chunk, for each row that a kernel runs together
_MOST_PASSES = 51_200
_MOST_ROWS, _FEW_ROWS, _EAGER_ROWS = 4096, 128, 16
_MOST_NUMBERS = 4 << 20  # of a chunk's inputs, and of its answers
_STATISTICS = 8  # about so many numbers in an answer for each output

Watch = Callable[[int, float | None], None]
"""Told the rows that are answered, and the share of the input that they are, where that is known."""


def chunk_rows(model: ReadyModel, options: Options | None) -> int:
    """How many rows are answered and written together: some seconds of work at most, and little memory. It follows
    from the model and the options alone, since an answer's last bits may depend on the rows it is computed with."""
    sampler, samples = model.sampler, 1 if options is None else options.effective_samples
    inputs = sum(prod(spec.shape) for spec in model.manifest.inputs)
    by_numbers = _MOST_NUMBERS // max(1, inputs, _STATISTICS * prod(sampler.output_shape))
    together = sampler.kernels[0].rows
    by_work = max(min(_PASSES * together, _MOST_PASSES) // samples, min(together, _FEW_ROWS))
    return max(1, min(_EAGER_ROWS if sampler.eager_reason else _MOST_ROWS, by_numbers, by_work))


def threads_of(partial: Partial) -> int:
    """That a run computes with: as it was begun, or as torch has them."""
    begun = partial.begun_with
    return torch.get_num_threads() if begun is None else int(begun["threads"])


class Run:
    """One file's. The model must be loaded, and all of this run, within `chosen_by_rule`."""

    def __init__(self, model: ReadyModel, options: Options | None, source: Source, partial: Partial) -> None:
        """options: None for predictions. OutputRefused where the partial output is of another run."""
        self.source, self.partial = source, partial
        self._model, self._options = model, options
        self._format: Format = format_of(partial.path)(columns_of(model, options))
        self.chunk = chunk_rows(model, options)
        self.kept = partial.rows
        """Rows that an earlier run has left."""
        if partial.begun_with is not None:
            self._check_begun(partial.begun_with)

    def go_on(self, watch: Watch) -> None:
        """Answers what is left, and gives the output its name. InvalidInput for a bad row, ModelFailed: what is before
        its chunk is kept."""
        while inputs := self.source.read(self.chunk):
            first = self.source.at - _rows(inputs)
            content = self._answered_or_named(inputs, first)
            if self.partial.begun_with is None:
                self.partial.begin(self._as_begun(), self._format.head(0), "")
            self.partial.append(_rows(inputs), content, self.source.digest())
            watch(self.partial.rows, self.source.share())
        self.partial.finish(self._format.head(self.partial.rows))

    def _answered(self, inputs: Mapping[str, Tensor], first: int) -> bytes:
        options = None if self._options is None else replace(self._options, first_row=first)
        job = Job(self._model, "predict" if options is None else "uncertainty", inputs, float("inf"), options)
        outside = out_of_range(inputs, self._model.manifest)
        return self._format.rows(answer_body(job, answered(job), outside, "command line")["predictions"])

    def _answered_or_named(self, inputs: Mapping[str, Tensor], first: int) -> bytes:
        """As `_answered`; where the model fails, its error names the row."""
        try:
            return self._answered(inputs, first)
        except ModelFailed as e:
            row = first + self._first_to_fail(inputs, first)
            raise ModelFailed(f"{self.source.name}: {self.source.place(row)}: {e.detail}") from e

    def _first_to_fail(self, inputs: Mapping[str, Tensor], first: int) -> int:
        """Among rows that fail together."""
        low, high = 0, _rows(inputs)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._answered({name: value[low:middle] for name, value in inputs.items()}, first + low)
                low = middle
            except ModelFailed:
                high = middle
        return low

    def _as_begun(self) -> dict[str, Any]:
        """All on which an answer's bits are known to rest, but for the rows."""
        model, sampler = self._model, self._model.sampler
        return {
            "errorbar": service.__version__, "torch": str(torch.__version__),
            "model": f"{model.name}/{model.version}", "digest": model.digest,
            "mode": "predict" if self._options is None else "uncertainty",
            "options": None if self._options is None else asdict(self._options),
            "format": self.partial.path.suffix.lower(), "chunk": self.chunk, "device": model.device,
            "instructions": torch.backends.cpu.get_cpu_capability(), "dtype": sampler.dtype,
            "kernel": sampler.serves_from[-1][1].name, "threads": torch.get_num_threads(),
        }

    def _check_begun(self, begun: Mapping[str, Any]) -> None:
        now = orjson.loads(orjson.dumps(self._as_begun()))
        before, after = (_flat(facts) for facts in (begun, now))
        changed = [f"{name} was {before.get(name, 'not given')}, is {after.get(name, 'not given')}"
                   for name in {**before, **after} if before.get(name) != after.get(name)]
        if changed:
            self._refuse(f"it was begun otherwise: {'; '.join(changed)}")

    def take_up(self) -> None:
        """Goes to where the kept rows end, and answers the last chunk of them again. OutputRefused where the input is
        not what it was as far as it was answered, or where the same bits do not come out."""
        if not self.kept:
            return
        partial, source = self.partial, self.source
        partial.go_back(self.kept // self.chunk * self.chunk)  # an input that ended there may have grown since
        self.kept = partial.rows
        if not self.kept:
            return
        before, last = partial.marks[-2:]
        skipped = source.skip(before.rows)
        if skipped < before.rows or (before.rows and source.digest() != before.read):
            self._refuse(f"{source.name} is not what it was: its first {before.rows} rows were others")
        inputs = source.read(self.chunk)
        if source.at < last.rows or source.digest() != last.read:
            self._refuse(f"{source.name} is not what it was: its rows {before.rows} to {last.rows - 1} were others")
        if self._answered(inputs, before.rows) != partial.last():
            self._refuse("this machine computes other last digits than the one that began it, and a file of both "
                         "would be neither's")

    def _refuse(self, why: str) -> None:
        raise OutputRefused(f"{self.partial.part}: {why}; --restart throws it away and begins anew")


def _rows(inputs: Mapping[str, Tensor]) -> int:
    return len(next(iter(inputs.values())))


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The options among the rest; None where there is none."""
    options = facts.get("options") or {}
    return {name: value for name, value in {**facts, **options}.items()
            if name not in ("options", "first_row") and value is not None}
