"""The face of the engine: rows in, predictions or uncertainty out, within a memory budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from service.clock import MonotonicClock
from service.errors import InvalidOption, ModelFailed, UncertaintyUnavailable, UnservableModel
from service.sampling.arming import Inputs, call, plain_attention
from service.sampling.bank import KEPT_SAMPLES, Draw, SeedBank
from service.sampling.capture import output_of
from service.sampling.conditional import Conditional, Ending
from service.sampling.description import PlanDescription
from service.sampling.device import exact_float32
from service.sampling.eager import Eager, moves_output
from service.sampling.kernels import (
    Folded,
    FoldedChain,
    Kernel,
    Stacked,
    Thinned,
    Timing,
    fastest_from,
    tiles,
)
from service.sampling.lowering import lowered_plan
from service.sampling.masks import Design
from service.sampling.memory import Room, in_cuts
from service.sampling.plan import Plan
from service.sampling.reference import SiteNoise, reference_sample
from service.sampling.rows import ExampleInputs, RowShapes, part_of, row_count
from service.sampling.sites import Site
from service.sampling.stopping import DEFAULT_SAMPLES, SEEN_BYTES, Decide, Remaining, StopRule, stop_rule, until_settled
from service.statistics import (
    BLOCK,
    Accumulator,
    ClosedForm,
    ConditionalAccumulator,
    Method,
    NoiseHead,
    NoisyAccumulator,
    NoisyUncertainty,
    StoppedUncertainty,
    Task,
    Uncertainty,
)
from service.statistics.stopped import StoppedRows

if TYPE_CHECKING:
    from service.sampling.bound import Bfloat16Error

MaskSharing = Literal["shared", "independent"]
MethodChoice = Literal["auto", "sampled"]
METHODS: tuple[MethodChoice, ...] = ("auto", "sampled")
Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
_Accumulator = Accumulator | ConditionalAccumulator | ClosedForm

MAX_SEED = 2**53 - 1
_PREFIX_BYTES = 32 << 20  # values of the prefix that are held while all samples run
_MASKS_AT_ONCE_BYTES = 8 << 20  # masks, or what is made of them, of one chunk of samples
_LONG_MASKS_AT_ONCE_BYTES = 2 << 20  # the same of a long request, which makes them as it goes: the heap stays whole


class Sampler:
    """A network ready to answer. Made by `prepare`; holds its own copy of the weights and never changes it.

    Not thread-safe: one thread at a time.
    """

    def __init__(
        self, module: nn.Module, plan: Plan, examples: Inputs, positional: bool, task: Task, device: torch.device
    ) -> None:
        self._module, self._plan, self._positional = module, plan, positional
        self._inputs = RowShapes(examples)
        self._device = device
        self.task: Task = task
        self.dtype_note = ""  # why not the dtype that was asked for; empty where it is
        self.bfloat16_error: Bfloat16Error | None = None  # measured when it was prepared
        self.sites: list[Site] = plan.sites
        self.output_shape = plan.output_shape
        self.noise_head: NoiseHead | None = None
        by_name = {site.name: site for site in plan.sites}
        sampled = [by_name[name] for name in plan.masks]
        bank = SeedBank()
        self._general = _general_kernel(plan, sampled, bank, device)
        self.kernels: list[Kernel] = [self._general]
        if plan.chain is not None and plan.chain.bytes_per_sample * BLOCK <= _MASKS_AT_ONCE_BYTES:
            self.kernels += [kind(plan.chain, sampled, bank) for kind in (Thinned, Stacked)]
        self._conditional: Conditional | None = None
        if plan.ending is not None:
            self._conditional = Conditional(plan.ending, [by_name[name] for name in plan.ending.masks], bank, device)
        self._room, self._room_to_predict = Room(device), Room(device, samples_a_row=1)
        self.serves_from: list[tuple[int, Kernel]] = [(1, self.kernels[-1])]  # each from so many rows on, ascending
        self.timings: list[Timing] = []

    @property
    def eager_reason(self) -> str:
        """Why the network could not be captured and runs as it is, slowly; empty where it was captured."""
        return self._plan.reason

    @property
    def deterministic_flop_share(self) -> float | None:
        """Of a prediction's floating point operations, the share that no mask reaches and that runs once a row; None
        where the network could not be captured."""
        return self._plan.deterministic_flop_share

    def described(self) -> PlanDescription:
        """What the engine made of the network, for people."""
        return PlanDescription(
            self._plan.prefix, self._plan.suffix, self.deterministic_flop_share, self.eager_reason,
            [(kernel.name, kernel.rows, self._chunk(kernel, 1, False)) for kernel in self.kernels], self.timings,
        )

    @property
    def dtype(self) -> Dtype:
        """Of the matrix products. What is returned is float32 or float64 either way."""
        return "bfloat16" if self._plan.dtype is torch.bfloat16 else "float32"

    def lowered(self, inputs: ExampleInputs) -> Sampler:
        """The same network with its products in bfloat16. inputs: rows to see by what type each value has."""
        rows = self._as_rows(inputs)
        plan = replace(lowered_plan(self._plan, list(rows.values())), sites=self.sites)
        return Sampler(self._module, plan, rows, self._positional, self.task, self._device)

    @property
    def samples_something(self) -> bool:
        """Whether any site is active, so that `uncertainty` has something to say."""
        return bool(self._plan.masks)

    @property
    def closed_form(self) -> bool:
        """Whether mean and standard deviation are known without sampling: one active site, affine maps behind it."""
        return self.method_for("auto") == "closed_form"

    def method_for(self, method: MethodChoice, samples_wanted: bool = False) -> Method:
        """How a request is answered. samples_wanted: whether the samples themselves are needed."""
        if method not in METHODS:
            raise InvalidOption(f"method: 'auto' or 'sampled' expected, got {method!r}")
        if self._plan.ending is None or method == "sampled" or samples_wanted:
            return "sampled"
        return "rao_blackwell" if self._plan.ending.masks else "closed_form"

    def use_noise_head(self, head: NoiseHead) -> None:
        """From now on the columns of the output are taken for locations, then as many of their noise. Every statistic
        but `noise_std` is of the locations. For `prepare`, once the network was tried as it is."""
        if self.task != "regression" or len(self.output_shape) != 1 or self.output_shape[0] % 2:
            raise UnservableModel(
                f"a network with a noise head is a regression and gives (rows, 2·targets), locations and then as many "
                f"of their noise; this one is of the task {self.task} and gives {self.output_shape} for a row"
            )
        self.noise_head, self.output_shape = head, (self.output_shape[0] // 2,)

    @property
    def memory_bytes(self) -> int:
        """Weights and constants held on the device."""
        parts = (self._module, self._plan.predict, self._plan.prefix, self._plan.suffix)
        held = {t.data_ptr(): t.numel() * t.element_size() for part in parts for t in part.state_dict().values()}
        return sum(held.values())

    @property
    def out_of_memory_retries(self) -> int:
        """How often memory ran out and less was run at once; see `service.sampling.memory`."""
        return self._room.retries + self._room_to_predict.retries

    def predict(self, inputs: ExampleInputs) -> Tensor:
        """Every dropout off: probabilities, values or outputs, (rows, …), float32. `ModelFailed` if not finite."""
        rows = self._as_rows(inputs)

        def run(group: range) -> Tensor:
            (output,) = self._plan.predict(*part_of(rows, group).values())
            return self._located(self._checked(self._head(output)))

        with torch.no_grad(), exact_float32(self._device):
            count = row_count(rows)
            parts = self._room_to_predict.through(count, count, run)
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def uncertainty(
        self, inputs: ExampleInputs, samples: int | None = None, seed: int = 0, masks: MaskSharing = "shared",
        design: Design | None = None, include_samples: bool = False, first_row: int = 0,
        checkpoint: Callable[[], None] | None = None, kernel: Kernel | None = None, method: MethodChoice = "auto",
        tolerance: float | None = None, decide: Decide | Mapping[str, float] | None = None,
    ) -> Uncertainty:
        """Draws dropout masks and summarises the outputs.

        Args: samples: at least 2; balanced rounds up to a multiple of 10. 50, or 1000 with tolerance or decide.
              seed: 0 to 2^53 - 1; the same request and seed give the same answer.
              masks: "shared": a sample is one thinned network applied to every row. "independent": every row has
              masks of its own, keyed by its place in the request.
              design: "balanced", or "iid", which tolerance and decide imply.
              first_row: place of the first of these rows, where they are a part of a longer request.
              checkpoint: called after each chunk of samples and rows; what it raises ends the work.
              kernel: one of `kernels`, to sample with; by default the one found fastest for that many rows.
              method: "auto": averages over the last site's masks exactly where affine maps alone follow it and the
              answer is the raw output, unless samples are to be included. "sampled": never.
              tolerance: stop a row once each of its means is known to ± this; a number between 0 and 0.5.
              decide: {"above": m, "error": a}: stop a row once it is settled whether the mean probability of its
              predicted class is above m; see `service.sampling.stopping`. A row that stops after n samples has the
              answer of `samples=n, design="iid"`.
        Errors: InvalidOption, InvalidInput, UncertaintyUnavailable (no active site), ModelFailed (not finite).
        """
        rows = self._as_rows(inputs)
        rule = stop_rule(self.task, tolerance, decide, design, samples)
        design = design or ("balanced" if rule is None else "iid")
        if samples is None:
            samples = 50 if rule is None else DEFAULT_SAMPLES
        samples = self._checked_options(samples, seed, masks, design)
        count = row_count(rows)
        if rule is not None:
            first = first_row if masks == "independent" else None
            with torch.no_grad(), exact_float32(self._device):
                return self._until_settled(rows, first, samples, seed, rule, include_samples, checkpoint, kernel)
        chosen = self.method_for(method, include_samples or kernel is not None)
        if chosen == "sampled":
            kernel = self._kernel_for(count, masks, kernel)
        else:
            assert self._conditional is not None
            kernel = self._conditional
            samples = 1 if chosen == "closed_form" else samples
        # as many rows share what is made of the masks as their values of the prefix may take of memory
        group = max(kernel.rows, _PREFIX_BYTES // (4 * self._split(kernel).prefix_width))

        def run(part: range) -> list[_Accumulator]:
            first = first_row + part.start if masks == "independent" else None
            return self._accumulate(
                part_of(rows, part), first, samples, seed, design, include_samples, checkpoint, kernel)

        with torch.no_grad(), exact_float32(self._device):
            parts = self._room.through(count, group, run)
        return self._answer([accumulator for part in parts for accumulator in part], chosen)

    def reference(
        self, inputs: ExampleInputs, samples: int = 50, seed: int = 0, masks: MaskSharing = "shared",
        design: Design = "balanced",
    ) -> Uncertainty:
        """The same answer the slow way, one eager pass a sample with the same masks: the oracle of the fast path."""
        if self._plan.network is not None:
            return self.uncertainty(inputs, samples, seed, masks, design, include_samples=True)
        rows = self._as_rows(inputs)
        samples = self._checked_options(samples, seed, masks, design)
        count = row_count(rows)
        places = np.arange(count) if masks == "independent" else None
        drawn_masks = self._general.drawn(Draw(design, seed, 0, samples, samples), places)
        by_name = dict(zip(self._plan.masks, drawn_masks, strict=True))
        noise = SiteNoise(self._plan.marks, self._plan.layouts, by_name, count)
        accumulator = self._accumulator(self._general, design == "balanced", keep=True)
        drawn = [
            self._head(output_of(
                reference_sample(self._module, rows, self._positional, noise.of_sample(t), noise.off)))
            for t in range(samples)
        ]
        accumulator.add(self._checked(torch.stack(drawn)).reshape(samples, count, -1))
        return self._answer([accumulator])

    def tune(self, inputs: ExampleInputs) -> None:
        """Times the kernels on copies of some rows and settles which one serves how many rows."""
        given = list(self._as_rows(inputs).values())

        def read(kernel: Kernel, rows: int) -> Sequence[Tensor]:
            some = [value.repeat(-(-rows // value.shape[0]), *[1] * (value.dim() - 1))[:rows] for value in given]
            made: Sequence[Tensor] = self._split(kernel).prefix.forward(*some)
            return made

        if len(self.kernels) > 1:
            with torch.no_grad(), exact_float32(self._device):
                self.timings = fastest_from(self.kernels, read, self._chunk, MonotonicClock())
            self.serves_from = [(timing.rows, timing.fastest) for timing in self.timings]

    def predict_reference(self, inputs: ExampleInputs) -> Tensor:
        """The module itself in eval mode: the oracle of `predict`. Row by row where it cannot be captured."""
        if self._plan.network is not None:
            return self.predict(inputs)
        with torch.no_grad(), exact_float32(self._device), plain_attention():
            return self._located(self._head(output_of(call(self._module, self._as_rows(inputs), self._positional))))

    def differs_with_only(self, name: str, inputs: ExampleInputs, seed: int) -> bool:
        """Whether any of ten samples in which that site alone is on differs from the prediction."""
        rows = self._as_rows(inputs)
        count = row_count(rows)
        if self._plan.network is not None:
            return moves_output(self._plan.network, self._plan.sites, rows, name, seed)
        with torch.no_grad(), exact_float32(self._device):
            values = self._plan.prefix(*rows.values())
            drawn = self._general.drawn(Draw("balanced", seed, 0, BLOCK, BLOCK), None)
            off = [torch.ones_like(mask) for mask in drawn]
            alone = [
                mask if site == name else one
                for site, mask, one in zip(self._plan.masks, drawn, off, strict=True)
            ]
            output, plain = (self._general.run(values, count, BLOCK, masks) for masks in (alone, off))
        return not torch.equal(output, plain)

    def conditional_means(
        self, inputs: ExampleInputs, samples: int, masks: MaskSharing = "shared"
    ) -> tuple[Ending, Tensor, Tensor] | None:
        """The ending, the exact means over its site's masks, (samples·rows, outputs), and what that site acts on; None
        where there is no ending. For the probe."""
        if self._conditional is None:
            return None
        rows = self._as_rows(inputs)
        count = row_count(rows)
        with torch.no_grad(), exact_float32(self._device):
            values = self._conditional.ending.prefix(*rows.values())
            places = np.arange(count) if masks == "independent" else None
            drawn = self._conditional.drawn(Draw("balanced", 0, 0, samples, samples), places)
            return self._conditional.ending, *self._conditional.means(values, count, samples, drawn)

    def _kernel_for(self, rows: int, masks: str, wanted: Kernel | None) -> Kernel:
        if masks == "independent":
            if wanted not in (None, self._general):
                raise InvalidOption("kernel: only the folded one runs rows that have masks of their own")
            return self._general
        return wanted or [kernel for first, kernel in self.serves_from if rows >= first][-1]

    def _accumulate(
        self, rows: Inputs, first_row: int | None, samples: int, seed: int, design: Design, keep: bool,
        checkpoint: Callable[[], None] | None, kernel: Kernel,
    ) -> list[_Accumulator]:
        """Runs all samples of some rows. first_row: place of the first one in its request, where rows have masks of
        their own."""
        count = row_count(rows)
        parts = tiles(count, self._room.rows(kernel.rows))
        self._room.using(len(parts[0]))
        prefix = self._split(kernel).prefix
        values = [prefix.forward(*part_of(rows, part).values()) for part in parts]
        accumulators = [self._accumulator(kernel, design == "balanced", keep) for _ in parts]
        size, at_once, kernel = self._share(kernel, len(parts[0]), first_row is not None, samples)

        def run_chunk(first: int) -> None:  # what it makes of masks is gone before the next chunk makes its own
            draw = Draw(design, seed, first, min(size, samples - first), samples)
            shared = kernel.drawn(draw, None) if first_row is None else None
            for part, read, accumulator in zip(parts, values, accumulators, strict=True):
                drawn = shared or kernel.drawn(draw, np.arange(part.start, part.stop) + (first_row or 0))
                output = in_cuts(kernel, read, len(part), draw.samples, drawn, at_once)
                accumulator.add(self._head(output).reshape(draw.samples, len(part), -1))
                if checkpoint is not None:
                    checkpoint()

        for first in range(0, samples, size):
            run_chunk(first)
        for accumulator in accumulators:
            self._checked(accumulator.moments.mean)  # not finite where any sample is not
            if isinstance(accumulator, NoisyAccumulator) and not bool(accumulator.noise_variance.isfinite().all()):
                raise ModelFailed("the noise head gave a negative standard deviation, or one that is not finite")
            if kernel is self._conditional:
                self._checked(accumulator.moments.std)
        return accumulators

    def _split(self, kernel: Kernel) -> Plan | Ending:
        """What a kernel runs, cut into prefix and suffix."""
        return self._plan.ending if kernel is self._conditional and self._plan.ending is not None else self._plan

    def _accumulator(self, kernel: Kernel, balanced: bool, keep: bool) -> _Accumulator:
        if self.noise_head is not None:
            return NoisyAccumulator(self.noise_head, balanced, keep)
        if kernel is not self._conditional:
            return Accumulator(self.task, balanced, keep)
        return ClosedForm() if self.closed_form else ConditionalAccumulator(balanced)

    def _answer(self, parts: list[_Accumulator], method: Method = "sampled") -> Uncertainty:
        kind = Uncertainty if self.noise_head is None else NoisyUncertainty
        return kind(parts, self.output_shape, method)

    def _located(self, values: Tensor) -> Tensor:
        """Without the columns of the noise."""
        return values if self.noise_head is None else values[:, : self.output_shape[0]].contiguous()

    def _until_settled(
        self, rows: Inputs, first_row: int | None, samples: int, seed: int, rule: StopRule, keep: bool,
        checkpoint: Callable[[], None] | None, kernel: Kernel | None,
    ) -> StoppedUncertainty:
        """Runs rows until each has settled or has all samples. first_row: as in `_accumulate`."""
        count, columns = row_count(rows), math.prod(self.output_shape)
        group = max(1, min(_PREFIX_BYTES // (4 * self._plan.prefix_width), SEEN_BYTES // (4 * samples * columns)))

        def run(part: range) -> StoppedRows:
            some = part_of(rows, part)
            draw = self._drawing(some, None if first_row is None else first_row + part.start, seed, checkpoint, kernel)
            watch = rule.watch(partial(self.predict, some), (samples, len(part), columns), self._device)
            return until_settled(watch, self.task, samples, len(part), draw, keep, self._device)

        groups = self._room.through(count, group, run)
        return StoppedUncertainty(groups, self.output_shape, samples, rule.reason)

    def _drawing(
        self, rows: Inputs, first_row: int | None, seed: int, checkpoint: Callable[[], None] | None,
        wanted: Kernel | None,
    ) -> Callable[[int, int, Tensor], Tensor]:
        """What draws the samples of those of `rows` that still sample: see `until_settled`."""
        masks = "shared" if first_row is None else "independent"
        remaining = Remaining(self._plan, rows, self._general.rows, self._device)

        def draw(first: int, most: int, active: Tensor) -> Tensor:
            remaining.keep(active)
            kernel = self._kernel_for(len(active), masks, wanted)
            parts = tiles(len(active), self._room.rows(kernel.rows))
            size, at_once, kernel = self._share(kernel, len(parts[0]), first_row is not None, most)
            # the bank keeps the first samples for the next request, though more may be needed
            some = Draw("iid", seed, first, size, first + size)
            shared = kernel.drawn(some, None) if first_row is None else None
            outputs = []
            for part in parts:
                places = active[part.start : part.stop].cpu().numpy() + (first_row or 0)
                drawn = shared or kernel.drawn(some, places)
                output = in_cuts(kernel, remaining.tile(part), len(part), size, drawn, at_once)
                outputs.append(self._head(output).reshape(size, len(part), -1))
                if checkpoint is not None:
                    checkpoint()
            return self._checked(torch.cat(outputs, 1))

        return draw

    def _share(self, kernel: Kernel, rows: int, independent: bool, samples: int) -> tuple[int, int, Kernel]:
        """Samples of a chunk, how many of them run at once, fewer where memory ran out, and the kernel for that."""
        size = min(samples, self._chunk(kernel, rows, independent, samples))
        at_once = self._room.samples(size, rows)
        self._room.using(rows, at_once)
        if at_once < min(size, BLOCK) and kernel is not self._conditional:
            kernel = self._general  # its masks can be cut
        return min(size, max(at_once, BLOCK)), at_once, kernel

    def _chunk(self, kernel: Kernel, rows: int, independent: bool, samples: int = 0) -> int:
        """Samples that run at once in a request of so many: a multiple of 10."""
        per_sample = self._split(kernel).suffix_width * 4 * rows
        mask_bytes = kernel.bytes_per_sample * (rows if independent else 1)
        room = _MASKS_AT_ONCE_BYTES if samples <= KEPT_SAMPLES else _LONG_MASKS_AT_ONCE_BYTES
        n = min(kernel.working_set_bytes // per_sample, room // max(mask_bytes, 1))
        return max(BLOCK, n // BLOCK * BLOCK)

    def _checked_options(self, samples: int, seed: int, masks: str, design: str) -> int:
        if not self.samples_something:
            raise UncertaintyUnavailable("this model has no dropout that could be sampled; only predict is available")
        if design not in ("balanced", "iid"):
            raise InvalidOption(f"design: 'balanced' or 'iid' expected, got {design!r}")
        if masks not in ("shared", "independent"):
            raise InvalidOption(f"masks: 'shared' or 'independent' expected, got {masks!r}")
        for name, number in (("samples", samples), ("seed", seed)):
            if not isinstance(number, int) or isinstance(number, bool):
                raise InvalidOption(f"{name}: a whole number expected, got {number!r}")
        if samples < 2:
            raise InvalidOption(f"samples: at least 2 expected, got {samples}")
        if not 0 <= seed <= MAX_SEED:
            raise InvalidOption(f"seed: 0 to {MAX_SEED} expected, got {seed}")
        return -(-samples // BLOCK) * BLOCK if design == "balanced" else samples

    def _as_rows(self, inputs: ExampleInputs) -> Inputs:
        return self._inputs.checked(inputs, self._device)

    def _head(self, output: Tensor) -> Tensor:
        output = output.float()
        if self.task == "classification":
            # rows innermost in memory: softmax and statistics over classes are several times faster so
            if output.dim() == 3 and (classes_first := output.permute(2, 0, 1)).is_contiguous():
                return classes_first.softmax(0).permute(1, 2, 0)
            return output.mT.contiguous().softmax(-2).mT
        return output.sigmoid() if self.task == "multilabel" else output

    def _checked(self, values: Tensor) -> Tensor:
        # a sum is not finite where any summand is not: one pass, no tensor of flags
        if not math.isfinite(values.sum().item()) and not torch.isfinite(values).all():
            raise ModelFailed("the model gave an output that is not finite (NaN or infinity)")
        return values


def _general_kernel(plan: Plan, sites: Sequence[Site], bank: SeedBank, device: torch.device) -> Kernel:
    """The one that runs rows with masks of their own too. sites: the active ones."""
    if plan.network is not None:
        return Eager(plan.network, plan.sites)
    if plan.chain is not None:
        return FoldedChain(plan.chain, plan.suffix_width, sites, bank, device, plan.dtype)
    return Folded(plan.suffix, plan.suffix_width, sites, bank, device, plan.dtype)
