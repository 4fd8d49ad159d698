"""Compressed bodies: of requests within the limit of bodies, of answers where the client asks and it pays."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool

from service.errors import MalformedBody, TooLarge, UnsupportedMediaType, cut

_ANY_WRAPPER = zlib.MAX_WBITS | 32  # of gzip or of zlib, which is what HTTP calls deflate
_PAYS_BYTES = 16 << 10
_FASTEST = 1


def decompressed(body: bytes, headers: Mapping[bytes, bytes], most_bytes: int) -> bytes:
    """As the client wrote it. UnsupportedMediaType, MalformedBody; TooLarge, with no more than most_bytes unpacked."""
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedMediaType(f"Content-Encoding gzip or deflate expected, got {cut(coding)!r}")
    unpacker = zlib.decompressobj(_ANY_WRAPPER)
    try:
        found = unpacker.decompress(body, most_bytes + 1)
    except zlib.error as e:
        raise MalformedBody(f"the body is not {coding}: {e}") from e
    if len(found) > most_bytes:
        raise TooLarge(f"a body that unpacks to at most {most_bytes} bytes expected")
    if not unpacker.eof:
        raise MalformedBody(f"the body is {coding} that ends too soon")
    return found


async def response_coding(
    body: bytes, headers: Mapping[bytes, bytes], is_json: bool
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body. Only long JSON is worth it: binary numbers hardly shrink."""
    accepted = {coding.split(b";")[0].strip().lower() for coding in headers.get(b"accept-encoding", b"").split(b",")}
    if not is_json or len(body) < _PAYS_BYTES:
        return [], body
    if b"gzip" in accepted:
        return [(b"content-encoding", b"gzip")], await run_in_threadpool(gzip.compress, body, _FASTEST)
    if b"deflate" in accepted:
        return [(b"content-encoding", b"deflate")], await run_in_threadpool(zlib.compress, body, _FASTEST)
    return [], body
