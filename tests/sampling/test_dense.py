"""Chains of linear layers: every kernel gives what masks give."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service import native
from service.clock import ManualClock
from service.errors import InvalidOption, ModelFailed
from service.sampling import Sampler, prepare
from service.sampling.bank import Draw
from service.sampling.kernels import Kernel, fastest_from

X = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))


def chain(*activations: nn.Module, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(2)
    layers: list[nn.Module] = [nn.Linear(12, 24), nn.Tanh()]
    for activation, p in zip(activations, (0.5, 0.05, 0.9), strict=False):
        layers += [nn.Dropout(p), nn.Linear(24, 24, bias=bias), activation]
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(24, 4, bias=bias))


class Offset(nn.Module):
    """A head with an offset and a scale of its own, and a constant inside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.drop = nn.Linear(12, 20), nn.Linear(20, 3), nn.Dropout(0.4)
        self.register_buffer("scale", torch.tensor([1.0, 20.0, 300.0]))
        self.register_buffer("offset", torch.tensor([-5.0, 0.0, 1000.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.drop(self.first(x).sigmoid() * 2)) * self.scale + self.offset


class Branch(nn.Module):
    """Not a chain: what the site gives is read twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second, self.drop = nn.Linear(12, 12), nn.Linear(12, 12), nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.first(x))
        return h + self.second(h)


class PerFeature(nn.Module):
    """A constant for every unit of a layer that is cut down."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second, self.drop = nn.Linear(12, 12), nn.Linear(12, 3), nn.Dropout(0.4)
        self.register_buffer("slope", torch.arange(12.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.drop(self.first(self.drop(x)) * self.slope))


def kernel_of(sampler: Sampler, name: str) -> Kernel:
    if name == "sparse" and native.library() is None:
        pytest.skip("the native library was not built here")
    return next(kernel for kernel in sampler.kernels if kernel.name == name)


@pytest.mark.parametrize("design", ["balanced", "iid"])
@pytest.mark.parametrize(
    "net",
    [chain(), chain(nn.ReLU()), chain(nn.ReLU(), nn.GELU(), nn.LeakyReLU(0.2)), chain(nn.SiLU(), bias=False),
     chain(nn.Softplus(), nn.ELU()), chain(nn.Hardtanh(), nn.Mish()), Offset()],
    ids=["one site", "two", "four", "no bias", "never zero", "bounded", "offset"],
)
@pytest.mark.parametrize("name", ["folded", "thinned", "stacked"])
def test_a_chain_gives_what_one_eager_pass_a_sample_gives(name, net, design) -> None:
    sampler = prepare(net, X, task="regression")
    fast = sampler.uncertainty(X, 70, seed=3, design=design, include_samples=True, kernel=kernel_of(sampler, name))
    slow = sampler.reference(X, 70, seed=3, design=design)
    scale = float(slow.draws.abs().max())
    torch.testing.assert_close(fast.draws, slow.draws, atol=2e-6 * scale, rtol=0)


def test_a_folded_chain_has_masks_for_each_row_where_they_are_independent() -> None:
    sampler = prepare(chain(nn.ReLU()), X, task="classification")
    fast = sampler.uncertainty(X, 30, seed=3, masks="independent", include_samples=True)
    slow = sampler.reference(X, 30, seed=3, masks="independent")
    torch.testing.assert_close(fast.draws, slow.draws, atol=1e-6, rtol=0)


@pytest.mark.parametrize("net", [Branch(), PerFeature(), nn.Sequential(nn.Conv1d(1, 2, 3), nn.Dropout(), nn.Flatten(),
                                 nn.Linear(20, 3))], ids=["branch", "per feature", "three axes"])
def test_what_is_no_chain_is_folded(net) -> None:
    x = X.unsqueeze(1) if isinstance(net, nn.Sequential) else X
    assert [k.name for k in prepare(net, x, task="regression").kernels] == ["folded"]


def test_a_chain_too_wide_for_its_thinned_weights_is_not_thinned() -> None:
    net = nn.Sequential(nn.Linear(12, 700), nn.ReLU(), nn.Dropout(), nn.Linear(700, 700), nn.Dropout(),
                        nn.Linear(700, 2))
    assert {k.name for k in prepare(net, X, task="regression").kernels} <= {"folded", "sparse"}


@pytest.mark.parametrize("name", ["folded", "thinned", "stacked", "sparse"])
def test_a_sample_that_drops_every_unit_gives_the_bias(name) -> None:
    net = nn.Sequential(nn.Linear(12, 2), nn.Dropout(0.9), nn.Linear(2, 3))
    sampler = prepare(net, X, task="regression")
    draws = sampler.uncertainty(X, 200, include_samples=True, kernel=kernel_of(sampler, name)).draws
    at_bias = (draws - net[2].bias).abs().amax(-1) < 1e-6
    assert 0.5 < at_bias.float().mean() < 1  # 0.9 of the units at a time: 0.81 of the samples


@pytest.mark.parametrize("name", ["thinned", "stacked", "sparse"])
def test_a_row_alone_equals_itself_in_company_whichever_kernels_serve(name) -> None:
    net = chain(nn.ReLU())
    sampler = prepare(net, X, task="classification")
    many = torch.randn(300, 12, generator=torch.Generator().manual_seed(1))
    sampler.serves_from[:] = [(1, kernel_of(sampler, "folded")), (2, kernel_of(sampler, name))]
    company = sampler.uncertainty(many, 50, seed=8)
    for i in (0, 127, 128, 299):
        alone = sampler.uncertainty(many[i : i + 1], 50, seed=8)
        torch.testing.assert_close(alone.mean[0], company.mean[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.std[0], company.std[i], atol=1e-6, rtol=0)


@pytest.mark.parametrize("widths", [(1, 1, 1), (15, 16, 17), (31, 32, 33), (48, 130, 10), (300, 65, 2)])
@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_layers_of_any_width_run_sparse(widths, masks) -> None:
    torch.manual_seed(6)
    a, b, c = widths
    net = nn.Sequential(nn.Linear(12, a), nn.ReLU(), nn.Dropout(0.5), nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.1),
                        nn.Linear(b, b, bias=False), nn.Dropout(0.9), nn.Linear(b, c))
    sampler = prepare(net, X, task="regression")
    kernel = kernel_of(sampler, "sparse")
    fast = sampler.uncertainty(X, 50, seed=3, masks=masks, include_samples=True, kernel=kernel)
    slow = sampler.reference(X, 50, seed=3, masks=masks)
    torch.testing.assert_close(fast.draws, slow.draws, atol=2e-6 * float(slow.draws.abs().max()), rtol=0)


def test_a_row_that_runs_sparse_has_the_same_bits_in_any_company() -> None:
    sampler = prepare(chain(nn.ReLU()), X, task="regression")
    kernel = kernel_of(sampler, "sparse")
    (values,) = kernel.split.prefix(torch.randn(600, 12, generator=torch.Generator().manual_seed(1)))
    drawn = kernel.drawn(Draw("balanced", 8, 0, 50, 50), None)
    company = kernel.run([values], 600, 50, drawn)
    for i in (0, 1, 599):
        assert torch.equal(kernel.run([values[i : i + 1]], 1, 50, drawn)[:, 0], company[:, i])


def test_rows_of_several_seeds_that_run_together_have_the_bits_of_each_seed() -> None:
    sampler = prepare(chain(nn.ReLU()), X, task="classification")
    sampler.serves_from[:] = [(1, kernel_of(sampler, "sparse"))]
    many = torch.randn(300, 12, generator=torch.Generator().manual_seed(1))
    seeds = torch.randint(0, 5, (300,), generator=torch.Generator().manual_seed(2)).numpy()
    together = sampler.uncertainty(many, 130, seed=seeds, include_samples=True)
    for seed in range(5):
        expected, rows = sampler.uncertainty(many, 130, seed=seed, include_samples=True), seeds == seed
        for name in ("draws", "mean", "std", "mean_se", "std_se", "entropy", "mutual_information"):
            assert torch.equal(getattr(together, name)[rows], getattr(expected, name)[rows])


@pytest.mark.parametrize(("serves", "mixes"), [
    ([(1, "sparse"), (9, "folded")], True), ([(1, "folded"), (4, "thinned"), (8, "sparse")], True),
    ([(1, "sparse"), (8, "thinned")], False),
])
def test_seeds_share_a_pass_where_a_few_rows_are_served_each_by_itself(serves, mixes) -> None:
    sampler = prepare(chain(nn.ReLU()), X, task="classification")
    sampler.serves_from[:] = [(rows, kernel_of(sampler, name)) for rows, name in serves]
    assert sampler.mixes_seeds == mixes
    seeds = np.array([5, 3, 5, 0, 0, 0, 1, 9, 5])
    if not mixes:
        with pytest.raises(InvalidOption, match="mixes_seeds"):
            sampler.uncertainty(X, 20, seed=seeds)
        return
    together = sampler.uncertainty(X, 20, seed=seeds)
    for i in range(len(X)):
        alone = sampler.uncertainty(X[i : i + 1], 20, seed=int(seeds[i]))
        torch.testing.assert_close(together.mean[i], alone.mean[0], atol=1e-6, rtol=0)


def test_the_reference_has_one_seed() -> None:
    with pytest.raises(InvalidOption, match="seed"):
        prepare(chain(nn.ReLU()), X, task="classification").reference(X, 20, np.zeros(9, np.int64))


@pytest.mark.parametrize(("seeds", "options"), [
    (np.zeros(8, np.int64), {}), (np.zeros(9, np.int32), {}), (np.full(9, -1), {}), (np.full(9, 2**53), {}),
    (np.arange(9), {"masks": "independent"}), (np.arange(9), {"tolerance": 0.1}), (np.arange(9), {"kernel": "thinned"}),
])
def test_seeds_of_rows_are_refused_where_they_are_none_or_cannot_run_together(seeds, options) -> None:
    sampler = prepare(chain(nn.ReLU()), X, task="classification")
    sampler.serves_from[:] = [(1, kernel_of(sampler, "sparse"))]
    assert sampler.uncertainty(X, 20, seed=np.arange(9)).samples == 20
    if "kernel" in options:
        options = {"kernel": kernel_of(sampler, options["kernel"])}
    with pytest.raises(InvalidOption, match="seed"):
        sampler.uncertainty(X, 20, seed=seeds, **options)


def test_only_relu_stands_between_layers_that_run_sparse() -> None:
    names = [[k.name for k in prepare(chain(act), X, task="regression").kernels] for act in (nn.ReLU(), nn.GELU())]
    assert "sparse" not in names[1]
    assert "sparse" in names[0] or native.library() is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_unit_that_is_no_number_is_not_hidden_where_it_is_dropped(bad) -> None:
    sampler = prepare(nn.Sequential(nn.Identity(), nn.Dropout(0.9), nn.Linear(12, 3)), X, task="classification")
    kernel = kernel_of(sampler, "sparse")
    values = X.clone()
    values[4, 2] = bad
    outputs = kernel.run([values], len(X), 20, kernel.drawn(Draw("iid", 1, 0, 20, 20), None))
    assert outputs[:, 4].isnan().all()
    assert outputs[:, :4].isfinite().all()
    with pytest.raises(ModelFailed):
        sampler.uncertainty(values, 2, design="iid", kernel=kernel)


def overflowing(activation: nn.Module) -> nn.Module:
    """A row of large numbers makes one unit of many infinite, and what follows makes a finite number of that."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 8), activation, nn.Dropout(0.5),
                        nn.Linear(8, 3))
    with torch.no_grad():
        net[0].weight.fill_(0.01)
        net[0].weight[63] = 40
        net[0].bias.fill_(1.0)
        net[3].weight.copy_(-net[3].weight.abs())
        net[3].bias.fill_(5.0)
    return net


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid(), nn.Hardtanh()], ids=["relu", "sigmoid", "hardtanh"])
@pytest.mark.parametrize("name", ["folded", "thinned", "stacked", "sparse"])
def test_a_unit_that_overflows_fails_whatever_hides_it_later_and_in_whichever_kernel(name, activation) -> None:
    if name == "sparse" and not isinstance(activation, nn.ReLU):
        pytest.skip("it runs ReLU only")
    sampler = prepare(overflowing(activation), torch.randn(4, 2), task="classification")
    kernel, rows = kernel_of(sampler, name), torch.tensor([[1.0, 1.0], [3e37, 3e37]])
    for some in (rows, rows[1:]):
        for samples in (2, 50):
            with pytest.raises(ModelFailed):
                sampler.uncertainty(some, samples, design="iid", kernel=kernel)
    assert bool(sampler.uncertainty(rows[:1], 50, kernel=kernel).mean.isfinite().all())


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_whether_a_row_fails_is_the_same_in_every_kernel_at_the_bound_too(factor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    sampler = prepare(net, X, task="classification")
    kernels = [kernel for kernel in sampler.kernels if kernel.name != "folded"]
    rows = torch.zeros(3, 12)
    rows[1, 4] = -factor * sampler._plan.chain.largest
    for kernel in [sampler.kernels[0], *kernels]:
        drawn = kernel.drawn(Draw("balanced", 0, 0, 20, 20), None)
        fine = kernel.run([rows], 3, 20, drawn).isfinite().flatten(2).all(-1).all(0)
        assert fine.tolist() == [True, factor < 1, True]


def test_units_of_a_usual_size_are_far_from_the_bound() -> None:
    chains = [prepare(net, X, task="generic")._plan.chain for net in (chain(nn.ReLU(), nn.GELU()), Offset())]
    assert all(found.largest > 1e30 for found in chains)


class PlainWeight(nn.Module):
    """A weight that is neither parameter nor buffer, which keeps its type when the network is cast to float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.drop, self.plain = nn.Linear(12, 24), nn.Dropout(0.5), torch.randn(3, 24, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.drop(self.first(x).relu().double()), self.plain)


def test_a_layer_of_float64_is_no_chain() -> None:
    sampler = prepare(PlainWeight(), X, task="classification")
    assert [kernel.name for kernel in sampler.kernels] == ["folded"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_rows_of_anything_but_float32_do_not_run_sparse(dtype) -> None:
    kernel = kernel_of(prepare(chain(nn.ReLU()), X, task="regression"), "sparse")
    with pytest.raises(TypeError, match="float32 expected"):
        kernel.run([torch.ones(9, 24, dtype=dtype)], 9, 20, kernel.drawn(Draw("balanced", 0, 0, 20, 20), None))


def test_independent_masks_cannot_be_asked_of_thinned_networks() -> None:
    sampler = prepare(chain(), X, task="classification")
    with pytest.raises(InvalidOption, match="masks of their own"):
        sampler.uncertainty(X, masks="independent", kernel=kernel_of(sampler, "thinned"))


class Timed:
    """A kernel that takes as long as it is told, by a clock that it moves itself."""

    rows, bytes_per_sample, working_set_bytes = 128, 1, 1

    def __init__(self, name: str, clock, seconds) -> None:
        self.name, self._clock, self._seconds = name, clock, seconds

    def drawn(self, draw, places):
        return []

    def run(self, values, rows, samples, drawn):
        self._clock.advance(self._seconds(rows))


@pytest.mark.parametrize(("seconds", "expected"), [
    (lambda rows: 3.0, "aaaabbb"), (lambda rows: 0.01, "bbbbbbb"), (lambda rows: 1e3, "aaaaaaa"),
    (lambda rows: 0.01 if rows != 64 else 1e3, "bbbbbab"),
])
def test_the_kernel_that_was_fastest_at_that_many_rows_serves(seconds, expected) -> None:
    clock = ManualClock()
    kernels = [Timed("a", clock, lambda rows: 0.1 * rows), Timed("b", clock, seconds)]
    timings = fastest_from(kernels, lambda _, rows: [X[:1].expand(rows, -1)], lambda *_: 50, clock)
    assert [timing.rows for timing in timings] == [1, 4, 8, 16, 32, 64, 128]
    assert "".join(timing.fastest.name for timing in timings) == expected
