"""The engine's promises, on small networks."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import InvalidOption, ModelFailed, UncertaintyUnavailable, UnservableModel
from service.sampling import Sampler, prepare, running
from service.sampling.arming import state_digest


class Convolutional(nn.Module):
    """BatchNorm, whole-channel, functional and in-place dropout, sizes read in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.channels = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout2d(0.2)
        self.hidden, self.relu, self.drop = nn.Linear(256, 16), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.channels(self.relu(self.norm(self.conv(x))))
        h = self.drop(F.dropout(self.relu(self.hidden(h.flatten(1))), 0.3, self.training))
        return self.out(h + torch.ones(x.shape[0], 16))


def dense(p: float = 0.5) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(p), nn.Linear(32, 16), nn.Tanh(), nn.Dropout(0.3),
                         nn.Linear(16, 3))


@pytest.fixture(scope="module")
def convolutional() -> tuple[nn.Module, Sampler, Tensor]:
    torch.manual_seed(0)
    net, x = Convolutional(), torch.randn(7, 1, 8, 8)
    return net, prepare(net, x, task="classification"), x


@pytest.mark.parametrize("masks", ["shared", "independent"])
@pytest.mark.parametrize("design", ["balanced", "iid"])
def test_the_fast_path_equals_one_eager_pass_a_sample(convolutional, masks, design) -> None:
    _, sampler, x = convolutional
    fast = sampler.uncertainty(x, 25, seed=4, masks=masks, design=design)
    slow = sampler.reference(x, 25, seed=4, masks=masks, design=design)
    for name in ("mean", "std", "mean_se", "std_se", "entropy", "mutual_information", "variation_ratio"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name), atol=1e-5, rtol=0)


def test_the_prediction_is_the_modules_in_eval_mode(convolutional) -> None:
    net, sampler, x = convolutional
    was = net.training
    torch.testing.assert_close(sampler.predict(x), net.eval()(x).softmax(-1).detach(), atol=1e-6, rtol=0)
    net.train(was)


def test_the_module_is_left_as_it_was_found(convolutional) -> None:
    torch.manual_seed(0)
    net = Convolutional()
    net.norm.eval()
    flags = [m.training for m in net.modules()]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    random_state = torch.get_rng_state()
    prepare(net, torch.zeros(2, 1, 8, 8), task="classification").uncertainty(torch.ones(3, 1, 8, 8))
    assert [m.training for m in net.modules()] == flags
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_row_alone_equals_itself_in_company(convolutional) -> None:
    _, sampler, x = convolutional
    company = sampler.uncertainty(x, 50, seed=2)
    for i in range(len(x)):
        alone = sampler.uncertainty(x[i : i + 1], 50, seed=2)
        torch.testing.assert_close(alone.mean[0], company.mean[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.std[0], company.std[i], atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(convolutional) -> None:
    _, sampler, x = convolutional
    first, again, other = (sampler.uncertainty(x, 50, seed=s) for s in (5, 5, 6))
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.std, again.std)
    assert not torch.equal(first.mean, other.mean)


def test_fifty_samples_are_the_start_of_a_hundred(convolutional) -> None:
    _, sampler, x = convolutional
    fifty = sampler.uncertainty(x, 50, include_samples=True).draws
    hundred = sampler.uncertainty(x, 100, include_samples=True).draws
    torch.testing.assert_close(fifty, hundred[:, :50], atol=1e-6, rtol=0)


def test_the_mean_and_std_are_those_of_plain_dropout_passes() -> None:
    net, x = dense(), torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    answer = prepare(net, x, task="classification").uncertainty(x, 5000, masks="independent")
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([net.train()(x).softmax(-1) for _ in range(5000)])
    assert (answer.mean - draws.mean(0)).abs().max() < 5 * float(draws.std(0).max()) / 5000**0.5
    torch.testing.assert_close(answer.std.float(), draws.std(0), rtol=0.05, atol=0)


def test_balanced_samples_are_rounded_up_to_whole_blocks() -> None:
    x = torch.randn(2, 6)
    sampler = prepare(dense(), x, task="classification")
    assert sampler.uncertainty(x, 42).samples == 50
    assert sampler.uncertainty(x, 42, design="iid").samples == 42


def test_standard_errors_are_missing_where_there_are_too_few_blocks() -> None:
    x = torch.randn(2, 6)
    sampler = prepare(dense(), x, task="classification")
    one, two = sampler.uncertainty(x, 10), sampler.uncertainty(x, 20)
    assert (one.mean_se, one.se_df, one.std_se) == (None, None, None)
    assert two.mean_se is not None
    assert (two.se_df, two.std_se, two.entropy_se) == (1, None, None)


def test_a_site_left_out_by_name_does_not_sample() -> None:
    x = torch.randn(3, 6)
    sampler = prepare(dense(), x, task="classification", sites=["5"])
    assert [site.active for site in sampler.sites] == [False, True]
    fast, slow = sampler.uncertainty(x, 50), sampler.reference(x, 50)
    torch.testing.assert_close(fast.std, slow.std, atol=1e-5, rtol=0)
    with pytest.raises(UnservableModel, match="fits no site"):
        prepare(dense(), x, task="classification", sites=["head.*"])


def test_a_model_without_dropout_predicts_only() -> None:
    x = torch.randn(3, 6)
    sampler = prepare(nn.Sequential(nn.Linear(6, 3)), x, task="classification")
    assert sampler.predict(x).shape == (3, 3)
    with pytest.raises(UncertaintyUnavailable):
        sampler.uncertainty(x)


class Constant(nn.Module):
    """F.dropout with training left at True: random in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class Dead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x) * 0.0 + x


class Neighbourly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training) - x.mean(0)


@pytest.mark.parametrize(("net", "shape", "reason"), [
    (Constant(), (3, 4), "random even with dropout off"),
    (Dead(), (3, 4), "no site can change the output"),
    (Neighbourly(), (3, 4), "neighbours"),
])
def test_what_could_not_be_served_rightly_is_refused_with_its_reason(net, shape, reason) -> None:
    with pytest.raises(UnservableModel, match=reason):
        prepare(net, torch.randn(*shape), task="generic")


@pytest.mark.parametrize("options", [
    {"samples": 1}, {"seed": -1}, {"seed": 2**53}, {"masks": "none"}, {"design": "sobol"},
])
def test_options_out_of_range_are_refused(convolutional, options) -> None:
    _, sampler, x = convolutional
    with pytest.raises(InvalidOption):
        sampler.uncertainty(x, **options)


def test_a_long_request_has_every_statistic(convolutional) -> None:
    _, sampler, x = convolutional
    answer = sampler.uncertainty(x[:2], 1500)
    assert answer.samples == 1500
    for name in ("mean", "std", "mean_se", "std_se", "entropy_se", "mutual_information_se", "variation_ratio"):
        assert getattr(answer, name).isfinite().all()


def test_answers_are_ordinary_tensors_that_a_notebook_may_change(convolutional) -> None:
    _, sampler, x = convolutional
    sampler.predict(x).add_(1)
    answer = sampler.uncertainty(x, 20, include_samples=True)
    answer.mean.add_(1)
    assert answer.draws.mul_(2).max() > 1


class Whole(nn.Module):
    """Gives its input, or a part or a view of it, or of its weights."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.drop, self.weight, self.read = nn.Dropout(0.5), nn.Parameter(torch.randn(4)), read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.drop(x), self.weight)


@pytest.mark.parametrize("read", [
    lambda x, _: x, lambda x, _: x[:, 1:3], lambda x, _: x.reshape(-1, 2, 2), lambda x, _: x.split(2, 1)[1],
    lambda x, _: x.unsqueeze(1).transpose(1, 2),
], ids=["itself", "slice", "view", "split", "transposed"])
def test_a_prediction_is_the_callers_own_and_never_a_part_of_the_input(read) -> None:
    x = torch.randn(3, 4)
    sampler, before = prepare(Whole(read), x, task="regression"), x.clone()
    sampler.predict(x).add_(1)
    assert torch.equal(x, before)


def test_a_prediction_that_is_a_weight_is_a_copy_of_it() -> None:
    sampler = prepare(nn.Sequential(Weight()), torch.randn(3, 4), task="regression")
    first = sampler.predict(torch.randn(3, 4))
    expected = first.clone()
    first.add_(1)
    assert torch.equal(sampler.predict(torch.randn(3, 4)), expected)


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.expand(x.shape[0], -1)


class Linear(nn.Module):
    """One dropout of a kind, then a linear map: its mean over masks is its eval output."""

    def __init__(self, drop: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.drop, self.out = drop, nn.Linear(math.prod(shape), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(x).flatten(1))


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, self.training)


KINDS = [
    (nn.Dropout(0.3), (6,), (6,)),
    (nn.Dropout(0.3), (3, 4), (3, 4)),
    (nn.Dropout1d(0.3), (5, 4), (5, 1)),
    (nn.Dropout2d(0.3), (5, 3, 3), (5, 1, 1)),
    (nn.Dropout3d(0.3), (5, 2, 2, 2), (5, 1, 1, 1)),
    (Functional(), (6,), (6,)),
    (nn.Dropout(0.3, inplace=True), (6,), (6,)),
]


@pytest.mark.parametrize(("drop", "shape", "mask_shape"), KINDS)
def test_every_kind_of_site_has_the_mean_and_std_of_all_its_masks(drop, shape, mask_shape) -> None:
    torch.manual_seed(2)
    net, x = Linear(drop, shape), torch.randn(3, *shape)
    sampler = prepare(net, x, task="generic")
    assert [site.mask_shape for site in sampler.sites] == [mask_shape]
    answer = sampler.uncertainty(x, 20_000, method="sampled")
    weight = net.out.weight.detach().view(2, *shape)
    units = (x.unsqueeze(1) * weight).double()  # (rows, outputs, *shape); a unit of the mask may cover several
    groups = [axis + 2 for axis, size in enumerate(mask_shape) if size == 1]
    per_unit = units.sum(groups) if groups else units
    exact_std = (per_unit.square().flatten(2).sum(-1) * 0.3 / 0.7).sqrt()
    eval_output = net.eval()(x).detach().double()
    assert ((answer.mean - eval_output).abs() < 5 * answer.mean_se + 1e-6).all()
    torch.testing.assert_close(answer.std, exact_std, rtol=0.02, atol=0)


def test_a_tiny_network_has_the_exact_mean_and_std_by_enumeration() -> None:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.25), nn.Linear(3, 2))
    x = torch.randn(2, 2)
    hidden = torch.tanh(net[0](x)).detach().double()
    outputs, chances = [], []
    for kept in itertools.product([0, 1], repeat=3):
        mask = torch.tensor(kept, dtype=torch.float64)
        outputs.append((hidden * mask / 0.75 @ net[3].weight.double().T + net[3].bias.double()).softmax(-1).detach())
        chances.append(math.prod(0.75 if k else 0.25 for k in kept))
    values, chance = torch.stack(outputs), torch.tensor(chances, dtype=torch.float64).view(-1, 1, 1)
    mean = (chance * values).sum(0)
    std = (chance * (values - mean).square()).sum(0).sqrt()
    answer = prepare(net, x, task="classification").uncertainty(x, 20_000)
    torch.testing.assert_close(answer.mean, mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(answer.std, std, rtol=0.02, atol=0)


def test_one_of_64_rows_alone_equals_itself_in_company() -> None:
    torch.manual_seed(5)
    net, x = dense(), torch.randn(64, 6)
    sampler = prepare(net, x, task="classification")
    company = sampler.uncertainty(x, 50)
    for i in (0, 17, 63):
        alone = sampler.uncertainty(x[i : i + 1], 50)
        torch.testing.assert_close(alone.mean[0], company.mean[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.std[0], company.std[i], atol=1e-6, rtol=0)


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_any_chunking_gives_the_same_answer(convolutional, monkeypatch, masks) -> None:
    _, sampler, x = convolutional
    (kernel,) = sampler.kernels
    whole = sampler.uncertainty(x, 100, masks=masks)
    monkeypatch.setattr(kernel, "working_set_bytes", 1)
    for rows, prefix_bytes in ((1, 1), (3, 1), (3, 1 << 30), (7, 1)):
        monkeypatch.setattr(kernel, "rows", rows)
        monkeypatch.setattr(running, "PREFIX_BYTES", prefix_bytes)
        small = sampler.uncertainty(x, 100, masks=masks)
        torch.testing.assert_close(small.mean, whole.mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(small.std_se, whole.std_se, atol=1e-6, rtol=0)


def test_an_output_that_is_not_finite_is_an_error_and_never_a_number(convolutional) -> None:
    _, sampler, x = convolutional
    for broken in (float("nan"), float("inf")):
        with pytest.raises(ModelFailed, match="not finite"):
            sampler.uncertainty(x * broken)
        with pytest.raises(ModelFailed, match="not finite"):
            sampler.predict(x * broken)


def test_the_state_of_a_stride_0_buffer_has_a_digest() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    net.register_buffer("scale", torch.tensor(1.0).expand(1))
    assert len(state_digest(net)) == 64
