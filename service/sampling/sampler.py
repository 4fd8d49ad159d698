"""The face of the engine: rows in, predictions or uncertainty out, within a memory budget."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from service.errors import InvalidOption, UncertaintyUnavailable
from service.sampling.arming import Inputs, call, plain_attention
from service.sampling.bank import Draw
from service.sampling.capture import output_of
from service.sampling.chunks import chunk
from service.sampling.conditional import Ending
from service.sampling.cuda_graphs import graphs_of
from service.sampling.description import PlanDescription
from service.sampling.device import exact_float32, tf32_products
from service.sampling.drawing import stopped
from service.sampling.eager import moves_output
from service.sampling.held import bytes_of, tensors_of
from service.sampling.kernels import Kernel, Timing
from service.sampling.lowering import lowered_plan
from service.sampling.masks import Design
from service.sampling.memory import Room
from service.sampling.options import METHODS, MIXED_ROWS, Asked, Dtype, MaskSharing, MethodChoice, asked, checked_seeds
from service.sampling.outputs import Checks, Outputs, finite
from service.sampling.plan import Plan
from service.sampling.reference import SiteNoise, reference_sample
from service.sampling.rows import ExampleInputs, RowShapes, part_of, row_count
from service.sampling.running import Runner
from service.sampling.serving import Kernels
from service.sampling.sites import Site
from service.sampling.steps import UNBOUNDED, Pace, Steps, Work
from service.sampling.stopping import Decide, stop_rule
from service.statistics import BLOCK, Method, NoiseHead, Task, Uncertainty

if TYPE_CHECKING:
    from service.sampling.bound import DtypeError


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
        self._outputs = Outputs(task, plan.output_shape)
        self.dtype_note = ""  # why not the dtype that was asked for; empty where it is
        self.dtype_error: DtypeError | None = None  # measured when it was prepared; None in float32
        self.sites: list[Site] = plan.sites
        graphs = graphs_of(device)
        self._kernels = Kernels(plan, device, task, graphs)
        self._general, self._conditional = self._kernels.general, self._kernels.conditional
        let_go = None if graphs is None else graphs.clear
        self._room, self._room_to_predict = Room(device, let_go=let_go), Room(device, samples_a_row=1, let_go=let_go)
        self._runner = Runner(self._general, self._room, self._outputs)

    @property
    def task(self) -> Task:
        return self._outputs.task

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of a row's answer."""
        return self._outputs.shape

    @property
    def noise_head(self) -> NoiseHead | None:
        return self._outputs.noise_head

    @property
    def kernels(self) -> list[Kernel]:
        """All that sample, the one that runs everything first."""
        return self._kernels.every

    def leave_out(self, kernel: Kernel, why: str) -> None:
        """Samples without one of `kernels`, but for the first, from now on; `described` says why."""
        self._kernels.leave_out(kernel, why)

    @property
    def serves_from(self) -> list[tuple[int, Kernel]]:
        """(rows, kernel), ascending: each serves from so many rows on."""
        return self._kernels.serves_from

    @property
    def timings(self) -> list[Timing]:
        """By which it was settled; empty where there is one kernel only."""
        return self._kernels.timings

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
            self._general.split.prefix, self._general.split.suffix, self.deterministic_flop_share, self.eager_reason,
            [(kernel.name, kernel.rows, chunk(kernel, 1, False)) for kernel in self.kernels], self.timings,
            self._kernels.notes,
        )

    @property
    def dtype(self) -> Dtype:
        """Of the matrix products. What is returned is float32 or float64 either way."""
        if self._plan.tf32:
            return "tf32"
        return "bfloat16" if self._plan.dtype is torch.bfloat16 else "float32"

    def lowered(self, inputs: ExampleInputs, dtype: Dtype = "bfloat16") -> Sampler:
        """The same network with its products in bfloat16 or tf32. inputs: rows to see by what type each value has."""
        rows = self._as_rows(inputs)
        plan = self._plan if dtype == "tf32" else lowered_plan(self._plan, list(rows.values()))
        plan = replace(plan, sites=self.sites, tf32=dtype == "tf32")
        return Sampler(self._module, plan, rows, self._positional, self.task, self._device)

    @property
    def samples_something(self) -> bool:
        """Whether any site is active, so that `uncertainty` has something to say."""
        return bool(self._plan.split.masks)

    @property
    def closed_form(self) -> bool:
        """Whether mean and standard deviation are known without sampling: one active site, affine maps behind it."""
        return self.method_for("auto") == "closed_form"

    def method_for(self, method: MethodChoice, samples_wanted: bool = False) -> Method:
        """How a request is answered. samples_wanted: whether the samples themselves are needed."""
        if method not in METHODS:
            raise InvalidOption.at("method", f"'auto' or 'sampled' expected, got {method!r}")
        if self._plan.ending is None or method == "sampled" or samples_wanted:
            return "sampled"
        return "rao_blackwell" if self._plan.ending.split.masks else "closed_form"

    @property
    def mixes_seeds(self) -> bool:
        """Whether requests of at most `MIXED_ROWS` rows each, sampled with shared masks, run well together where their
        seeds differ."""
        return self._kernels.for_rows(MIXED_ROWS, False, None).rows_apart

    def use_noise_head(self, head: NoiseHead) -> None:
        """From now on the columns of the output are taken for locations, then as many of their noise. Every statistic
        but `noise_std` is of the locations. For `prepare`, once the network was tried as it is."""
        self._outputs.use_noise_head(head)

    @property
    def memory_bytes(self) -> int:
        """Weights and constants held on the device, those that kernels keep in a layout of their own too."""
        every = [*self.kernels, *([] if self._conditional is None else [self._conditional])]
        parts = [self._module, self._plan.predict, *(part for k in every for part in (k.split.prefix, k.split.suffix))]
        return bytes_of([*(t for part in parts for t in tensors_of(part)), *(t for k in every for t in k.held)])

    @property
    def out_of_memory_retries(self) -> int:
        """How often memory ran out and less was run at once; see `service.sampling.memory`."""
        return self._room.retries + self._room_to_predict.retries

    def predict(self, inputs: ExampleInputs) -> Tensor:
        """Every dropout off: probabilities, values or outputs, (rows, …), float32. `ModelFailed` if not finite."""
        return self.predicting(inputs).whole()

    def predicting(self, inputs: ExampleInputs) -> Steps[Tensor]:
        """As `predict`, in steps."""
        rows = self._as_rows(inputs)

        def run(group: range) -> Work[Tensor]:
            (output,) = self._plan.predict(*part_of(rows, group).values())
            yield from ()  # a prediction is one part
            return self._outputs.located(checks.finite(self._outputs.read(output)))

        def work() -> Work[Tensor]:
            count = row_count(rows)
            parts = yield from self._room_to_predict.through(count, count, run)
            checks.settle()
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        checks = Checks(self._device)
        return Steps(work(), self._products)

    def uncertainty(
        self, inputs: ExampleInputs, samples: int | None = None, seed: int | np.ndarray = 0,
        masks: MaskSharing = "shared", design: Design | None = None, include_samples: bool = False,
        first_row: int | np.ndarray = 0, kernel: Kernel | None = None, method: MethodChoice = "auto",
        tolerance: float | None = None, decide: Decide | Mapping[str, float] | None = None,
    ) -> Uncertainty:
        """Draws dropout masks and summarises the outputs.

        Args: samples: at least 2; balanced rounds up to a multiple of 10. 50, or 1000 with tolerance or decide.
              seed: 0 to 2^53 - 1; the same request and seed give the same answer. Or those of all rows, (rows,), where
              they are of several requests that `mixes_seeds`.
              masks: "shared": a sample is one thinned network applied to every row. "independent": every row has
              masks of its own, keyed by its place in the request.
              design: "balanced", or "iid", which tolerance and decide imply.
              first_row: place of the first of these rows, where they are a part of a longer request; the last one's
              is at most 2^32 - 2. Or the places of all rows, (rows,), where they are of several requests.
              kernel: one of `kernels`, to sample with; by default the one found fastest for that many rows.
              method: "auto": averages over the last site's masks exactly where affine maps alone follow it and the
              answer is the raw output, unless samples are to be included. "sampled": never.
              tolerance: stop a row once each of its means is known to ± this; a number between 0 and 0.5.
              decide: {"above": m, "error": a}: stop a row once it is settled whether the mean probability of its
              predicted class is above m; see `service.sampling.stopping`. A row that stops after n samples has the
              answer of `samples=n, design="iid"`.
        Errors: InvalidOption, InvalidInput, UncertaintyUnavailable (no active site), ModelFailed (not finite).
        """
        return self.sampling(
            inputs, samples, seed, masks, design, include_samples, first_row, kernel, method, tolerance, decide).whole()

    def sampling(
        self, inputs: ExampleInputs, samples: int | None = None, seed: int | np.ndarray = 0,
        masks: MaskSharing = "shared", design: Design | None = None, include_samples: bool = False,
        first_row: int | np.ndarray = 0, kernel: Kernel | None = None, method: MethodChoice = "auto",
        tolerance: float | None = None, decide: Decide | Mapping[str, float] | None = None, pace: Pace = UNBOUNDED,
    ) -> Steps[Uncertainty]:
        """As `uncertainty`, in steps. Several may be under way at once, on one thread at a time."""
        rows = self._as_rows(inputs)
        rule = stop_rule(self.task, tolerance, decide, design, samples)
        self._check_something_to_sample()
        count = row_count(rows)
        one = 0 if isinstance(seed, np.ndarray) else seed
        wanted = asked(samples, one, masks, design, first_row, include_samples, rule, count, pace)
        chosen = self.method_for(method, include_samples or kernel is not None)
        if isinstance(seed, np.ndarray):
            plain = rule is None and kernel is None and wanted.places is None and chosen == "sampled"
            if not plain or not self.mixes_seeds:
                raise InvalidOption.at("seed", "one whole number for all rows expected; see `mixes_seeds`")
            wanted = wanted._replace(seeds=checked_seeds(seed, count))
            kernel = self._kernels.for_rows(MIXED_ROWS, False, None)
        if rule is not None:
            return Steps(stopped(
                self._runner, rows, wanted, rule,
                lambda count: self._kernels.for_remaining(count, wanted.per_row, kernel), self.predict,
            ), self._products)
        if chosen == "sampled":
            return Steps(self._answered(rows, wanted, self._kernels.for_rows(count, wanted.per_row, kernel)),
                         self._products)
        assert self._conditional is not None
        if chosen == "closed_form":
            wanted = wanted._replace(samples=1)
        return Steps(self._answered(rows, wanted, self._conditional, chosen), partial(exact_float32, self._device))

    def _answered(
        self, rows: Inputs, wanted: Asked, kernel: Kernel, method: Method = "sampled"
    ) -> Work[Uncertainty]:
        accumulators = yield from self._runner.accumulated(rows, wanted, kernel, method)
        return self._outputs.answer(accumulators, method, 0 if method == "closed_form" else wanted.samples)

    def reference(
        self, inputs: ExampleInputs, samples: int = 50, seed: int = 0, masks: MaskSharing = "shared",
        design: Design = "balanced",
    ) -> Uncertainty:
        """The same answer the slow way, one eager pass a sample with the same masks: the oracle of the fast path."""
        if self._plan.network is not None:
            return self.uncertainty(inputs, samples, seed, masks, design, include_samples=True)
        rows = self._as_rows(inputs)
        self._check_something_to_sample()
        wanted = asked(samples, seed, masks, design)
        samples, count = wanted.samples, row_count(rows)
        places = np.arange(count) if wanted.per_row else None
        drawn_masks = self._general.drawn(Draw(wanted.design, wanted.seed, 0, samples, samples), places)
        by_name = dict(zip(self._plan.split.masks, drawn_masks, strict=True))
        noise = SiteNoise(self._plan.marks, self._plan.layouts, by_name, count)
        accumulator = self._outputs.accumulator(wanted.design == "balanced", keep=True)
        drawn = [
            self._outputs.read(output_of(
                reference_sample(self._module, rows, self._positional, noise.of_sample(t), noise.off)))
            for t in range(samples)
        ]
        accumulator.add(finite(torch.stack(drawn)).reshape(samples, count, -1))
        return self._outputs.answer([accumulator])

    def tune(self, inputs: ExampleInputs) -> None:
        """Times the kernels on copies of some rows and settles which one serves how many rows."""
        with torch.no_grad(), self._products():
            self._kernels.tune(list(self._as_rows(inputs).values()))

    def predict_reference(self, inputs: ExampleInputs) -> Tensor:
        """The module itself in eval mode: the oracle of `predict`. Row by row where it cannot be captured."""
        if self._plan.network is not None:
            return self.predict(inputs)
        with torch.no_grad(), exact_float32(self._device), plain_attention():
            output = output_of(call(self._module, self._as_rows(inputs), self._positional))
            return self._outputs.located(self._outputs.read(output))

    def differs_with_only(self, name: str, inputs: ExampleInputs, seed: int) -> bool:
        """Whether any of ten samples in which that site alone is on differs from the prediction."""
        rows = self._as_rows(inputs)
        count = row_count(rows)
        if self._plan.network is not None:
            return moves_output(self._plan.network, self._plan.sites, rows, name, seed)
        with torch.no_grad(), exact_float32(self._device):
            values = self._general.split.prefix(*rows.values())
            drawn = self._general.drawn(Draw("balanced", seed, 0, BLOCK, BLOCK), None)
            off = [torch.ones_like(mask) for mask in drawn]
            alone = [
                mask if site == name else one
                for site, mask, one in zip(self._plan.split.masks, drawn, off, strict=True)
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
            values = self._conditional.split.prefix(*rows.values())
            places = np.arange(count) if masks == "independent" else None
            drawn = self._conditional.drawn(Draw("balanced", 0, 0, samples, samples), places)
            return self._conditional.ending, *self._conditional.means(values, count, samples, drawn)

    def _products(self) -> AbstractContextManager[None]:
        """How products of float32 are computed; exact endings and the reference always without TF32."""
        return tf32_products(self._device) if self._plan.tf32 else exact_float32(self._device)

    def _check_something_to_sample(self) -> None:
        if not self.samples_something:
            raise UncertaintyUnavailable("this model has no dropout that could be sampled; only predict is available")

    def _as_rows(self, inputs: ExampleInputs) -> Inputs:
        return self._inputs.checked(inputs, self._device)
