"""Which peers a benchmark may be compared with is measured, so the measurement must find the wrong ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.compared_networks import Network, SmallCNN, dropout_on
from benchmarks.peers import SAMPLES, Way, careful_loop, engine, over_samples, repeated, usual_loop
from benchmarks.rightness import keeps_a_stale_answer, reference, verdict
from models.architectures.mlp import MLP

PASSES, CALLS = 1000, 10
DENSE = Network("dense", lambda: MLP(6, (16, 8), 3), lambda n, g: torch.randn(n, 6, generator=g), 16)
NORMALISED = Network("normalised", lambda: SmallCNN((4, 8), side=8, hidden=8),
                     lambda n, g: torch.randn(n, 1, 8, 8, generator=g), 256)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def looping(module: nn.Module) -> Way:
    return Way(lambda x, _: over_samples(torch.stack([module(x).detach() for _ in range(SAMPLES)])), module)


def reason(network: Network, way: Way) -> str:
    return verdict(network, way, reference(network, PASSES), CALLS).reason


@pytest.mark.parametrize("network", [DENSE, NORMALISED], ids=lambda network: network.title)
@pytest.mark.parametrize("build", [careful_loop, repeated, lambda network: engine(network, "float32")])
def test_right_ways_are_found_right(build, network) -> None:
    assert reason(network, build(network)) == ""


def test_the_usual_loop_is_right_where_nothing_has_running_statistics() -> None:
    assert reason(DENSE, usual_loop(DENSE)) == ""


def test_the_usual_loop_is_wrong_where_it_overwrites_running_statistics() -> None:
    assert "buffers" in reason(NORMALISED, usual_loop(NORMALISED))


def test_dropout_that_is_off_is_found() -> None:
    assert "std is 0" in reason(DENSE, looping(DENSE.made()))


@pytest.mark.parametrize("site", ["body.dropout1", "body.dropout2"])
def test_one_site_of_two_that_is_off_is_found(site) -> None:
    module = dropout_on(DENSE.made(), head_only=False)
    module.get_submodule(site).eval()
    assert "of the true one" in reason(DENSE, looping(module))


def test_an_answer_that_is_kept_for_a_refilled_tensor_is_found() -> None:
    inner = careful_loop(DENSE)
    kept = {}

    def by_identity(x, number):
        if id(x) not in kept:
            kept[id(x)] = x, inner.call(x, number)
        return kept[id(x)][1]

    assert keeps_a_stale_answer(DENSE, Way(by_identity, inner.module))
    assert not keeps_a_stale_answer(DENSE, inner)
