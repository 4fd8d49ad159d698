"""50 samples on a CUDA device: `python -m benchmarks.gpu`. Status 2 and one sentence where there is none.

Networks with random weights, rows 1, 32, 256. Timed in turn: one deterministic pass; the usual loop (dropout on, batch
normalisation in eval mode, one pass a sample) in float32 and under autocast to bfloat16; repeating the batch 50 times,
in one pass; this engine in float32, tf32 and bfloat16 with its bank warm for 8 rotating seeds, and in float32 with
seeds it has never seen. float32 is without TF32 for all. Each is waited for and its mean and std are computed. Medians;
ratios are what to quote. The last column is the share of the device's bfloat16 matrix rate, measured first, that the
engine in bfloat16 reaches, by the operations of a whole pass a sample. tf32 and bfloat16 are timed even where `prepare`
would not admit them for these random weights; a line under the table says so.

A cell says why where a way does not run there. Every line is printed as soon as it is measured, and what does not fit
into `--seconds` is left out by name. `--try` goes through all of it on the CPU with networks of a few units.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine import SAMPLES
from benchmarks.networks import NETWORKS, SMALL_NETWORKS, Network
from service.errors import ErrorbarError
from service.sampling import Sampler, prepare
from service.sampling.arming import armed
from service.sampling.bound import ROWS as BOUND_ROWS
from service.sampling.bound import hold_to_float32
from service.sampling.device import exact_float32, finish, release
from service.sampling.memory import ran_out_of_memory
from service.sampling.options import Dtype

ROWS = (1, 32, 256)
SEEDS = 8
COLUMNS = ("one pass", "usual loop", "loop, bf16", "repeat the batch", "engine", "engine, tf32", "engine, bf16",
           "engine, unseen seed")
RATIOS = (("usual loop", "engine"), ("usual loop", "engine, bf16"), ("loop, bf16", "engine, bf16"),
          ("repeat the batch", "engine"), ("engine", "one pass"), ("usual loop", "engine, unseen seed"))
_MATRIX, _PRODUCTS = 8192, 20
_WARM_UPS, _WARM_SHARE, _TURNS = 2 * SEEDS, 0.1, 24  # the bank keeps what was asked for twice
_CELL_SECONDS = 15.0

Call = Callable[[int], object]


class Samplers(NamedTuple):
    """Of one network, by type; a sentence in place of one that there is not."""

    float32: Sampler
    tf32: Sampler | str
    bfloat16: Sampler | str
    remarks: list[str]


def samplers(network: Network, device: torch.device) -> Samplers:
    exact = prepare(network.module(), network.rows(4), task="classification", device=str(device))
    rows, remarks = network.rows(BOUND_ROWS).to(device), []

    def lowered(dtype: Dtype) -> Sampler | str:
        try:
            made = exact.lowered(rows, dtype)
            made.tune(rows)
        except Exception as e:
            return _sentence(e)
        try:
            error = hold_to_float32(made, exact, {"input": rows})
            remarks.append(f"{network.name}, {dtype}: admitted, mean {error.mean:.3f}, std {error.std:.3f}")
        except ErrorbarError as e:
            remarks.append(f"{network.name}, {dtype}: not admitted with random weights: {e.detail}")
        return made

    return Samplers(exact, lowered("tf32"), lowered("bfloat16"), remarks)


def calls(network: Network, made: Samplers, rows: int, samples: int, device: torch.device) -> list[Call | str]:
    """What is timed, in the order of COLUMNS."""
    module = network.module().to(device)
    inputs = [network.rows(rows, seed).to(device) for seed in range(SEEDS)]
    fresh = itertools.count(1000)

    def loop(i: int) -> object:
        with armed(module):
            return _summary(torch.stack([module(inputs[i % SEEDS]).float().softmax(-1) for _ in range(samples)]))

    def loop_bf16(i: int) -> object:
        with torch.autocast(device.type, torch.bfloat16):
            return loop(i)

    def repeat(i: int) -> object:
        x = inputs[i % SEEDS]
        with armed(module):
            drawn = module(x.repeat(samples, *[1] * (x.dim() - 1))).softmax(-1)
        return _summary(drawn.view(samples, rows, -1))

    def engine(sampler: Sampler | str, seed: Callable[[int], int] = lambda i: i % SEEDS) -> Call | str:
        if isinstance(sampler, str):
            return sampler

        def call(i: int) -> object:
            answer = sampler.uncertainty(inputs[i % SEEDS], samples, seed=seed(i))
            return answer.mean, answer.std

        return call

    return [
        lambda i: made.float32.predict(inputs[i % SEEDS]), loop, loop_bf16, repeat, engine(made.float32),
        engine(made.tf32), engine(made.bfloat16), engine(made.float32, lambda _: next(fresh)),
    ]


def medians_ms(timed: Sequence[Call | str], seconds: float, device: torch.device) -> list[float | str]:
    """Medians of calls that take turns, within about so many seconds; or why there is none."""
    ways = [Way(call) for call in timed]
    with torch.no_grad(), exact_float32(device):
        for way in ways:
            started = time.perf_counter()
            for i in range(_WARM_UPS):
                way.run(i, device)
                if time.perf_counter() - started > seconds * _WARM_SHARE:
                    break
            way.times.clear()
        started = time.perf_counter()
        for turn in range(_TURNS):
            for way in ways:
                way.run(turn, device)
            if time.perf_counter() - started > seconds:
                break
    return [way.reason or statistics.median(way.times) * 1e3 for way in ways]


class Way:
    """What is timed: seconds of its runs so far, and why it does not run, empty where it does."""

    def __init__(self, call: Call | str) -> None:
        self._call = call
        self.reason = call if isinstance(call, str) else ""
        self.times: list[float] = []

    def run(self, i: int, device: torch.device) -> None:
        if isinstance(self._call, str) or self.reason:
            return
        try:
            self.times.append(_seconds(self._call, i, device))
            return
        except Exception as e:
            self.reason = "out of memory" if ran_out_of_memory(e) else _sentence(e)
        release(device)  # here nothing refers to the tensors of the failed try any more


def _seconds(call: Call, i: int, device: torch.device) -> float:
    started = time.perf_counter()
    result = call(i)
    finish(device)
    del result
    return time.perf_counter() - started


def matrix_rate(device: torch.device, size: int = _MATRIX) -> float:
    """Operations a second of a bfloat16 matrix product, the best of a few."""
    one, other = (torch.ones(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return 2 * size**3 / min(_seconds(lambda _: one @ other, i, device) for i in range(_PRODUCTS))


def operations(network: Network) -> int:
    """Of one pass of one row, with attention and dropout as they are while sampling."""
    module = network.module()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), armed(module), FlopCounterMode(display=False) as counter:
        module(network.rows(1))
    return counter.get_total_flops()


def _summary(draws: Tensor) -> tuple[Tensor, Tensor]:
    return draws.mean(0), draws.std(0)


def _sentence(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:120]


def _cells(network: Network, rows: int, samples: int, medians: Sequence[float | str], rate: float) -> str:
    by_column = dict(zip(COLUMNS, medians, strict=True))
    ratios = []
    for above, below in RATIOS:
        one, other = by_column[above], by_column[below]
        ratios.append("–" if isinstance(one, str) or isinstance(other, str) else f"{one / other:.1f}")
    lowered = by_column["engine, bf16"]
    share = "–" if isinstance(lowered, str) else f"{rows * samples * operations(network) / (lowered / 1e3) / rate:.0%}"
    times = [t if isinstance(t, str) else f"{t:.3f}" for t in medians]
    return f"| {' | '.join([network.name, str(rows), *times, *ratios, share])} |"


def table(
    networks: Sequence[Network], rows: Sequence[int], samples: int, device: torch.device, seconds: float, rate: float,
    say: Callable[[str], None],
) -> None:
    """Says each line as it is measured: few rows of all networks first."""
    ends = time.perf_counter() + seconds
    heads = [*COLUMNS, *(f"{above} / {below}" for above, below in RATIOS), "bf16, of the matrix rate"]
    say(f"| network | rows | {' | '.join(heads)} |")
    say("| --- " * (2 + len(heads)) + "|")
    made: dict[str, Samplers | str] = {}
    cells = list(itertools.product(rows, networks))
    for place, (count, network) in enumerate(cells):
        left = ends - time.perf_counter()
        if left <= 0:
            say(f"| {network.name} | {count} | not measured: the time was up |")
            continue
        if network.name not in made:
            try:
                made[network.name] = samplers(network, device)
            except Exception as e:
                made[network.name] = _sentence(e)
        ready = made[network.name]
        if isinstance(ready, str):
            say(f"| {network.name} | {count} | not served: {ready} |")
            continue
        medians = medians_ms(
            calls(network, ready, count, samples, device), min(_CELL_SECONDS, left / (len(cells) - place)), device)
        say(_cells(network, count, samples, medians, rate))
    for ready in made.values():
        if not isinstance(ready, str):
            _tell(ready, say)


def _tell(ready: Samplers, say: Callable[[str], None]) -> None:
    """What stands under the table: what was admitted, which kernels serve, and what is replayed."""
    for remark in ready.remarks:
        say(f"- {remark}")
    for sampler in (ready.float32, ready.tf32, ready.bfloat16):
        if isinstance(sampler, Sampler):
            serving = ", ".join(f"from {rows} rows {kernel.name}" for rows, kernel in sampler.serves_from)
            say(f"- {sampler.dtype}: {serving}")
            for note in sampler.described().notes:
                say(f"  - {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480, help="after which nothing new is begun")
    parser.add_argument("--try", action="store_true", dest="trial", help="on the CPU, with small networks")
    options = parser.parse_args()
    if not options.trial and not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no CUDA device here, so nothing was measured", file=sys.stderr)
        sys.exit(2)
    device = torch.device("cpu") if options.trial else torch.device("cuda", torch.cuda.current_device())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    rate = matrix_rate(device, 256 if options.trial else _MATRIX)
    name = "the CPU, only to try it" if options.trial else torch.cuda.get_device_name(device)
    samples = 10 if options.trial else SAMPLES
    print(f"{name}, {datetime.date.today()}, commit {commit.stdout.strip() or 'unknown'}, torch {torch.__version__}, "
          f"T = {samples}, ms; bfloat16 matrix products at {rate / 1e12:.3g} TFLOP/s\n", flush=True)
    networks, rows = (SMALL_NETWORKS, (1, 3)) if options.trial else (NETWORKS, ROWS)
    table(networks, rows, samples, device, options.seconds, rate, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
