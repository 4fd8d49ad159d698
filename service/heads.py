"""Heads of requests that came before: a client says nearly the same each time, and what was parsed once need not be
parsed again."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

_END = b"\r\n\r\n"
LENGTH_DIGITS = 6  # that are read of the length of a body
_LENGTH = re.compile(rb"\r\nContent-Length: ?([0-9]{1,%d})\r\n" % LENGTH_DIGITS, re.IGNORECASE)
_KEPT, _LONGEST = 512, 4096  # heads and bytes of one; parsed they take up to five times as much, 10 MiB in all
_NAMES_OF_ONE = frozenset({b"x-request-id", b"traceparent", b"x-b3-traceid", b"x-amzn-trace-id"})
_OF_A_HEAD = ("type", "asgi", "http_version", "root_path", "headers", "method", "path", "raw_path", "query_string")


class Split(NamedTuple):
    """alike: the bytes of a head, but for the digits of its body's length, which are `length`. body_at: where the body
    begins."""

    alike: bytes
    length: bytes
    body_at: int


def split(data: bytes) -> Split | None:
    """Of what begins with a head. None where it is not whole or very long, or does not say how long its body is."""
    end = data.find(_END, 0, _LONGEST)
    found = _LENGTH.search(data, 0, end + 2) if end > 0 else None
    if found is None:
        return None
    start, stop = found.span(1)
    return Split(data[:start] + data[stop:end], found[1], end + len(_END))


class Head(NamedTuple):
    """scope: what a request with this head has in its ASGI scope, save what its connection has. at: the place of the
    length among the headers. route: model, version and mode."""

    scope: Mapping[str, Any]
    at: int
    route: re.Match[str]

    def headers(self, length: bytes) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = self.scope["headers"].copy()
        headers[self.at] = b"content-length", length
        return headers


class Heads:
    """Those that came last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Head] = OrderedDict()

    def find(self, given: Split) -> Head | None:
        found = self._kept.get(given.alike)
        if found is not None:
            self._kept.move_to_end(given.alike)
        return found

    def keep(self, given: Split, scope: Mapping[str, Any], route: re.Match[str]) -> None:
        """given: what was parsed to that scope. Not kept where the request has a name of its own, since no other will
        come with it; nor where a line is not a header, as of a request that was read again without its upgrade: the
        parser need not have seen the end of the head where `split` did."""
        names = [name for name, _ in scope["headers"]]
        if given.alike.count(b"\n") != len(names) or not _NAMES_OF_ONE.isdisjoint(names):
            return
        self._kept[given.alike] = Head(
            {key: scope[key] for key in _OF_A_HEAD}, names.index(b"content-length"), route)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
