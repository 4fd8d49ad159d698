"""A server's process and all that it started: how it is started on given cores, and what it uses, from /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import ROOT

_START_S, _POLL_S, _END_S = 120.0, 0.05, 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


class DidNotStart(Exception):
    """The message is a line of its log: the last that speaks of an error, or else the last."""


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], cores: Sequence[int], ready_url: str, log: Path,
    whole: str = "",
) -> Iterator[int]:
    """The process id of a server that answers 200 at ready_url, with `whole` in its answer, pinned to these cores;
    ended afterwards, with every process that it started. DidNotStart."""
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *command], cwd=ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stdout=written, stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(process, ready_url, log, whole)
        yield process.pid
    finally:
        all_of_it = tree(process.pid)
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end_session(process, all_of_it)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, whole: str) -> None:
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200 and whole in answer.read().decode():
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(_POLL_S)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
    raise DidNotStart([line for line in lines if "Error" in line or line is lines[-1]][-2:][0])


def _end_session(process: subprocess.Popen[bytes], started_by_it: Sequence[int]) -> None:
    """Its session is its own, so that this reaches what it started and left, and nothing else."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
    end = time.monotonic() + _END_S
    while any(map(runs, started_by_it)) and time.monotonic() < end:
        time.sleep(_POLL_S)


def runs(pid: int) -> bool:
    """A process that ended may stay in the table until whoever is its parent now looks."""
    try:
        return _fields(Path(f"/proc/{pid}/stat"))[0] not in "ZX"
    except OSError:
        return False


def free_port(together: int = 3) -> int:
    """A port that is free, as are those after it."""
    for _ in range(100):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if port + together <= 65536 and all(_is_free(port + n) for n in range(1, together)):
                return port
    raise OSError("no free ports side by side")


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(_fields(stat)[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_s(pid: int) -> float:
    """User and system time of the tree so far, with that of children that ended and were waited for."""
    total = 0
    for one in tree(pid):
        try:
            total += sum(map(int, _fields(Path(f"/proc/{one}/stat"))[11:15]))
        except OSError:
            continue
    return total / _TICKS


def memory_bytes(pid: int) -> int:
    """Resident memory of the tree; a page that several processes share counts once (PSS)."""
    total = 0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def _fields(stat: Path) -> list[str]:
    """Of /proc/PID/stat, from the state on: the command before it may have spaces."""
    return stat.read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
