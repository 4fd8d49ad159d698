"""How far 50 samples are from infinitely many, and whether the standard errors say so: `make bench-statistics`.

For each bundled model, on held-out rows:
- error variance of mean and std over seeds: independent (iid) samples' over balanced ones', at equal T = 50, and the
  time to equal error of the mean: 50 balanced samples, as many iid samples as have that error, and the usual loop;
- calibration of the standard errors: mean(se²) / variance of the estimate over seeds, pooled over rows and classes,
  which is 1 if they are right (accepted: .9 to 1.1 for the mean, .85 to 1.15 for the jackknifed ones);
- bias of std² against the variance of all samples of all seeds, at T = 20 and 50 (accepted: 1 %). Beside it the bias
  that plain ddof 1 over all samples would have.
All of samples alone (`method: "sampled"`); what averaging exactly over the last site adds, `benchmarks.exact` tells.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.engine import machine
from service.sampling import Sampler

SAMPLES = 50
BIAS_SAMPLES = (20, 50)
ESTIMATES = ("mean", "std", "entropy", "mutual_information")
ROWS = 32
_GROUPS = 20  # of seeds, for the standard error of a figure about seeds

Design = Literal["balanced", "iid"]


@dataclass(frozen=True)
class Calibration:
    """Pooled over rows and columns, by estimate. variance: of the estimate over seeds. se_ratio: mean(se²) / variance.
    bias, plain_bias: of the reported variance and of ddof 1 over all samples, as a share of the true variance;
    bias_error: standard error of `bias`."""

    seeds: int
    variance: dict[str, float]
    se_ratio: dict[str, float]
    bias: float
    bias_error: float
    plain_bias: float


def calibration(sampler: Sampler, rows: Tensor, samples: int, design: Design, seeds: Iterable[int]) -> Calibration:
    """Asks for the same rows under each seed and holds what is reported against how it varies."""
    names = ESTIMATES if sampler.task == "classification" else ESTIMATES[:2]
    values: dict[str, list[Tensor]] = {name: [] for name in names}
    squared_errors: dict[str, list[Tensor]] = {name: [] for name in names}
    first, second, plain = [], [], []
    for seed in seeds:
        answer = sampler.uncertainty(rows, samples, seed=seed, design=design, include_samples=True)
        for name in names:
            values[name].append(getattr(answer, name))
            error = getattr(answer, f"{name}_se")
            if error is not None:
                squared_errors[name].append(error.square())
        assert answer.draws is not None
        draws = answer.draws.double()
        first.append(draws.mean(1))
        second.append(draws.square().mean(1))
        plain.append(draws.var(1))
    variance, ratio = {}, {}
    for name in names:
        pooled = torch.stack(values[name]).var(0).sum()
        variance[name] = float(pooled)
        if squared_errors[name]:
            ratio[name] = float(torch.stack(squared_errors[name]).mean(0).sum() / pooled)
    told = torch.stack(values["std"]).square()
    means, squares = torch.stack(first), torch.stack(second)
    bias = _bias(told, means, squares)
    without = [
        _bias(*(torch.cat([part for j, part in enumerate(each.chunk(_GROUPS)) if j != i])
                for each in (told, means, squares)))
        for i in range(_GROUPS)
    ]
    error = math.sqrt((_GROUPS - 1) ** 2 / _GROUPS * statistics.variance(without))
    return Calibration(len(means), variance, ratio, bias, error, _bias(torch.stack(plain), means, squares))


def _bias(told: Tensor, means: Tensor, squares: Tensor) -> float:
    """Of told variances against that of all samples; the seeds' own errors cancel. (seeds, rows, columns) each."""
    grand = means.mean(0)
    true = squares.mean(0) - grand.square() + means.var(0) / len(means)
    return float(told.mean(0).sum() / true.sum() - 1)


def time_to_equal_error(sampler: Sampler, module: torch.nn.Module, rows: Tensor, ratio: float) -> dict[str, float]:
    """ms for the mean at the error that 50 balanced samples have, in turns, seeds and inputs never seen before.
    ratio: iid error variance over balanced at equal T."""
    iid = max(2, round(SAMPLES * ratio))
    module.train()

    def loop(i: int) -> None:
        with torch.no_grad():
            draws = torch.stack([module(rows + i * 1e-6) for _ in range(iid)])
            draws = draws.softmax(-1) if sampler.task == "classification" else draws
            draws.mean(0), draws.std(0)

    def engine(samples: int, design: Design) -> Callable[[int], None]:
        def call(i: int) -> None:
            answer = sampler.uncertainty(rows + i * 1e-6, samples, seed=10**6 + i, design=design, method="sampled")
            assert answer.mean is not answer.std

        return call

    calls = {"balanced_ms": engine(SAMPLES, "balanced"), "iid_ms": engine(iid, "iid"), "loop_ms": loop}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(12):
        for name, call in calls.items():
            started = time.perf_counter()
            call(turn)
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(seen[2:]) for name, seen in times.items()} | {"iid_samples": iid}


def measure(models: list[str], seeds: int) -> dict[str, Any]:
    # scikit-learn and the recipes are needed here only
    from models.recipes import breast_cancer, diabetes, digits, digits_cnn
    from models.recipes.publish import REPOSITORY, VERSION
    from service.repository.loader import load_model
    from service.repository.manifest import read_manifest

    recipes = {each.RECIPE.name: each.RECIPE for each in (digits, digits_cnn, breast_cancer, diabetes)}
    table: dict[str, Any] = {}
    for name in models:
        folder = REPOSITORY / name / VERSION
        sampler = load_model(folder).sampler
        rows = torch.from_numpy(recipes[name].split().test.inputs[:ROWS])
        found: dict[str, dict[int, Calibration]] = {
            design: {n: calibration(sampler, rows, n, design, range(seeds)) for n in BIAS_SAMPLES}
            for design in ("balanced", "iid")
        }
        gain = {
            each: found["iid"][SAMPLES].variance[each] / found["balanced"][SAMPLES].variance[each]
            for each in ("mean", "std")
        }
        architecture = read_manifest(folder / "model.toml").architecture
        module = recipes[name].factory(**architecture.arguments)
        table[name] = {
            "gain": gain, "time": time_to_equal_error(sampler, module, rows, gain["mean"]),
            "designs": {d: {n: asdict(each) for n, each in by.items()} for d, by in found.items()},
        }
    return {"date": datetime.date.today().isoformat(), "machine": machine(), "samples": SAMPLES, "seeds": seeds,
            "rows": ROWS, "models": table}


def report(result: dict[str, Any]) -> str:
    """Markdown."""
    models = result["models"]
    lines = [f"{result['date']}, {result['machine']}; {result['rows']} held-out rows, {result['seeds']} seeds.", "",
             "| model | error variance of the mean, iid / balanced | of the std | balanced, T = 50, ms "
             "| iid to the same error of the mean: T | ms | usual loop, ms |", "| --- |" + " --- |" * 6]
    for name, each in models.items():
        t = each["time"]
        lines.append(f"| {name} | **{each['gain']['mean']:.2f}** | {each['gain']['std']:.2f} | {t['balanced_ms']:.2f} "
                     f"| {t['iid_samples']} | {t['iid_ms']:.2f} | {t['loop_ms']:.1f} |")
    lines += ["", "mean(se²) / variance of the estimate, T = 50:", "",
              "| model | design | mean | std | entropy | mutual information | bias of std², T = 20 | T = 50 "
              "| of plain ddof 1, T = 20 | T = 50 |", "| --- |" + " --- |" * 9]
    for name, each in models.items():
        for design, by in each["designs"].items():
            ratios = by[SAMPLES]["se_ratio"]
            row = [name, design, *(f"{ratios[e]:.3f}" if e in ratios else "–" for e in ESTIMATES)]
            row += [f"{100 * by[n]['bias']:+.2f} ± {100 * by[n]['bias_error']:.2f} %" for n in BIAS_SAMPLES]
            row += [f"{100 * by[n]['plain_bias']:+.2f} %" for n in BIAS_SAMPLES]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    names = ["digits", "digits_cnn", "breast_cancer", "diabetes"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.models, arguments.seeds)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(report(result))


if __name__ == "__main__":
    main()
