"""What is kept of recent seeds."""

import torch
from torch import Tensor

from service.sampling.bank import Draw, SeedBank


class Maker:
    def __init__(self, floats: int) -> None:
        self.floats, self.made = floats, 0

    def __call__(self, draw: Draw) -> list[Tensor]:
        self.made += 1
        return [torch.full((self.floats,), float(draw.seed))]


def draw(seed: int, total: int = 50) -> Draw:
    return Draw("balanced", seed, 0, 50, total)


def test_what_was_made_for_a_seed_is_given_again() -> None:
    bank, make = SeedBank(), Maker(10)
    first, again = bank.get("a", draw(1), make), bank.get("a", draw(1), make)
    assert first[0] is again[0]
    assert make.made == 1


def test_purposes_and_draws_are_kept_apart() -> None:
    bank, make = SeedBank(), Maker(10)
    assert bank.get("a", draw(1), make)[0][0] == 1
    assert bank.get("a", draw(2), make)[0][0] == 2
    bank.get("b", draw(1), make)
    assert make.made == 3


def test_seeds_that_come_once_do_not_push_out_those_that_return() -> None:
    bank, make = SeedBank(budget_bytes=4000, fresh_bytes=800), Maker(100)  # room for ten and for two
    for _ in range(2):
        for seed in range(8):
            bank.get("a", draw(seed), make)
    for seed in range(100, 200):
        bank.get("a", draw(seed), make)
    before = make.made
    for seed in range(8):
        bank.get("a", draw(seed), make)
    assert make.made == before


def test_no_more_is_kept_than_the_budgets_allow() -> None:
    bank, make = SeedBank(budget_bytes=4000, fresh_bytes=800), Maker(100)
    for _ in range(3):
        for seed in range(1000):
            bank.get("a", draw(seed), make)
    kept = [t for shelf in (bank._fresh, bank._proven) for tensors, _ in shelf._kept.values() for t in tensors]
    assert 0 < sum(4 * t.numel() for t in kept) <= 4800


def test_a_long_request_and_an_outsized_draw_leave_nothing_behind() -> None:
    bank = SeedBank(budget_bytes=4000, fresh_bytes=800)
    for make, total in ((Maker(10), 10_000), (Maker(10_000), 50)):
        for _ in range(3):
            bank.get("a", draw(1, total), make)
        assert make.made == 3
