"""Where the last site's masks are averaged over exactly: when that is done, and that it is exact."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import InvalidOption, ModelFailed, UnservableModel
from service.sampling import Sampler, plan, prepare, running
from service.sampling.conditional import Ending, MaskLaw
from service.sampling.marks import SATURATION, alpha_scale
from service.sampling.options import METHODS
from service.sampling.reference import reference_sample
from service.sampling.sites import Site
from service.sampling.split import Split
from service.statistics import Uncertainty


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(net: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return net


def regression(p: float = 0.2, wide: int = 16) -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(4, wide), nn.ReLU(), nn.Dropout(p), nn.Linear(wide, wide), nn.ReLU(),
                                nn.Dropout(p), nn.Linear(wide, 2)))


def enumerated(sampler: Sampler, net: nn.Module, x: Tensor, row_axis: int = 0) -> tuple[Tensor, Tensor]:
    """Exact mean and std over all masks of all sites, by eager passes of the module: (rows, outputs) each. row_axis: of
    what the sites act on."""
    sizes = [math.prod(site.mask_shape) for site in sampler.sites]
    outputs, chances = [], []
    for kept in itertools.product([0.0, 1.0], repeat=sum(sizes)):
        masks, chance = [], 1.0
        for site, bits in zip(sampler.sites, torch.tensor(kept).split(sizes), strict=True):
            masks.append(bits.view(1, *site.mask_shape).expand(len(x), *site.mask_shape).movedim(0, row_axis))
            chance *= math.prod(1 - site.p if bit else site.p for bit in bits)
        outputs.append(reference_sample(net, {"x": x}, True, masks, ()).double().flatten(1))
        chances.append(chance)
    values, chance = torch.stack(outputs), torch.tensor(chances, dtype=torch.float64).view(-1, 1, 1)
    mean = (chance * values).sum(0)
    return mean, (chance * (values - mean).square()).sum(0).sqrt()


class Head(nn.Module):
    """One dropout, then what `after` makes of it and of the input."""

    def __init__(self, drop: nn.Module, *after: nn.Module) -> None:
        super().__init__()
        self.drop, self.after = drop, nn.Sequential(*after)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.drop(x))


class Twice(Head):
    """The site's value goes two ways that meet again, and the input joins them."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(x)
        return self.after(h.mean(1, keepdim=True) / 3 - torch.cat([h, 2 * h], 1)[:, 1:7]) + x[:, :1].tanh()


class RowsSecond(Head):
    """The site sees (length, rows, features)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.drop(x.transpose(0, 1)).transpose(0, 1))


class Normed(nn.BatchNorm2d):
    """A batch norm that has learned something."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.running_mean.copy_(torch.linspace(-1, 1, channels))
        self.running_var.copy_(torch.linspace(0.5, 2, channels))


LINEAR = {
    "units": (Head(nn.Dropout(0.3), nn.Linear(6, 3)), (6,)),
    "a chain of linear layers": (Head(nn.Dropout(0.3), nn.Linear(6, 4), nn.Linear(4, 2)), (6,)),
    "two axes": (Head(nn.Dropout(0.3), nn.Flatten(), nn.Linear(8, 2)), (2, 4)),
    "channels of a sequence": (Head(nn.Dropout1d(0.4), nn.Conv1d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(10, 2)),
                               (4, 5)),
    "channels of an image": (Head(nn.Dropout2d(0.2), nn.Conv2d(4, 3, 3), Normed(3), nn.AvgPool2d(2),
                                  nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), (4, 6, 6)),
    "channels of a volume": (Head(nn.Dropout3d(0.3), nn.Flatten(), nn.Linear(24, 2)), (3, 2, 2, 2)),
    "an image out": (Head(nn.Dropout2d(0.3), nn.Conv2d(4, 2, 3, padding="same")), (4, 3, 3)),
    "two ways": (Twice(nn.Dropout(0.3), nn.Linear(6, 2)), (6,)),
    "rows on the second axis": (RowsSecond(nn.Dropout(0.3), nn.Flatten(), nn.Linear(6, 2)), (3, 2)),
    "channels, rows on the second axis": (RowsSecond(nn.Dropout1d(0.3), nn.Flatten(), nn.Linear(12, 2)), (3, 4)),
    "no layer": (Head(nn.Dropout(0.3)), (5,)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_closed_form_is_the_mean_and_std_of_all_masks(name) -> None:
    net, shape = LINEAR[name]
    x = rows(3, *shape)
    sampler = prepare(seeded(net), x, task="generic")
    assert sampler.closed_form
    mean, std = enumerated(sampler, net, x, row_axis=int(isinstance(net, RowsSecond)))
    answer = sampler.uncertainty(x)
    assert (answer.method, answer.samples, answer.se_df) == ("closed_form", 0, None)
    assert answer.mean_se.abs().max() == answer.std_se.abs().max() == 0
    torch.testing.assert_close(answer.mean, sampler.predict(x).double())
    torch.testing.assert_close(answer.mean.flatten(1), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(answer.std.flatten(1), std, rtol=1e-5, atol=1e-7)
    sampled = sampler.uncertainty(x, 20_000, method="sampled")
    assert sampled.method == "sampled"
    torch.testing.assert_close(answer.std, sampled.std, rtol=0.03, atol=1e-6)


class Gated(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.drop(x) * x.sigmoid())


class Squared(Head):
    def forward(self, x: Tensor) -> Tensor:
        h = self.after(self.drop(x))
        return h * h


class Detached(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.drop(x).detach())


@pytest.mark.parametrize("net", [
    Head(nn.Dropout(0.3), nn.Linear(6, 2), nn.ReLU()),
    Head(nn.Dropout(0.3), nn.Linear(6, 2), nn.Softmax(-1)),
    Head(nn.Dropout(0.3), nn.LayerNorm(6), nn.Linear(6, 2)),
    Head(nn.Dropout(0.3), nn.Unflatten(1, (2, 3)), nn.MaxPool1d(3), nn.Flatten()),
    Gated(nn.Dropout(0.3), nn.Linear(6, 2)),
    Squared(nn.Dropout(0.3), nn.Linear(6, 2)),
    Detached(nn.Dropout(0.3), nn.Linear(6, 2)),
    Head(nn.Dropout(0.3), nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.3), nn.Tanh()),
    Head(nn.Dropout(0.3), nn.Linear(6, 6), nn.Dropout(0.3), nn.Softplus()),
], ids=["relu", "softmax", "layer norm", "max pool", "gated by the row", "its own square", "detached",
        "two sites and tanh", "softplus"])
def test_a_site_with_anything_else_behind_it_is_sampled(net) -> None:
    x = rows(3, 6)
    sampler = prepare(seeded(net), x, task="generic")
    assert not sampler.closed_form
    assert sampler.uncertainty(x, 20).method == "sampled"


def test_a_classifier_is_always_sampled_for_a_softmax_follows() -> None:
    x = rows(3, 6)
    for task in ("classification", "multilabel"):
        sampler = prepare(seeded(Head(nn.Dropout(0.3), nn.Linear(6, 2))), x, task=task)
        assert not sampler.closed_form
        assert sampler.uncertainty(x, 20).method == "sampled"


def test_a_matrix_beyond_the_bound_is_not_made(monkeypatch) -> None:
    x = rows(3, 6)
    monkeypatch.setattr("service.sampling.linear.MAX_COEFFICIENTS", 17)
    assert not prepare(seeded(Head(nn.Dropout(0.3), nn.Linear(6, 3))), x, task="generic").closed_form
    monkeypatch.setattr("service.sampling.linear.MAX_COEFFICIENTS", 18)
    assert prepare(seeded(Head(nn.Dropout(0.3), nn.Linear(6, 3))), x, task="generic").closed_form


def test_more_outputs_than_derivatives_at_once_are_all_found(monkeypatch) -> None:
    monkeypatch.setattr("service.sampling.linear._OUTPUTS_AT_ONCE", 2)
    net, x = seeded(Head(nn.Dropout(0.3), nn.Linear(6, 5))), rows(3, 6)
    sampler = prepare(net, x, task="generic")
    torch.testing.assert_close(sampler.uncertainty(x).std, enumerated(sampler, net, x)[1], rtol=1e-5, atol=0)


def test_earlier_sites_are_sampled_and_the_last_one_averaged_over() -> None:
    net, x = regression(wide=5), rows(3, 4)
    sampler = prepare(net, x, task="regression")
    mean, std = enumerated(sampler, net, x)
    for options in ({}, {"masks": "independent"}, {"design": "iid"}, {"design": "iid", "masks": "independent"}):
        answer = sampler.uncertainty(x, 5000, **options)
        assert (answer.method, answer.samples) == ("rao_blackwell", 5000)
        assert ((answer.mean - mean).abs() < 5 * answer.mean_se + 1e-6).all()
        assert ((answer.std - std).abs() < 5 * answer.std_se + 1e-6).all()


@pytest.mark.parametrize("design", ["balanced", "iid"])
def test_averaging_exactly_is_never_worse_than_sampling_and_its_standard_errors_are_honest(design) -> None:
    x, repeats = rows(4, 4), 1000
    sampler = prepare(regression(), x, task="regression")
    long = sampler.uncertainty(x, 50_000, seed=12345)
    many = x.repeat_interleave(repeats, 0)  # a row with masks of its own is an answer of its own

    def error(answer: Uncertainty, name: str) -> float:
        away = getattr(answer, name).unflatten(0, (4, repeats)) - getattr(long, name).unsqueeze(1)
        return float(away.square().mean())

    mine, sampled = (sampler.uncertainty(many, 50, masks="independent", design=design, method=m) for m in METHODS)
    for name, low, high in (("mean", 0.9, 1.1), ("std", 0.85, 1.15)):
        assert error(mine, name) < error(sampled, name)
        assert low < float(getattr(mine, f"{name}_se").square().mean()) / error(mine, name) < high


def test_sites_side_by_side_are_one_sampled_and_one_averaged_over() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.out = nn.Dropout(0.3), nn.Dropout(0.4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.left(x).tanh() + self.right(x))

    net, x = seeded(Fork()), rows(3, 4)
    sampler = prepare(net, x, task="regression")
    mean, std = enumerated(sampler, net, x)
    answer = sampler.uncertainty(x, 5000)
    assert answer.method == "rao_blackwell"
    assert ((answer.mean - mean).abs() < 5 * answer.mean_se + 1e-6).all()
    assert ((answer.std - std).abs() < 5 * answer.std_se + 1e-6).all()


def test_a_site_that_the_manifest_leaves_out_is_not_in_the_way() -> None:
    x = rows(3, 4)
    only_last = prepare(regression(), x, task="regression", sites=["5"])
    assert only_last.closed_form
    torch.testing.assert_close(only_last.uncertainty(x).std, only_last.uncertainty(x, 20_000, method="sampled").std,
                               rtol=0.03, atol=0)
    assert not prepare(regression(), x, task="regression", sites=["2"]).closed_form


def test_whoever_wants_samples_gets_sampled_ones() -> None:
    x = rows(3, 4)
    sampler = prepare(regression(), x, task="regression")
    plain = sampler.uncertainty(x, method="sampled")
    assert plain.method == "sampled"
    for options in ({"include_samples": True}, {"kernel": sampler.kernels[0]}):
        answer = sampler.uncertainty(x, **options)
        assert answer.method == "sampled"
        torch.testing.assert_close(answer.std, plain.std, rtol=1e-5, atol=0)
    with pytest.raises(InvalidOption, match="method"):
        sampler.uncertainty(x, method="closed_form")


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_a_row_alone_and_any_chunking_give_the_same_answer(monkeypatch, masks) -> None:
    x = rows(9, 4)
    sampler = prepare(regression(), x, task="regression")
    whole = sampler.uncertainty(x, 100, seed=3, masks=masks)
    for i in (0, 4, 8):
        alone = sampler.uncertainty(x[i : i + 1], 100, seed=3, masks=masks, first_row=i)
        for name in ("mean", "std", "mean_se", "std_se"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(whole, name)[i], atol=1e-6, rtol=0)
    monkeypatch.setattr("service.sampling.kernels.working_set_bytes", lambda device: 1)
    monkeypatch.setattr(running, "PREFIX_BYTES", 1)
    small = prepare(regression(), x, task="regression").uncertainty(x, 100, seed=3, masks=masks)
    for name in ("mean", "std", "mean_se", "std_se"):
        torch.testing.assert_close(getattr(small, name), getattr(whole, name), atol=1e-6, rtol=0)


def test_a_closed_form_depends_on_neither_seed_nor_masks_nor_samples() -> None:
    x = rows(3, 6)
    sampler = prepare(seeded(Head(nn.Dropout(0.3), nn.Linear(6, 2))), x, task="regression")
    first = sampler.uncertainty(x, 50, seed=0)
    other = sampler.uncertainty(x, 1000, seed=9, masks="independent", design="iid")
    assert torch.equal(first.mean, other.mean)
    assert torch.equal(first.std, other.std)


def test_a_spread_far_below_one_is_not_taken_for_none() -> None:
    net, x = seeded(Head(nn.Dropout(0.3), nn.Linear(6, 2, bias=False))), rows(3, 6)
    with torch.no_grad():
        net.after[0].weight.mul_(1e-25)
    sampler = prepare(net, x, task="regression")
    torch.testing.assert_close(sampler.uncertainty(x).std, enumerated(sampler, net, x)[1], rtol=1e-5, atol=0)


def test_an_output_that_is_not_finite_is_an_error() -> None:
    x = rows(3, 6)
    one, two = seeded(Head(nn.Dropout(0.3), nn.Linear(6, 2))), regression()
    for net, given in ((one, x), (two, x[:, :4])):
        sampler = prepare(net, given, task="regression")
        for broken in (float("nan"), float("inf"), 3e38):
            with pytest.raises(ModelFailed, match="not finite"):
                sampler.uncertainty(given.sign() * broken)


def test_the_probe_refuses_a_matrix_that_is_not_the_networks(monkeypatch) -> None:
    found = plan.matrix_of
    monkeypatch.setattr(plan, "matrix_of", lambda *given: found(*given) * 1.01)
    for net in (Head(nn.Dropout(0.3), nn.Linear(4, 2)), regression()):
        with pytest.raises(UnservableModel, match="not the affine map"):
            prepare(seeded(net), rows(3, 4), task="regression")


def test_the_probe_refuses_a_wrong_factor_of_the_variance(monkeypatch) -> None:
    monkeypatch.setattr(MaskLaw, "variance", property(lambda law: law.p))
    with pytest.raises(UnservableModel, match="not that of all its masks"):
        prepare(regression(), rows(3, 4), task="regression")


def alpha_values(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """What torch's AlphaDropout makes of a unit it keeps and of one it drops, from torch itself."""
    torch.manual_seed(0)
    drawn = torch.stack([F.alpha_dropout(x, p, training=True) for _ in range(200)]).double()
    kept = drawn.mode(0).values  # p is under a half
    dropped = drawn[drawn != kept]
    assert (dropped == dropped[0]).all()
    return kept, dropped[0].expand_as(kept)


@pytest.mark.parametrize("p", [0.1, 0.4])
@pytest.mark.parametrize("kind", ["alpha_dropout", "feature_alpha_dropout"])
def test_alpha_dropout_has_the_mean_and_std_of_all_its_masks(kind, p) -> None:
    channels = kind == "feature_alpha_dropout"
    shape, mask_shape = ((3, 2), (3, 1)) if channels else ((5,), (5,))
    x, matrix = rows(1, *shape), rows(2, *shape, seed=1).double()
    kept, dropped = alpha_values(x, p)
    plain = torch.einsum("o...,n...->no", matrix, x.double())
    law = MaskLaw(p, alpha_scale(p), SATURATION)
    split = Split(nn.Identity(), [], 1, nn.Identity(), 1, [])
    ending = Ending(Site("s", kind, p, True, mask_shape), law, 0, matrix, split)
    outputs, chances = [], []
    for bits in itertools.product([0.0, 1.0], repeat=math.prod(mask_shape)):
        keep = torch.tensor(bits).view(1, *mask_shape)
        outputs.append(torch.einsum("o...,n...->no", matrix, torch.where(keep > 0, kept, dropped)))
        chances.append(math.prod(1 - p if b else p for b in bits))
        away = ending.deviation(x, keep)
        torch.testing.assert_close(ending.mean(plain, x) + away, outputs[-1], atol=1e-5, rtol=0)
    values, chance = torch.stack(outputs), torch.tensor(chances, dtype=torch.float64).view(-1, 1, 1)
    mean = (chance * values).sum(0)
    torch.testing.assert_close(ending.mean(plain, x), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(ending.std(x), (chance * (values - mean).square()).sum(0).sqrt(), rtol=1e-5, atol=0)


def test_alpha_dropout_as_the_very_last_step_is_served() -> None:
    """Most outputs then rest on no unit that the probe lets vary, and their standard deviation must be exactly 0."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 8), nn.AlphaDropout(0.3)), torch.randn(4, 8)
    sampler = prepare(net, x, task="generic")
    assert sampler.closed_form
    exact, sampled = sampler.uncertainty(x), sampler.uncertainty(x, 10_000, method="sampled")
    torch.testing.assert_close(exact.std, sampled.std, rtol=0.02, atol=0)
