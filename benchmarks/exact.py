"""What averaging exactly over the last site's masks is worth: `python -m benchmarks.exact`.

Regression networks with dropout before their last linear layer, T = 50. Each row is answered 1,000 times with masks of
its own; the error is against 50,000 samples averaged in the same exact way. A figure is how many times smaller the
squared error of `method: "auto"`, pooled over rows, is than that of `method: "sampled"` with the same design; "in all"
compares it, balanced, with independent samples, sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.architectures.mlp import RegressionMLP
from models.recipes.publish import REPOSITORY, VERSION
from service.repository.loader import load_model
from service.sampling import Sampler, prepare
from service.sampling.masks import Design
from service.sampling.options import METHODS, MethodChoice

SAMPLES, REPEATS, LONG = 50, 1000, 50_000


@dataclass(frozen=True)
class Case:
    name: str
    sampler: Sampler
    rows: Tensor


def cases() -> list[Case]:
    torch.manual_seed(0)
    found = []
    for rates in ((0.1, 0.1), (0.2, 0.2), (0.5, 0.5), (0.1, 0.5)):
        x = torch.randn(4, 10)
        net = RegressionMLP(10, (64, 32), 1, rates)
        found.append(Case(f"untrained 10-64-32-1, p = {rates[0]}, {rates[1]}", prepare(net, x, "regression"), x))
    model = load_model(REPOSITORY / "diabetes" / VERSION)
    assert model.manifest.features is not None
    low, high = (torch.tensor([getattr(f, end) for f in model.manifest.features]) for end in ("min", "max"))
    rows = low + (high - low) * torch.rand(4, len(low))
    return [Case("diabetes, bundled: 10-64-32-1, p = 0.2, 0.2", model.sampler, rows), *found]


def errors(case: Case, design: Design, method: MethodChoice, exact: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Mean squared errors of the mean and of the std."""
    many = case.rows.repeat_interleave(REPEATS, 0)
    answer = case.sampler.uncertainty(many, SAMPLES, masks="independent", design=design, method=method)
    mean, std = (
        float((found.unflatten(0, (len(case.rows), REPEATS)) - truth.unsqueeze(1)).square().mean())
        for found, truth in zip((answer.mean, answer.std), exact, strict=True)
    )
    return mean, std


def main() -> None:
    print("| network | mean, iid | std, iid | mean, balanced | std, balanced | mean, in all | std, in all |")
    print("| --- " * 7 + "|")
    for case in cases():
        long = case.sampler.uncertainty(case.rows, LONG, seed=999)
        found = {(d, m): errors(case, d, m, (long.mean, long.std)) for d in ("iid", "balanced") for m in METHODS}
        ratios = [
            found[kind, "sampled"][i] / found[design, "auto"][i]
            for kind, design in (("iid", "iid"), ("balanced", "balanced"), ("iid", "balanced")) for i in (0, 1)
        ]
        print("|", " | ".join([case.name, *(f"{r:.1f}" for r in ratios)]), "|")


if __name__ == "__main__":
    main()
