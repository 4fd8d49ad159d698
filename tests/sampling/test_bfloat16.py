"""bfloat16 by the manifest: the same masks, a measured bound, and a refusal where it is too coarse."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.architectures.mlp import MLP
from service import native
from service.errors import UnservableModel
from service.sampling import Sampler, prepare
from service.sampling import preparation as preparation_module
from service.sampling.bank import Draw
from service.sampling.bound import ADMITTED
from service.sampling.capture import capture
from service.sampling.device import lacks_bfloat16
from service.sampling.dithering import bfloat16_multipliers, neighbours
from service.sampling.lowering import lowered_plan, narrow_mask
from service.sampling.masks import multipliers
from service.sampling.plan import make_plan
from service.sampling.tiled import Tiled

needs_bfloat16 = pytest.mark.skipif(
    bool(lacks_bfloat16(torch.device("cpu"))), reason="the CPU has no fast bfloat16, so float32 runs"
)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.channels = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout2d(0.2)
        self.hidden, self.drop, self.out = nn.Linear(512, 32), nn.Dropout(0.5), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.channels(self.norm(self.conv(x)).relu())
        return self.out(self.drop(self.hidden(h.flatten(1)).relu()))


class Attending(nn.Module):
    """A residual stream that starts at the input, attention with a mask that is added, and LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((5, 5), -torch.inf).triu(1)
        return self.out(self.layer(x + torch.arange(16.0), src_mask=mask).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(6, 16, 2, dropout=0.3, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


class Scaled(nn.Module):
    """A network whose answer is a small difference of large numbers: what bfloat16 cannot give."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.drop, self.two = nn.Linear(8, 32), nn.Dropout(0.01), nn.Linear(32, 32)
        self.out = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.two(100 + self.one(x))))


def seeded(make: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def pair(net: nn.Module, x: Tensor) -> tuple[Sampler, Sampler]:
    """In float32, and in bfloat16 without the bound."""
    exact = prepare(net, x, task="classification")
    return exact, exact.lowered(x)


@pytest.fixture(scope="module")
def dense() -> tuple[Sampler, Sampler, Tensor]:
    torch.manual_seed(1)
    net, x = MLP(16, (64, 32), 4, (0.5, 0.3)), torch.randn(40, 16)
    return *pair(net, x), x


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("design", ["balanced", "iid"])
def test_multipliers_drop_the_same_units_as_in_float32(design, p) -> None:
    exact = multipliers(design, 3, "site", p, (4, 7), 20, 30)
    coarse = bfloat16_multipliers(design, 3, "site", p, (4, 7), 20, 30)
    assert coarse.dtype is torch.bfloat16
    assert torch.equal(coarse != 0, exact != 0)
    torch.testing.assert_close(coarse.float(), exact, rtol=2**-7, atol=0)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3])
def test_multipliers_of_kept_units_are_right_on_average_where_the_nearest_number_is_not(p) -> None:
    coarse = bfloat16_multipliers("balanced", 3, "site", p, (400,), 0, 50).double()
    off = coarse[coarse != 0].mean() * (1 - p) - 1
    assert abs(float(off)) < 1e-4
    assert abs(float(torch.tensor(1 / (1 - p)).bfloat16()) * (1 - p) - 1) > 5e-4


@pytest.mark.parametrize("p", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_a_scale_that_is_a_bfloat16_number_but_for_rounding_gets_that_number(p) -> None:
    coarse = bfloat16_multipliers("iid", 3, "site", p, (4000,), 0, 10).double()
    torch.testing.assert_close(coarse[coarse != 0] * (1 - p), torch.ones_like(coarse[coarse != 0]), rtol=1e-6, atol=0)


def test_multipliers_do_not_depend_on_chunks_or_rows() -> None:
    whole = bfloat16_multipliers("balanced", 3, "site", 0.1, (9,), 0, 40)
    assert torch.equal(whole[20:], bfloat16_multipliers("balanced", 3, "site", 0.1, (9,), 20, 20))
    places = torch.arange(3).numpy()
    own = bfloat16_multipliers("balanced", 3, "site", 0.1, (9,), 0, 40, places)
    assert torch.equal(own[:, 2:], bfloat16_multipliers("balanced", 3, "site", 0.1, (9,), 0, 40, places[2:]))


@pytest.mark.parametrize("places", [None, (0, 1, 5)])
@pytest.mark.parametrize("design", ["balanced", "iid"])
@pytest.mark.parametrize("shape", [(7,), (3, 5), ()])
def test_multipliers_made_in_c_are_those_of_torch_bit_for_bit(monkeypatch, design, shape, places) -> None:
    rows = None if places is None else np.array(places)
    made = [bfloat16_multipliers(design, 2**40, "site", 0.1, shape, 90, 30, rows)]
    monkeypatch.setattr(native, "library", lambda: None)
    made.append(bfloat16_multipliers(design, 2**40, "site", 0.1, shape, 90, 30, rows))
    assert made[0].dtype is made[1].dtype is torch.bfloat16
    assert torch.equal(*made)
    assert len(made[0].unique()) == 3  # dropped, and both neighbours


def test_a_scale_that_is_a_bfloat16_number_has_no_neighbours() -> None:
    assert neighbours(2.0) == (2.0, 2.0, 0.0)
    low, high, share = neighbours(1 / 0.9)
    assert low < 1 / 0.9 < high
    assert low + share * (high - low) == pytest.approx(1 / 0.9)


def test_the_sampler_draws_the_same_masks_as_in_float32(dense) -> None:
    exact, lowered, _ = dense
    draw = Draw("balanced", 5, 0, 20, 20)
    for one, other in zip(exact.kernels[0].drawn(draw, None), lowered.kernels[0].drawn(draw, None), strict=True):
        assert other.dtype is torch.bfloat16
        assert torch.equal(one != 0, other != 0)


@pytest.mark.parametrize(("make", "shape"), [(Convolutional, (1, 8, 8)), (Attending, (5, 16)), (Recurrent, (7, 6))])
def test_every_kind_of_product_runs_in_bfloat16_and_stays_near_float32(make, shape) -> None:
    x = torch.randn(9, *shape, generator=torch.Generator().manual_seed(0))
    exact, lowered = pair(seeded(make), x)
    for masks in ("shared", "independent"):
        one, other = (s.uncertainty(x, 50, seed=2, masks=masks) for s in (exact, lowered))
        assert float((one.mean - other.mean).abs().max()) < 0.01
        assert float((one.std - other.std).abs().max()) < 0.01
    assert 0 < float((exact.predict(x) - lowered.predict(x)).abs().max()) < 0.01
    assert lowered.predict(x).dtype is torch.float32


@pytest.mark.parametrize("inputs", [8, 64])
def test_an_offset_that_is_added_last_keeps_its_digits(inputs) -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.drop, self.two = nn.Linear(inputs, 64), nn.Dropout(0.5), nn.Linear(64, 1)

        def forward(self, x: Tensor) -> Tensor:
            return 1000.3 + self.two(self.drop(self.one(x).relu()))

    x = torch.randn(6, inputs, generator=torch.Generator().manual_seed(0))
    exact = prepare(seeded(Offset), x, task="regression")
    lowered = exact.lowered(x)
    true = exact.uncertainty(x, 50, method="sampled").mean
    for kernel in lowered.kernels:
        told = lowered.uncertainty(x, 50, kernel=kernel, method="sampled").mean
        assert float((told - true).abs().max()) < 0.01
    assert float((exact.predict(x) - lowered.predict(x)).abs().max()) < 0.01  # bfloat16 near 1000 counts in fours


def test_the_reference_of_a_bfloat16_model_is_the_module_in_float32(dense) -> None:
    exact, lowered, x = dense
    torch.testing.assert_close(lowered.reference(x, 20).mean, exact.reference(x, 20).mean, atol=1e-6, rtol=0)


def test_a_row_alone_is_itself_in_company_within_a_tenth_of_its_standard_error(dense) -> None:
    _, lowered, x = dense
    for kernel in lowered.kernels:
        company = lowered.uncertainty(x, 50, kernel=kernel)
        for other in lowered.kernels:
            for i in range(8):
                alone = lowered.uncertainty(x[i : i + 1], 50, kernel=other)
                assert bool(((alone.mean[0] - company.mean[i]).abs() <= 0.1 * company.mean_se[i] + 1e-6).all())


def test_fifty_samples_are_the_start_of_a_hundred(dense) -> None:
    _, lowered, x = dense
    fifty, hundred = (lowered.uncertainty(x, n, include_samples=True, kernel=lowered.kernels[0]).draws
                      for n in (50, 100))
    torch.testing.assert_close(fifty, hundred[:, :50], atol=1e-3, rtol=0)


def test_exact_averages_stay_float32() -> None:
    torch.manual_seed(0)
    net, x = MLP(8, (32, 16), 1, (0.2, 0.2)), torch.randn(5, 8)
    exact = prepare(net, x, task="regression")
    lowered = exact.lowered(x)
    assert lowered.method_for("auto") == "rao_blackwell"
    torch.testing.assert_close(lowered.uncertainty(x).mean, exact.uncertainty(x).mean, atol=1e-6, rtol=0)


def test_weights_are_held_once_more_in_bfloat16_not_once_a_graph(dense) -> None:
    _, lowered, _ = dense
    weights = sum(value.numel() * value.element_size() for value in lowered._module.state_dict().values())
    tiles = sum(t.nbytes for k in lowered.kernels if isinstance(k, Tiled) for t in k._kept)  # a layout of their own
    assert tiles <= weights
    assert 1.4 * weights < lowered.memory_bytes - tiles <= 2 * weights  # the graphs' in common, and the chain's own


def test_a_mask_of_attention_that_hides_by_the_least_number_stays_finite() -> None:
    mask = torch.tensor([0.0, torch.finfo(torch.float32).min, -torch.inf])
    assert narrow_mask(mask).isfinite().tolist() == [True, True, False]


def test_constants_are_computed_once() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 5, 16)
    net = seeded(Attending)
    plan = make_plan(capture(net, {"input": x}, True), None)
    with torch.no_grad():
        code = lowered_plan(plan, [x]).predict.code
    assert "triu" in plan.predict.code
    assert "triu" not in code


@needs_bfloat16
def test_what_bfloat16_moves_is_measured_and_under_a_tenth_of_the_standard_errors() -> None:
    torch.manual_seed(0)
    sampler = prepare(MLP(), torch.randn(4, 512), task="classification", dtype="bfloat16")
    assert sampler.dtype == "bfloat16"
    error = sampler.dtype_error
    assert error is not None
    assert 0 < error.mean < ADMITTED
    assert 0 < error.std < ADMITTED
    assert error.prediction > 0


@needs_bfloat16
def test_a_network_for_which_it_is_too_coarse_is_refused_with_the_figures() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UnservableModel, match=r"moves by \d+\.\d{3} of its standard error.*\d+\.\d{3} of its own"):
        prepare(seeded(Scaled), x, task="regression", dtype="bfloat16")


@needs_bfloat16
def test_an_output_for_which_it_is_too_coarse_is_not_hidden_by_a_larger_one() -> None:
    class Large(Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.large = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.8), nn.Linear(64, 64), nn.ReLU(),
                                       nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

        def forward(self, x: Tensor) -> Tensor:
            return 1e6 * self.large(x)

    class Beside(Large):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([super().forward(x), Scaled.forward(self, x)], 1)

    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    error = prepare(seeded(Large), x, task="regression", dtype="bfloat16").dtype_error
    assert error is not None
    assert error.mean < ADMITTED / 2
    with pytest.raises(UnservableModel, match=r"moves by \d+\.\d{3} of its standard error.*\d+\.\d{3} of its own"):
        prepare(seeded(Beside), x, task="regression", dtype="bfloat16")


def test_a_network_that_runs_eagerly_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.out = nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.drop(x if x.sum() > 0 else -x))

    with pytest.raises(UnservableModel, match="runs eagerly"):
        prepare(Branching(), torch.ones(2, 4), task="classification", dtype="bfloat16")


def test_a_network_without_dropout_is_refused() -> None:
    with pytest.raises(UnservableModel, match="none to sample"):
        prepare(nn.Linear(4, 2), torch.ones(2, 4), task="classification", dtype="bfloat16")


def test_where_the_hardware_lacks_it_float32_runs_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(preparation_module, "lacks_bfloat16", lambda device: "it is an abacus")
    torch.manual_seed(0)
    sampler = prepare(MLP(8, (16,), 2, (0.5,)), torch.randn(4, 8), task="classification", dtype="bfloat16")
    assert sampler.dtype == "float32"
    assert "float32 runs, because it is an abacus" in sampler.dtype_note


def test_a_dtype_that_there_is_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnservableModel, match="did you mean 'bfloat16'"):
        prepare(nn.Linear(4, 2), torch.ones(2, 4), task="classification", dtype="bfloat1")
