"""How many requests a second a server answers when every connection asks again at once: by `wrk`, or without it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_connection import connecting
from benchmarks.load import closed_loop

HOW_TO_GET_WRK = "wrk is not installed (on Debian: apt-get install wrk); the generator's own closed loop is used"
# the requests whole, one after the other
_SCRIPT = """
local posts = {%s}
local place = 0
request = function()
   place = place %% #posts + 1
   return posts[place]
end
done = function(summary)
   local e = summary.errors
   io.write(string.format("requests %%d duration %%d refused %%d lost %%d\\n", summary.requests, summary.duration,
      e.status, e.connect + e.read + e.write + e.timeout))
end
"""
_DONE = re.compile(r"^requests (\d+) duration (\d+) refused (\d+) lost (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Saturated:
    """rate: answers 200 a second. errors: whatever else came of a request."""

    connections: int
    rate: float
    errors: int


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def saturated(port: int, requests: Sequence[bytes], connections: int, seconds: float, wrk: bool) -> Saturated:
    """By `wrk` with one thread, or by `closed_loop`."""
    if wrk:
        return _with_wrk(port, requests, connections, seconds)
    result = closed_loop(connecting("127.0.0.1", port), requests, connections, seconds)
    answered = result.counts().get("200", 0)
    return Saturated(connections, result.goodput(), len(result.outcome) - answered)


def _with_wrk(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Saturated:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "posts.lua"
        script.write_text(_SCRIPT % ",\n".join(map(_quoted, requests)), encoding="utf-8")
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{round(seconds)}s",
                   "--timeout", "60s", "--script", str(script), f"http://127.0.0.1:{port}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 120).stdout
    found = _DONE.search(said)
    assert found is not None, said
    answered, duration_us, refused, lost = map(int, found.groups())  # answered: with any status
    return Saturated(connections, (answered - refused) / duration_us * 1e6, refused + lost)


def _quoted(request: bytes) -> str:
    """As a string of Lua; requests are JSON and headers, ASCII alone."""
    text = request.decode("ascii")
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\r", "\\r"), ("\n", "\\n")):
        text = text.replace(plain, escaped)
    return f'"{text}"'
