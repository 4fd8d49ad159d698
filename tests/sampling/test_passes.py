"""Rewrites of a captured graph change its cost, not its answer."""

import pytest
import torch
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
