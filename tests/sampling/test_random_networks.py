"""Laws that hold for every network out of the supported layers, tried on random ones."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, event, given, reject, settings
from torch import Tensor

from service.errors import UnservableModel
from service.sampling import Sampler, prepare, running
from service.sampling.kernels import Kernel
from service.sampling.options import MaskSharing
from tests.sampling.random_networks import Network, networks

EXAMPLES = 12  # a second or two each, most of it torch.export
SAMPLES = 20
KNOWN_TO_RUN_EAGERLY = "Constraints violated"  # torch.export's own, of some axes folded into the rows and unfolded


class Laws:
    """A network, its sampler, and how far two ways to the same numbers may lie apart: a part of the output's scale, or
    of what rounding alone does to this network, if that is more. The latter is told by inputs that differ in their
    last bit: a normalisation of values that are nearly equal makes much of it."""

    def __init__(self, case: Network, sampler: Sampler) -> None:
        self.case, self.sampler = case, sampler
        draws = self.draws()
        self.scale = 1.0 if case.task in ("classification", "multilabel") else float(draws.abs().max())
        nudged = tuple(x * (1 + 2**-23) if x.is_floating_point() else x for x in case.rows)
        self.rounding = max(
            float((self.draws(masks=masks, rows=nudged) - self.draws(masks=masks)).abs().max())
            for masks in ("shared", "independent")
        )

    def draws(
        self, samples: int = SAMPLES, masks: MaskSharing = "shared", kernel: Kernel | None = None,
        rows: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        rows = rows or self.case.rows
        answer = self.sampler.uncertainty(rows, samples, 4, masks, include_samples=True, kernel=kernel)
        assert answer.draws is not None
        return answer.draws

    def hold(self, found: Tensor | None, expected: Tensor | None, within: float, what: str) -> None:
        assert found is not None
        assert expected is not None
        worst, allowed = float((found - expected).abs().max()), max(within * self.scale, 3 * self.rounding)
        assert worst <= allowed, f"{what}: {worst:.3g} apart, {allowed:.3g} allowed at scale {self.scale:.3g}"


def fast_equals_reference(laws: Laws) -> None:
    for masks in ("shared", "independent"):
        for design in ("balanced", "iid"):
            fast, slow = (
                way(laws.case.rows, SAMPLES, 4, masks, design)
                for way in (lambda *given: laws.sampler.uncertainty(*given, include_samples=True),
                            laws.sampler.reference)
            )
            for name in ("draws", "mean", "std"):
                laws.hold(getattr(fast, name), getattr(slow, name), 1e-5, f"{name}, {masks}, {design}")


def alone_equals_in_company(laws: Laws) -> None:
    for kernel in laws.sampler.kernels:
        company = laws.draws(kernel=kernel)
        for i in (0, 6):
            alone = laws.draws(kernel=kernel, rows=tuple(x[i : i + 1] for x in laws.case.rows))
            laws.hold(alone[0], company[i], 1e-6, f"{kernel.name}, row {i} alone")


def fifty_start_a_hundred(laws: Laws) -> None:
    laws.hold(laws.draws(50), laws.draws(100)[:, :50], 1e-6, "T = 50 in T = 100")


def chunking_changes_nothing(laws: Laws) -> None:
    ways: list[tuple[Kernel, MaskSharing]] = [(kernel, "shared") for kernel in laws.sampler.kernels]
    for kernel, masks in [*ways, (laws.sampler.kernels[0], "independent")]:
        whole = laws.draws(30, masks, kernel)
        for rows, prefix_bytes in ((1, 1), (3, 1 << 30), (7, 1)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kernel, "working_set_bytes", 1)
                patch.setattr(kernel, "rows", rows)
                patch.setattr(running, "PREFIX_BYTES", prefix_bytes)
                laws.hold(laws.draws(30, masks, kernel), whole, 1e-6, f"{kernel.name}, {masks}, {rows} rows at once")


def check(case: Network) -> None:
    try:
        sampler = prepare(case.net, case.rows, task=case.task)
    except UnservableModel as e:
        # rightly refused where every unit behind the sites is cut off by a ReLU, say
        if "no site can change the output" not in e.detail:
            raise
        reject()
    for site in sampler.sites:
        event(site.kind)
    if sampler.eager_reason:  # one row and one sample at a time: nothing to compare
        assert KNOWN_TO_RUN_EAGERLY in sampler.eager_reason, sampler.eager_reason
        return
    assert not sampler.described().notes  # no kernel was left out
    laws = Laws(case, sampler)
    for law in (fast_equals_reference, alone_equals_in_company, fifty_start_a_hundred, chunking_changes_nothing):
        law(laws)


@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(networks())
def test_the_laws_of_the_engine_hold_for_random_networks(case: Network) -> None:
    """Fast = reference, alone = in company, any chunking = no chunking, T = 50 the start of T = 100."""
    check(case)
