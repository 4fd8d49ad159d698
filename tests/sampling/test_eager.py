"""Networks that run as they are: a row that goes where no example went is sampled by the same laws, or is an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import ErrorbarError, ModelFailed, UnservableModel
from service.sampling import Sampler, prepare

X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
FAR = torch.full((1, 5), 200.0)


class Tripled(nn.Module):
    """In training mode it gives three times as much; its outputs are small."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.head, self.drop, self.size = nn.Linear(5, 2), nn.Dropout(0.5), size

    def forward(self, x: Tensor) -> Tensor:
        found = self.head(self.drop(x if x.sum() > 0 else -x)) * self.size
        return found * 3 if self.training else found


@pytest.mark.parametrize("size", [1.0, 1e-9, 1e-20])
def test_whatever_the_outputs_size_more_than_dropout_in_training_mode_is_refused(size) -> None:
    with pytest.raises(UnservableModel, match="not only dropout"):
        prepare(Tripled(size), X, task="generic")


def test_a_small_output_beside_a_large_one_is_held_to_its_own_size() -> None:
    class Beside(Tripled):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([super().forward(x), 1e6 + x[:, :1] * 0], 1)

    with pytest.raises(UnservableModel, match="not only dropout"):
        prepare(Beside(1.0), X, task="generic")


class Later(nn.Module):
    """What follows the first site depends on the row: `far` where its first number is large."""

    def __init__(self, far: Callable[[Tensor, bool], Tensor] | nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.head = nn.Dropout(0.5), nn.Linear(5, 40)
        self.far = far

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.head(self.first(x))
        if x[0, 0] < 100:
            return hidden
        return self.far(hidden) if isinstance(self.far, nn.Module) else self.far(hidden, self.training)


def made(far: Callable[[Tensor, bool], Tensor] | nn.Module, sites: list[str] | None = None) -> Sampler:
    sampler = prepare(Later(far), X, task="generic", sites=sites)
    assert sampler.eager_reason
    assert [site.name for site in sampler.sites] == ["first"]
    return sampler


@pytest.mark.parametrize("far", [nn.Dropout(0.5), nn.AlphaDropout(0.5)], ids=["dropout", "alpha dropout"])
def test_the_manifests_choice_holds_for_sites_that_only_a_row_in_service_meets(far) -> None:
    rows = torch.cat([X, FAR])
    chosen, every = made(far, ["first"]), made(far)
    draws = chosen.uncertainty(rows, 20, include_samples=True).draws
    assert draws[3].unique().numel() > 1  # the first site samples
    expected = made(nn.Identity()).uncertainty(rows, 20, include_samples=True).draws
    torch.testing.assert_close(draws, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(every.uncertainty(rows, 20).std[3], chosen.uncertainty(rows, 20).std[3], rtol=0.01)


def test_a_site_that_is_not_known_to_be_off_fails_the_row() -> None:
    sampler = made(lambda hidden, training: F.alpha_dropout(hidden, 0.5, training), ["first"])
    assert bool((sampler.uncertainty(X, 20).std > 0).any())
    with pytest.raises(ModelFailed, match="not only dropout, for one of these rows"):
        sampler.uncertainty(FAR, 20)


def test_a_row_for_which_training_mode_does_more_than_dropout_fails() -> None:
    sampler = made(lambda hidden, training: hidden * 3 if training else hidden)
    assert sampler.uncertainty(X, 20).mean.isfinite().all()
    for rows in (FAR, torch.cat([X, FAR])):
        with pytest.raises(ModelFailed, match="not only dropout, for one of these rows"):
            sampler.uncertainty(rows, 20)


@pytest.mark.parametrize("p", [1.0, 1 - 1e-13, 1e-13])
def test_the_rate_of_a_site_that_only_a_row_in_service_meets_is_checked(p) -> None:
    sampler = made(nn.Dropout(p))
    with pytest.raises(ErrorbarError, match=r"'far' drops (everything|nothing)"):
        sampler.uncertainty(FAR, 20)


def test_a_functional_site_that_drops_everything_fails_the_row() -> None:
    with pytest.raises(ModelFailed, match="not only dropout, for one of these rows"):
        made(lambda hidden, training: F.dropout(hidden, 1.0, training)).uncertainty(FAR, 20)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.drop = nn.Linear(5, 5), nn.AlphaDropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(x if x.sum() > 0 else -x)
        return self.drop(self.head(hidden))


def test_one_of_two_calls_of_alpha_dropout_cannot_be_left_out() -> None:
    with pytest.raises(UnservableModel, match="cannot be left out while another site of the same module samples"):
        prepare(Twice(), X, task="generic", sites=["drop"])
