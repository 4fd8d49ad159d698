"""The benchmark of a GPU, on the CPU with small networks."""

import itertools

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import COLUMNS, RATIOS, Samplers, calls, matrix_rate, medians_ms, operations, samplers, table
from benchmarks.networks import SMALL_NETWORKS, Network

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made() -> Samplers:
    return samplers(SMALL_NETWORKS[0], CPU)


def lines(networks: list[Network], seconds: float) -> list[str]:
    said: list[str] = []
    table(networks, (1, 3), 10, CPU, seconds, matrix_rate(CPU, 64), said.append)
    return said


def test_every_column_of_every_network_is_timed_few_rows_first(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "_CELL_SECONDS", 0.05)
    head, _, *cells = lines(list(SMALL_NETWORKS[:2]), 60)
    assert head.count("|") == 2 + len(COLUMNS) + len(RATIOS) + 2
    rows = [line.strip("| ").split(" | ") for line in cells if line.startswith("|")]
    assert [row[:2] for row in rows] == [["MLP", "1"], ["CNN", "1"], ["MLP", "3"], ["CNN", "3"]]
    assert {len(row) for row in rows} == {len(head.strip("| ").split(" | "))}
    assert all(float(cell) >= 0 for row in rows for cell in row[2 : 2 + len(COLUMNS) + len(RATIOS)])
    remarks = [line for line in cells if line.startswith("- ")]
    assert [line for line in remarks if line.startswith("- MLP, bfloat16: admitted")]
    assert [line for line in remarks if line.startswith("- tf32: from 1 rows")]


def test_what_does_not_fit_into_the_time_is_left_out_by_name() -> None:
    assert lines(list(SMALL_NETWORKS[:1]), 0)[2:] == [
        "| MLP | 1 | not measured: the time was up |", "| MLP | 3 | not measured: the time was up |"]


def test_a_network_that_cannot_be_prepared_is_a_line_and_not_the_end(monkeypatch) -> None:
    def fail(*_: object) -> Samplers:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(gpu, "samplers", fail)
    assert lines(list(SMALL_NETWORKS[:1]), 60)[2:] == [
        f"| MLP | {rows} | not served: RuntimeError: no such kernel |" for rows in (1, 3)]


def test_a_way_that_fails_says_why_and_the_others_are_timed() -> None:
    def out_of_memory(i: int) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def late(i: int) -> object:
        if i > 2:
            raise ValueError("broken")
        return i

    found = medians_ms([out_of_memory, "not admitted", late, lambda i: i], 0.01, CPU)
    assert found[:3] == ["out of memory", "not admitted", "ValueError: broken"]
    assert isinstance(found[3], float)


def test_what_is_compared_is_the_same_statistic(made) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        _, *sampled = (call(1) for call in calls(SMALL_NETWORKS[0], made, 3, 1000, CPU) if callable(call))
    assert len(sampled) == len(COLUMNS) - 1
    for mean, std in sampled:
        torch.testing.assert_close(mean.double(), sampled[0][0].double(), atol=0.02, rtol=0)
        torch.testing.assert_close(std.double(), sampled[0][1].double(), atol=0.02, rtol=0)


def test_operations_are_those_of_the_matrix_products() -> None:
    widths = [12, 32, 16, 3]
    assert operations(SMALL_NETWORKS[0]) == 2 * sum(a * b for a, b in itertools.pairwise(widths))


def test_attention_is_counted_as_it_runs_while_sampling() -> None:
    layers, length, width = 2, 5, 16
    products = 2 * length * (4 * width**2 + 2 * width * 4 * width) + 2 * 2 * length**2 * width
    assert operations(SMALL_NETWORKS[3]) == layers * products + 2 * width * 2
