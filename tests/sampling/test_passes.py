"""Rewrites of a captured graph change its cost, not its answer."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.sampling import prepare
from service.sampling.arming import private_copy
from service.sampling.capture import capture
from service.sampling.marks import drop, site_input

_aten = torch.ops.aten


class Normed(nn.Module):
    """Batch normalisation behind a convolution and behind a linear layer, with statistics that are not the default."""

    def __init__(self, bias: bool, affine: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine)
        self.hidden, self.flat_norm = nn.Linear(64, 8, bias=bias), nn.BatchNorm1d(8, affine=affine)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 3)
        for norm in (self.norm, self.flat_norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv(x)).relu()
        return self.head(self.drop(self.flat_norm(self.hidden(hidden.flatten(1)))))


def graph_of(net: nn.Module, x: Tensor) -> torch.fx.Graph:
    return capture(private_copy(net), {"x": x}, True).graph


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation_goes_into_the_layer_before_it(bias, affine) -> None:
    net, x = Normed(bias, affine), torch.randn(5, 2, 6, 6)
    assert not [n for n in graph_of(net, x).nodes if n.target is _aten.batch_norm.default]
    torch.testing.assert_close(prepare(net, x, task="generic").predict(x), net.eval()(x).detach(), atol=1e-5, rtol=1e-5)


class Shared(nn.Module):
    """What batch normalisation reads is read elsewhere too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)
        self.norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x)
        return self.drop(hidden + self.norm(hidden))


def test_batch_normalisation_of_a_value_that_others_read_stays() -> None:
    net, x = Shared(), torch.randn(5, 2, 6, 6)
    assert [n for n in graph_of(net, x).nodes if n.target is _aten.batch_norm.default]
    torch.testing.assert_close(prepare(net, x, task="generic").predict(x), net.eval()(x).detach(), atol=1e-5, rtol=1e-5)


CHANNELS = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout2d(0.3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(16, 3))
UNITS = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(0.3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
SATURATED = nn.Sequential(nn.Linear(6, 4), nn.AlphaDropout(0.3), nn.ReLU(), nn.Linear(4, 3))


@pytest.mark.parametrize(("net", "shape", "reads"), [
    (CHANNELS, (2, 6, 6), _aten.max_pool2d.default),  # the mask is the same over a channel
    (UNITS, (2, 6, 6), _aten.relu.default),  # a maximum over units that are dropped apart is another one
    (SATURATED, (6,), _aten.linear.default),  # a dropped unit is not 0
])
def test_a_site_moves_behind_what_commutes_with_its_mask_and_no_further(net, shape, reads) -> None:
    x = torch.randn(5, *shape)
    (site,) = [n for n in graph_of(net, x).nodes if n.target is drop]
    assert site_input(site).target is reads
    sampler = prepare(net, x, task="generic")
    fast, slow = sampler.uncertainty(x, 30, method="sampled"), sampler.reference(x, 30)
    torch.testing.assert_close(fast.std, slow.std, atol=1e-5, rtol=1e-5)


def test_the_share_of_operations_that_no_mask_reaches_is_that_of_the_layers_before_the_first_site() -> None:
    net = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10), nn.Dropout(0.5),
                        nn.Linear(10, 5))
    share = prepare(net, torch.randn(3, 30), task="classification").deterministic_flop_share
    assert share == pytest.approx(600 / (600 + 200 + 50))
    recurrent = Two()
    share = prepare(recurrent, torch.randn(3, 4, 6), task="generic").deterministic_flop_share
    first, second, head = 4 * 8 * (6 + 8), 4 * 8 * (8 + 8), 8 * 2 / 4
    assert share == pytest.approx(first / (first + second + head), rel=0.01)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(6, 8, 2, dropout=0.3, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_give_channels_last_those_of_a_single_channel_too(channels) -> None:
    x = torch.randn(2, channels, 8, 8)
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.3))
    captured = capture(private_copy(net), {"x": x}, True)
    weight = next(n for n in captured.graph.nodes if n.target is _aten.conv2d.default).args[1]
    made = torch.conv2d(x, getattr(captured.root, weight.target))
    assert made.stride()[1] == 1


def normed_again(linear: nn.Module, mean: Tensor, variance: Tensor, gains: list[Tensor]) -> nn.Module:
    class Twice(nn.Module):
        """One layer's outputs, normalised in two ways."""

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.drop, self.head = linear, nn.Dropout(0.3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            one, other = (torch.nn.functional.batch_norm(self.linear(x), mean, variance, gain) for gain in gains)
            return self.head(self.drop(one * other))

    return Twice()


def test_a_layer_that_is_normalised_in_two_ways_keeps_both() -> None:
    torch.manual_seed(4)
    net = normed_again(nn.Linear(4, 6), torch.randn(6), torch.rand(6) + 0.5, [torch.randn(6), torch.randn(6)])
    x = torch.randn(5, 4)
    sampler = prepare(net, x, task="regression")
    torch.testing.assert_close(sampler.predict(x), sampler.predict_reference(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation", "last"), [
    ((8, 8), 3, 1, 1, 1, True), ((8, 8), (3, 5), (2, 1), (1, 2), 1, True), ((8, 8), 3, 1, 2, 2, True),
    ((2, 1), (2, 2), (3, 2), (2, 3), (2, 2), False), ((5, 1), (2, 1), 3, (1, 2), (1, 2), False),
    ((4, 1), 2, 1, 1, 2, False), ((6, 6), 3, 1, "same", 1, False), ((1, 1), 2, 1, "same", 2, False),
])
def test_convolutions_are_channels_last_unless_a_window_lies_in_padding_alone(
    size, kernel, stride, padding, dilation, last
) -> None:
    conv = nn.Conv2d(3, 5, kernel, stride, padding, dilation)
    graph = graph_of(nn.Sequential(conv, nn.Dropout2d(0.3), nn.Flatten()), torch.randn(4, 3, *size))
    (weight,) = (getattr(graph.owning_module, str(n.args[1].target)) for n in graph.nodes
                 if n.target in (_aten.conv2d.default, _aten.conv2d.padding))
    assert (weight.stride(1) == 1) == last


class PoolsChannels(nn.Module):
    """A pool over one axis more than its input has behind rows and channels: for torch the rows are then channels, and
    the channels are pooled."""

    def __init__(self, conv: nn.Module, drop: nn.Module, pool: nn.Module, features: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.drop, self.pool, self.head = conv, drop, pool, nn.Linear(features, 1)
        with torch.no_grad():
            conv.weight.mul_(0.1)
            conv.bias.fill_(1)

    def behind(self, dropped: Tensor) -> Tensor:
        return self.head(self.pool(dropped).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.drop(self.conv(x)))


def line(pool: nn.Module, features: int) -> tuple[nn.Module, tuple[int, ...]]:
    return PoolsChannels(nn.Conv1d(1, 4, 3, padding=1), nn.Dropout1d(0.5), pool, features), (1, 8)


@pytest.mark.parametrize(("net", "shape"), [
    line(nn.AvgPool2d((4, 1)), 8), line(nn.MaxPool2d((4, 1)), 8), line(nn.AdaptiveAvgPool2d((1, 8)), 8),
    line(nn.AvgPool2d((2, 1)), 16),
    (PoolsChannels(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout2d(0.5), nn.MaxPool3d((4, 1, 1)), 36), (1, 6, 6)),
], ids=["average", "maximum", "adaptive", "pairs", "three axes"])
def test_channels_that_are_pooled_are_dropped_apart(net, shape) -> None:
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))
    sampler = prepare(net, x, task="regression")
    assert [site.mask_shape for site in sampler.sites] == [(4, *[1] * (len(shape) - 1))]
    masks = torch.tensor(list(itertools.product([0.0, 2.0], repeat=4))).view(16, 4, *[1] * (len(shape) - 1))
    with torch.no_grad():
        every = torch.stack([net.behind(net.conv(x) * mask) for mask in masks]).double()
    mean, std = every.mean(0), every.std(0, correction=0)
    for method in ("auto", "sampled"):
        found = sampler.uncertainty(x, 4000, method=method)
        torch.testing.assert_close(found.std, std, rtol=0.05, atol=0)
        assert float(((found.mean - mean).abs() / std).max()) < 0.05


class OwnGain(nn.Module):
    """Batch normalisation of which a parameter is computed from another one."""

    def __init__(self, gain: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.hidden, self.drop, self.out = nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 2)
        self.log, self.gain = nn.Parameter(torch.randn(6)), gain
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("variance", torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        gain, shift = (self.log.exp(), None) if self.gain else (None, self.log.exp())
        return self.out(self.drop(F.batch_norm(self.hidden(x), self.mean, self.variance, gain, shift)))


@pytest.mark.parametrize("gain", [True, False], ids=["gain", "shift"])
def test_batch_normalisation_with_a_computed_parameter_stays(gain) -> None:
    net, x = OwnGain(gain), torch.randn(5, 4)
    assert [n for n in graph_of(net, x).nodes if n.target is _aten.batch_norm.default]
    torch.testing.assert_close(prepare(net, x, task="generic").predict(x), net.eval()(x).detach(), atol=1e-6, rtol=0)
