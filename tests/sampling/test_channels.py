"""A convolution of masked channels as sums of partial maps is the convolution of every sample's masked input."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service import native
from service.errors import UnservableModel
from service.sampling import Sampler, prepare
from service.sampling.device import lacks_bfloat16
from service.sampling.kernels import Folded, Kernel
from service.sampling.partial_maps import Geometry, MaskedConvolution

needs_library = pytest.mark.skipif(native.library() is None, reason="the native library was not built")
SUMS = "channel sums"
Pair = tuple[int, int]


@dataclass
class Case:
    """A random convolution, rows for it, and masks: of all rows together, or of each."""

    geometry: Geometry
    weight: Tensor
    bias: Tensor | None
    relu: bool
    value: Tensor
    mask: Tensor
    after: Tensor | None

    def made(self, lanes: int | None = None) -> MaskedConvolution:
        return MaskedConvolution(self.weight, self.bias, self.geometry, self.relu, lanes)

    def expected(self) -> Tensor:
        """One sample at a time, in float64: the oracle."""
        g, bias = self.geometry, None if self.bias is None else self.bias.double()
        outputs = []
        for t, mask in enumerate(self.mask.double()):
            y = F.conv2d(self.value.double() * mask, self.weight.double(), bias, g.stride, g.padding, g.dilation)
            y = y.relu() if self.relu else y
            y = y if g.pool == (1, 1) else F.max_pool2d(y, g.pool)
            outputs.append(y if self.after is None else y * self.after[t].double())
        return torch.cat(outputs)


def masks(generator: torch.Generator, samples: int, rows: int, channels: int, p: float) -> Tensor:
    return (torch.rand(samples, rows, channels, 1, 1, generator=generator) >= p).float() / (1 - p)


def case(seed: int, channels: int | None = None) -> Case:
    """channels: drawn by default."""
    pick, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def pair(*choices: int) -> Pair:
        return pick.choice(choices), pick.choice(choices)

    geometry = Geometry(pair(1, 2, 3, 5), pair(1, 2, 3), pair(0, 1, 2), pair(1, 2),
                        pick.choice([(1, 1), (2, 2), (1, 2), (2, 1), (4, 1)]))
    reach = [d * (k - 1) + 1 + s * (q - 1) for k, s, d, q in
             zip(geometry.kernel, geometry.stride, geometry.dilation, geometry.pool, strict=True)]
    height, width = (n + pick.randrange(9) for n in reach)
    drawn, outputs = pick.choice([1, 3, 8, 33]), pick.choice([1, 4, 16, 19, 40])
    channels = channels or drawn
    rows, samples = pick.choice([1, 3]), pick.choice([1, 10, 23])
    value = torch.randn(rows, channels, height, width, generator=generator)
    if pick.random() < 0.5:
        value = value.to(memory_format=torch.channels_last)
    own = pick.choice([1, rows])
    return Case(
        geometry, torch.randn(outputs, channels, *geometry.kernel, generator=generator),
        torch.randn(outputs, generator=generator) if pick.random() < 0.7 else None, pick.random() < 0.5, value,
        masks(generator, samples, own, channels, pick.choice([0.1, 0.5, 0.9])),
        masks(generator, samples, own, outputs, 0.3) if pick.random() < 0.5 else None,
    )


def allowed(drawn: Case) -> float:
    scale = drawn.value.abs().max() * drawn.weight.flatten(1).norm(dim=1).max() * drawn.mask.max().clamp_min(1)
    return 2e-6 * float(scale) + 1e-7


def hold(drawn: Case) -> None:
    expected = drawn.expected()
    for lanes in (8, None):
        found = drawn.made(lanes)(drawn.value, drawn.mask, drawn.after)
        assert found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, atol=allowed(drawn), rtol=0)


@needs_library
@pytest.mark.parametrize("seed", range(60))
def test_sums_of_partial_maps_are_the_convolution_of_each_sample(seed) -> None:
    hold(case(seed))


@needs_library
@pytest.mark.parametrize("channels", range(1, 8))
def test_channels_need_not_fill_the_last_of_the_groups_that_are_summed_together(channels) -> None:
    for seed in range(2000, 2006):
        hold(case(seed, channels))


@needs_library
@pytest.mark.parametrize("factor", [1e3, 1e6])
@pytest.mark.parametrize("large", range(8))
def test_a_channel_far_larger_than_the_others_leaves_no_rounding_in_samples_that_drop_it(factor, large) -> None:
    drawn = case(3000 + large, channels=8)
    drawn.value[:, large] = 0
    within, size = allowed(drawn), drawn.value.abs().max()
    drawn.value[:, large] = factor * size
    drawn.mask[::2, :, large] = 0
    found = drawn.made()(drawn.value, drawn.mask, drawn.after).unflatten(0, (len(drawn.mask), -1))
    expected = drawn.expected().unflatten(0, (len(drawn.mask), -1))
    torch.testing.assert_close(found[::2].double(), expected[::2], atol=within, rtol=0)


@needs_library
@pytest.mark.parametrize("factor", [1e3, 1e6])
@pytest.mark.parametrize("task", ["classification", "generic"])
def test_a_channel_far_larger_than_the_others_leaves_mean_and_std_as_the_general_kernel_has_them(factor, task) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout2d(0.3), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    rows = torch.randn(6, 3, 6, 6)
    sampler = prepare(net, rows, task=task)
    rows[:, 1] *= factor
    general = sampler.kernels[0]
    assert type(general) is Folded
    sums, folded = (
        sampler.uncertainty(rows, 50, 3, kernel=kernel, method="sampled") for kernel in (kernel_of(sampler), general)
    )
    for found, expected in ((sums.mean, folded.mean), (sums.std, folded.std)):
        torch.testing.assert_close(found, expected, atol=2e-6 * float(expected.abs().max()), rtol=0)


@needs_library
@pytest.mark.parametrize("seed", range(20))
def test_a_row_and_a_sample_give_the_same_bits_alone_and_in_company_on_one_thread_and_on_two(seed) -> None:
    drawn = case(1000 + seed)
    run, rows, samples = drawn.made(), len(drawn.value), len(drawn.mask)
    whole = run(drawn.value, drawn.mask, drawn.after).unflatten(0, (samples, rows))
    for row in range(rows):
        own = slice(row, row + 1) if drawn.mask.shape[1] > 1 else slice(None)
        after = None if drawn.after is None else drawn.after[:, own]
        assert torch.equal(run(drawn.value[row : row + 1], drawn.mask[:, own], after), whole[:, row])
    for part in (slice(0, samples // 2), slice(samples // 2, samples)):
        after = None if drawn.after is None else drawn.after[part]
        if len(drawn.mask[part]):
            assert torch.equal(run(drawn.value, drawn.mask[part], after), whole[part].flatten(0, 1))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(run(drawn.value, drawn.mask, drawn.after), whole.flatten(0, 1))
    finally:
        torch.set_num_threads(threads)


@needs_library
@pytest.mark.parametrize("p", [0.1, 0.9])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_seen_in_every_sample_even_where_its_channel_is_dropped(p, wrong) -> None:
    value = torch.randn(1, 8, 4, 4)
    value[0, 3, 1, 2] = wrong
    generator = torch.Generator().manual_seed(0)
    for pool in ((1, 1), (2, 2), (2, 1)):
        run = MaskedConvolution(torch.ones(5, 8, 3, 3), None, Geometry((3, 3), (1, 1), (1, 1), (1, 1), pool), True)
        found = run(value, masks(generator, 20, 1, 8, p))
        assert not bool(found.isfinite().flatten(1).all(1).any())


class Net(nn.Module):
    """A convolution, a site over channels, and another convolution, with what may stand between."""

    def __init__(self, p: float, normed: bool = True, relu: bool = True, pool: int = 2, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.drop = nn.Conv2d(1, 12, 3, padding=1), nn.Dropout2d(p)
        self.second = nn.Conv2d(12, 20, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2), bias=bias)
        self.norm = nn.BatchNorm2d(20) if normed else nn.Identity()
        if normed:
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
        self.relu, self.pool = nn.ReLU() if relu else nn.Identity(), nn.MaxPool2d(pool) if pool > 1 else nn.Identity()
        self.again, self.head = nn.Dropout2d(0.2), nn.LazyLinear(5)
        self.eval()
        self(torch.zeros(1, 1, 8, 13))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.pool(self.relu(self.norm(self.second(self.drop(self.first(x).tanh())))))
        return self.head(self.again(hidden).flatten(1))


X = torch.randn(7, 1, 8, 13, generator=torch.Generator().manual_seed(0))


def kernel_of(sampler: Sampler) -> Kernel:
    return {kernel.name: kernel for kernel in sampler.kernels}[SUMS]


@needs_library
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("options", [
    {}, {"normed": False}, {"relu": False, "bias": False}, {"pool": 1}, {"normed": False, "relu": False, "pool": 3},
])
@pytest.mark.parametrize("sharing", ["shared", "independent"])
def test_a_network_gives_what_the_reference_gives_rows_alone_and_in_any_chunks_too(
    p, options, sharing, monkeypatch
) -> None:
    sampler = prepare(Net(p, **options), X, task="classification")
    kernel = kernel_of(sampler)
    found = sampler.uncertainty(X, 30, 3, sharing, include_samples=True, kernel=kernel)
    torch.testing.assert_close(found.draws, sampler.reference(X, 30, 3, sharing).draws, atol=2e-6, rtol=0)
    alone = sampler.uncertainty(X[:1], 30, 3, sharing, include_samples=True, kernel=kernel)
    torch.testing.assert_close(alone.draws, found.draws[:1], atol=1e-6, rtol=0)
    monkeypatch.setattr(kernel, "working_set_bytes", 1)
    monkeypatch.setattr(kernel, "rows", 3)
    chunked = sampler.uncertainty(X, 30, 3, sharing, include_samples=True, kernel=kernel)
    torch.testing.assert_close(chunked.draws, found.draws, atol=1e-6, rtol=0)


@needs_library
def test_a_row_that_stops_early_has_the_answer_of_its_number_of_samples() -> None:
    net = Net(0.3)
    with torch.no_grad():
        net.head.weight *= 8  # some rows are certain
    sampler = prepare(net, X, task="classification")
    kernel = kernel_of(sampler)
    rows = X * torch.linspace(0.01, 3, len(X)).view(-1, 1, 1, 1)
    stopped = sampler.uncertainty(rows, 400, tolerance=0.1, kernel=kernel)
    counts = stopped.samples_per_row
    assert len(set(counts.tolist())) > 1
    for row, count in enumerate(counts.tolist()):
        own = sampler.uncertainty(rows[row : row + 1], count, design="iid", kernel=kernel)
        torch.testing.assert_close(stopped.mean[row], own.mean[0], atol=1e-6, rtol=0)


class Read(nn.Module):
    """A site between two convolutions, and `after` behind them."""

    def __init__(self, site: nn.Module, second: nn.Module, *after: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.site, self.second = nn.Conv2d(1, 8, 3), site, second
        self.after = nn.Sequential(*after, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(3))
        self.eval()
        self(torch.zeros(1, 1, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.second(self.site(self.first(x).tanh())))


IMAGES = torch.randn(5, 1, 12, 12, generator=torch.Generator().manual_seed(4))


@needs_library
@pytest.mark.parametrize("after", [
    [nn.MaxPool2d(3, 1)], [nn.MaxPool2d(2, padding=1)], [nn.MaxPool2d(2, ceil_mode=True)], [nn.MaxPool2d(3)],
    [nn.MaxPool2d(2, dilation=2)], [nn.LeakyReLU(0.1), nn.MaxPool2d(2)], [nn.ReLU(), nn.Dropout(0.2)],
    [nn.MaxPool2d(2), nn.ReLU(), nn.FeatureAlphaDropout(0.2)], [nn.Dropout2d(0.2), nn.Conv2d(6, 4, 3)],
])
def test_what_cannot_be_done_with_the_sums_is_done_after_them(after) -> None:
    sampler = prepare(Read(nn.Dropout2d(0.3), nn.Conv2d(8, 6, 3), *after), IMAGES, task="generic")
    found = sampler.uncertainty(IMAGES, 30, 3, include_samples=True, kernel=kernel_of(sampler))
    expected = sampler.reference(IMAGES, 30, 3).draws
    torch.testing.assert_close(found.draws, expected, atol=2e-6 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize(("site", "second"), [
    (nn.Dropout2d(0.3), nn.Conv2d(8, 6, 3, groups=2)), (nn.Dropout(0.3), nn.Conv2d(8, 6, 3)),
    (nn.FeatureAlphaDropout(0.3), nn.Conv2d(8, 6, 3)), (nn.Dropout2d(0.3), nn.ConvTranspose2d(8, 6, 3)),
])
def test_other_sites_and_convolutions_run_as_they_are(site, second) -> None:
    sampler = prepare(Read(site, second), IMAGES, task="generic")
    assert [type(kernel) for kernel in sampler.kernels] == [Folded]


def test_without_the_library_the_network_runs_on_torch_and_gives_the_same(monkeypatch) -> None:
    with_library = prepare(Net(0.3), X, task="classification").uncertainty(X, 30, 3)
    monkeypatch.setattr(native, "library", lambda: None)
    sampler = prepare(Net(0.3), X, task="classification")
    assert [type(kernel) for kernel in sampler.kernels] == [Folded]
    torch.testing.assert_close(sampler.uncertainty(X, 30, 3).std, with_library.std, atol=1e-6, rtol=0)


@needs_library
def test_a_kernel_that_is_wrong_where_the_general_one_is_right_is_left_out_and_the_plan_says_so(monkeypatch) -> None:
    right = MaskedConvolution.forward
    monkeypatch.setattr(MaskedConvolution, "forward", lambda *given: right(*given) * 1.01)
    sampler = prepare(Net(0.3), X, task="classification")
    assert [type(kernel) for kernel in sampler.kernels] == [Folded]
    assert sampler.serves_from == [(1, sampler.kernels[0])]
    (note,) = sampler.described().notes
    assert note.startswith(f"{SUMS}: left out: on the example rows with shared masks it is ")
    torch.testing.assert_close(
        sampler.uncertainty(X, 30, 3, include_samples=True).draws, sampler.reference(X, 30, 3).draws, atol=2e-6, rtol=0
    )


@needs_library
def test_the_plan_shows_the_kernel_and_its_timing() -> None:
    shown = prepare(Net(0.3), X, task="classification").described().as_dict()
    assert SUMS in [kernel["name"] for kernel in shown["kernels"]]
    assert shown["timings"]
    assert all(timing["microseconds_a_sample"][SUMS] > 0 for timing in shown["timings"])


@needs_library
@pytest.mark.skipif(bool(lacks_bfloat16(torch.device("cpu"))), reason="the CPU has no fast bfloat16")
def test_in_bfloat16_the_sums_stay_float32_and_only_the_layer_that_reads_them_is_rounded(monkeypatch) -> None:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(12, 20, 3), nn.MaxPool2d(2),
                        nn.Flatten(), nn.Linear(20 * 2 * 4, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 5))
    exact, lowered = (prepare(net, X, "classification", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert lowered.dtype == "bfloat16"
    assert [kernel.name for kernel in lowered.kernels] == [SUMS]
    monkeypatch.setattr(native, "library", lambda: None)
    on_torch = prepare(net, X, "classification", dtype="bfloat16")
    for sharing in ("shared", "independent"):
        true = exact.reference(X, 30, 3, sharing).std
        sums, folded = ((way.uncertainty(X, 30, 3, sharing).std - true).abs().mean() for way in (lowered, on_torch))
        assert 1e-6 < sums < folded
    stopped = lowered.uncertainty(X, 200, tolerance=0.05)
    torch.testing.assert_close(stopped.mean, exact.uncertainty(X, 200, tolerance=0.05).mean, atol=0.02, rtol=0)


@needs_library
@pytest.mark.skipif(bool(lacks_bfloat16(torch.device("cpu"))), reason="the CPU has no fast bfloat16")
def test_in_bfloat16_a_network_with_more_products_behind_the_sums_has_all_of_them_in_bfloat16() -> None:
    net = Read(nn.Dropout2d(0.3), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3))
    assert SUMS in [kernel.name for kernel in prepare(net, IMAGES, "generic").kernels]
    assert [kernel.name for kernel in prepare(net, IMAGES, "generic", dtype="bfloat16").kernels] == ["folded"]


@needs_library
@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_a_kernel_that_is_wrong_with_one_kind_of_masks_only_or_gives_no_number_is_left_out(monkeypatch, masks) -> None:
    right = MaskedConvolution.forward

    def wrong(self: MaskedConvolution, value: Tensor, mask: Tensor, after: Tensor | None = None) -> Tensor:
        found = right(self, value, mask, after)
        return found * float("nan") if (mask.shape[1] == 1) == (masks == "shared") else found

    monkeypatch.setattr(MaskedConvolution, "forward", wrong)
    sampler = prepare(Net(0.3), X, task="classification")
    assert [type(kernel) for kernel in sampler.kernels] == [Folded]
    (note,) = sampler.described().notes
    assert f"with {masks} masks it is inf" in note


@needs_library
@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_general_kernel_that_is_wrong_with_independent_masks_is_refused(monkeypatch, wrong) -> None:
    """Whichever kernel may come to serve them."""
    right = Folded.run

    def run(self: Folded, values: list[Tensor], rows: int, samples: int, drawn: list[Tensor]) -> Tensor:
        found = right(self, values, rows, samples, drawn)
        return found * wrong if type(self) is Folded and drawn[0].shape[1] > 1 else found

    monkeypatch.setattr(Folded, "run", run)
    with pytest.raises(UnservableModel, match="with independent masks the fast path differs"):
        prepare(Net(0.3), X, task="generic")


@needs_library
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_sums_of_anything_but_float32_are_refused_before_memory_is_read(dtype) -> None:
    drawn = case(7)
    run = drawn.made()
    with pytest.raises(TypeError, match="float32 expected"):
        run(drawn.value.to(dtype), drawn.mask)
    with pytest.raises(TypeError, match="float32 expected"):
        run(drawn.value, drawn.mask.to(dtype))
    with pytest.raises(TypeError, match="float32 expected"):
        MaskedConvolution(drawn.weight.to(dtype), None, drawn.geometry, True)


class PlainWeight(nn.Module):
    """A weight that is neither parameter nor buffer, which keeps its type when the network is cast to float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.site, self.head = nn.Conv2d(1, 8, 3), nn.Dropout2d(0.3), nn.Linear(600, 2)
        self.plain = torch.randn(6, 8, 3, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        summed = F.conv2d(self.site(self.first(x).double()), self.plain, padding=1)
        return self.head(summed.flatten(1).float())


@needs_library
def test_a_convolution_of_float64_runs_as_it_is() -> None:
    sampler = prepare(PlainWeight(), IMAGES, task="regression")
    assert [type(kernel) for kernel in sampler.kernels] == [Folded]
    assert not sampler.described().notes


DEGENERATE = """
import torch
from torch import nn
from service.sampling import prepare

class Net(nn.Module):
    '''Beside the output, a convolution of which some windows lie in padding alone.'''
    def __init__(self, conv):
        super().__init__()
        self.one, self.drop, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Dropout2d(0.3), nn.Conv2d(4, 8, 1)
        self.conv = conv
    def forward(self, x):
        hidden = self.two(self.drop(self.one(x))).relu()
        return torch.cat([hidden.flatten(1), self.conv(hidden).flatten(1)], 1)

for conv, size in ((nn.Conv2d(8, 5, (2, 1), 3, (1, 2), (1, 2)), (5, 1)),
                   (nn.Conv2d(8, 5, (2, 2), (3, 2), (2, 3), (2, 2)), (2, 1))):
    sampler, rows = prepare(Net(conv), torch.randn(8, 3, *size), task="generic"), torch.randn(64, 3, *size)
    for kernel in sampler.kernels:
        found = sampler.uncertainty(rows, kernel=kernel, include_samples=True).draws
        assert torch.allclose(found, sampler.reference(rows).draws, atol=1e-5)
"""


@needs_library
def test_sums_are_not_given_to_a_convolution_of_which_a_window_lies_in_padding_alone() -> None:
    """It would end the process, so it runs in one of its own."""
    ran = subprocess.run([sys.executable, "-c", DEGENERATE], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
