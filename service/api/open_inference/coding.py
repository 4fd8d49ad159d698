"""Compressed bodies: of requests within the limit of bodies, of answers where the client asks and it pays."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool

from service.errors import MalformedBody, TooLarge, UnsupportedMediaType, cut

_ANY_WRAPPER = zlib.MAX_WBITS | 32  # of gzip or of zlib, which is what HTTP calls deflate
MOST_SHRUNK = 1032  # times, that deflate can make anything smaller
_MEMBER, _MOST_MEMBERS = b"\x1f\x8b", 100  # of gzip there may be several, one behind the other
_PAYS_BYTES = 16 << 10
_FASTEST = 1


def decompressed(body: bytes, headers: Mapping[bytes, bytes], most_bytes: int) -> bytes:
    """As the client wrote it. UnsupportedMediaType, MalformedBody; TooLarge, with no more than most_bytes unpacked."""
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedMediaType(f"Content-Encoding gzip or deflate expected, got {cut(coding)!r}")
    parts, room, left = list[bytes](), most_bytes, body
    for _ in range(_MOST_MEMBERS):
        unpacker = zlib.decompressobj(_ANY_WRAPPER)
        try:
            parts.append(unpacker.decompress(left, room + 1))
        except zlib.error as e:
            raise MalformedBody(f"the body is not {coding}: {e}") from e
        room -= len(parts[-1])
        if room < 0:
            raise TooLarge(f"a body that unpacks to at most {most_bytes} bytes expected")
        if not unpacker.eof:
            raise MalformedBody(f"the body is {coding} that ends too soon")
        left = unpacker.unused_data
        if not left.startswith(_MEMBER):
            break
    if left:
        raise MalformedBody(f"the body goes on behind its {coding}")
    return b"".join(parts)


async def response_coding(
    body: bytes, headers: Mapping[bytes, bytes], is_json: bool
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body. Only long JSON is worth it: binary numbers hardly shrink."""
    if not is_json or len(body) < _PAYS_BYTES:
        return [], body
    varies, accepted = (b"vary", b"accept-encoding"), _accepted(headers.get(b"accept-encoding", b""))
    for coding, pack in ((b"gzip", gzip.compress), (b"deflate", zlib.compress)):
        if coding in accepted:
            return [(b"content-encoding", coding), varies], await run_in_threadpool(pack, body, _FASTEST)
    return [varies], body


def _accepted(given: bytes) -> set[bytes]:
    """Codings that a client names, but those it rules out with q=0."""
    named = (coding.replace(b" ", b"").lower().partition(b";q=") for coding in given.split(b","))
    return {coding for coding, _, weight in named if not weight or weight.strip(b"0.")}
