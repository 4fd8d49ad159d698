"""What `/metrics` shows where several processes serve: counts of all of them, whichever one answers.

Each worker counts in files of a folder that the parent made (prometheus-client's multiprocess mode). Counters and
histograms are sums, those of workers that died included; gauges are of the workers that live.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import PLATFORM_COLLECTOR, CollectorRegistry, Info, Metric, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def registry_of_all(build: Info) -> CollectorRegistry | None:
    """None where this process serves alone. build: is the same for all, and is not counted in files."""
    folder = os.environ.get(_FOLDER)
    if folder is None:
        return None
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    for collector in (WorkerProcesses(Path(folder)), PLATFORM_COLLECTOR, build):
        registry.register(collector)
    return registry


class WorkerProcesses(Collector):
    """CPU, memory and open files of each worker that lives, by `pid`: a sum would fall when a worker dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for pid in self._pids():
            of_one = ProcessCollector(pid=lambda pid=pid: pid, registry=None)  # type: ignore[misc]
            for metric in of_one.collect():
                whole = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    whole.add_sample(sample.name, {**sample.labels, "pid": str(pid)}, sample.value)
        return found.values()

    def _pids(self) -> list[int]:
        """The parent takes these files away when a worker has died."""
        return sorted({int(file.stem.rpartition("_")[2]) for file in self._folder.glob("gauge_live*_*.db")})
