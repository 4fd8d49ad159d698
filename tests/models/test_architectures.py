"""The bundled networks: their shapes, their dropout, and the scaling inside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.architectures.cnn import CNN
from models.architectures.mlp import MLP, RegressionMLP


def linear_shapes(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def rates(module: nn.Module, kind: type[nn.Dropout] | type[nn.Dropout2d]) -> list[float]:
    return [m.p for m in module.modules() if isinstance(m, kind)]


def test_an_mlp_without_arguments_is_512_256_128_10_with_dropout_one_half_and_three_tenths() -> None:
    module = MLP()
    assert linear_shapes(module) == [(512, 256), (256, 128), (128, 10)]
    assert rates(module, nn.Dropout) == [0.5, 0.3]
    assert module(torch.zeros(3, 512)).shape == (3, 10)


def test_an_mlp_has_relu_then_dropout_after_each_hidden_layer_and_nothing_after_the_output() -> None:
    kinds = [type(layer) for layer in MLP().body]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]


def test_an_mlp_refuses_another_number_of_dropout_rates_than_of_hidden_layers() -> None:
    with pytest.raises(ValueError, match="1 rates for 2"):
        MLP(hidden=(8, 4), dropout=(0.5,))


def test_a_cnn_drops_channels_in_its_body_and_units_in_its_head_and_normalises_in_between() -> None:
    module = CNN()
    assert rates(module.features, nn.Dropout2d) == [0.2, 0.2]
    assert rates(module.head, nn.Dropout) == [0.5]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in module.features) == 2
    assert module.eval()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize(
    ("plain", "scaled", "shape", "state"),
    [
        (MLP(3, (4,), 2, (0.5,)), MLP(3, (4,), 2, (0.5,), [1.0, 2.0, 3.0], [2.0, 4.0, 8.0]), (3,), (3,)),
        (CNN(), CNN(shift=4.0, scale=8.0), (1, 8, 8), (1, 1, 1)),
    ],
    ids=["mlp", "cnn"],
)
def test_raw_rows_are_standardised_inside_the_module_by_buffers(
    plain: nn.Module, scaled: nn.Module, shape: tuple[int, ...], state: tuple[int, ...]
) -> None:
    learned = {name: value for name, value in plain.state_dict().items() if not name.startswith("standardise.")}
    scaled.load_state_dict(learned, strict=False)
    shift, scale = scaled.state_dict()["standardise.shift"], scaled.state_dict()["standardise.scale"]
    assert shift.shape == scale.shape == state
    rows = 10 * torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    standardised = plain.eval()((rows - shift) / scale)
    torch.testing.assert_close(scaled.eval()(rows), standardised)
    assert not torch.allclose(plain(rows), standardised)


def test_a_factory_called_with_sizes_alone_takes_its_scaling_from_the_state() -> None:
    trained = MLP(3, (4,), 2, (0.5,), shift=[1.0, 2.0, 3.0], scale=5.0).eval()
    fresh = MLP(3, (4,), 2, (0.5,)).eval()
    fresh.load_state_dict(trained.state_dict(), strict=True)
    rows = torch.arange(12.0).reshape(4, 3)
    assert torch.equal(fresh(rows), trained(rows))


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="zero"):
        MLP(3, (4,), 2, (0.5,), scale=[1.0, 0.0, 1.0])


def test_a_regression_adds_its_offset_last() -> None:
    module = RegressionMLP(2, (4,), 1, (0.5,), target_shift=1000.0, target_scale=10.0).eval()
    output = module.body[-1]
    assert isinstance(output, nn.Linear)
    nn.init.zeros_(output.weight)
    nn.init.constant_(output.bias, 0.5)
    assert torch.equal(module(torch.zeros(1, 2)), torch.tensor([[1005.0]]))
    nn.init.constant_(output.bias, 1e-9)
    assert torch.equal(module(torch.zeros(1, 2)), torch.tensor([[1000.0]]))
    assert {name for name in module.state_dict() if name.startswith("restore.")} == {"restore.shift", "restore.scale"}
