"""What good requests are made of, and what breaks them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.array_files import bytes_of, npy


def npz(**arrays: Any) -> bytes:
    return bytes_of(np.savez_compressed, **arrays)


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of no date: the same bytes each time
    return file.getvalue()


ROWS: dict[str, list[Any]] = {
    "digits": [0.0, 4.0, 16.0, 7.0] * 16, "diabetes": [59.0, 2, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87],
    "breast_cancer": [1.0] * 30, "digits_cnn": [[[1.0] * 8] * 8],
}
PATHS = (
    b"/healthz", b"/readyz", b"/metrics", b"/v1/models", b"/v1/models/digits", b"/v1/models/digits/versions/1",
    b"/docs", b"/openapi.json", b"/v2", b"/v2/health/live", b"/v2/models/digits", b"/", b"/v2/repository/index",
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {"samples": 20, "seed": 3}, {"tolerance": 0.1}, {"decide": {"above": 0.9, "error": 0.05}},
    {"masks": "independent", "design": "iid"}, {"quantiles": [0.05, 0.5]}, {"include_samples": True, "samples": 10},
    {"method": "sampled"}, {"timeout_ms": 50, "on_deadline": "partial"}, {"priority": 9},
)
NASTY_ADDRESSES = (
    b"*", b"//", b"/%00", b"/..", b"/%2e%2e/%2e%2e/etc/passwd", b"/v1/models/..%2f..%2fdigits:predict",
    b"/v1/models/:predict", b"/v1/models/digits%00:predict", b"/v1/models/digits:predict?%ff=%fe",
    b"/v1/models/digits:predict?\xff\xfe", b"/v1/models/%ff%fe:predict", b"/v1/models/digits:predict#x",
    b"http://elsewhere/v1/models", b"http://[/", b"?", b"/v1/models/" + b"a" * 5000 + b":predict", b"/docs?\xff",
    b"/nothing?\xff", b"/v1/models/digits:predict?" + b"a&" * 500, b"/v1/models/%F0%9F%98%80:predict",
    b"/v1/models/%ED%A0%80", b"/v1/models/digits/versions/1e400", b"/\\..\\x",
    b"/v1/models/digits/versions/%D9%A1:predict", b"/v1/models/digits:predict?samples=10&samples=20", b"/v1//models",
)
NASTY_VALUES = (
    b"", b" ", b"\x00", b"\xff\xfe", b"a" * 9000, b"-1", b"+5", b"0x10", b"1e3", b"99999999999999999999",
    b"18446744073709551616", b"chunked", b"chunked, chunked", b"gzip", b"identity", b"*/*",
    b"application/json; charset=utf-16", b"application/x-npy", b"application/x-npz", b"text/event-stream",
    b"multipart/form-data; boundary=\xff", b"[::1", b"localhost:99999", b"a\tb", b"100-continue", b"Upgrade, close",
    b"websocket", b"h2c", b"Bearer x", b"Basic \xff", b"%0d%0aX: y", b"keep-alive", b"text/\xe9",
)
NAMES = (
    b"Content-Length", b"Transfer-Encoding", b"Content-Type", b"Content-Encoding", b"Accept", b"Host", b"Expect",
    b"Connection", b"Upgrade", b"X-Request-Id", b"Authorization", b"X-API-Key", b"Cookie", b"X-Forwarded-For",
    b"Range", b"TE", b"Trailer", b"Inference-Header-Content-Length", b"HTTP2-Settings", b"Accept-Encoding",
    b"If-Match", b"Forwarded",
)
NASTY_JSON = (
    "NaN", "Infinity", "-Infinity", "1e999", "-0.0", "1" * 400, "-" + "9" * 30, "1e-400", '"\\ud800"', '"\\u0000"',
    '"a"', "null", "true", "false", "{}", "[]", "[[]]", "[" * 2000, "[" * 100_000 + "]" * 100_000,
    '{"a":' * 2000 + "1" + "}" * 2000, "1.5e308", "3.5e38", "9007199254740993", "18446744073709551616",
    "9223372036854775808", "0x10", "01", ".5", "1.", "+1", "'a'", "//", "\ufeff", '"' + "x" * 10_000 + '"',
    '{"b64": "AAAA"}', "[1,2", '{"instances": 1, "instances": 2}', "[null]",
)
NASTY_ARRAYS: tuple[Callable[[], bytes], ...] = (
    lambda: npy(np.array([{"a": 1}, None], dtype=object)), lambda: npy(np.full((2, 64), np.nan, np.float32)),
    lambda: npy(np.zeros((0, 64))), lambda: npy(np.zeros((2, 64), "S3")), lambda: npy(np.zeros((2, 64), complex)),
    lambda: npy(np.zeros((2, 64), ">f8")), lambda: npy(np.zeros(64)), lambda: npy(np.float32(1)),
    lambda: npy(np.asfortranarray(np.ones((3, 64)))), lambda: npy(np.zeros((2, 64), "datetime64[s]")),
    lambda: npy(np.zeros((2, 64), [("a", "f4"), ("b", "i2")])), lambda: npz(x=np.zeros((2, 64))), lambda: npz(),
    lambda: npz(**{"../x": np.zeros((2, 64))}), lambda: npz(x=np.zeros((100_000, 64))),
    lambda: zipped({"x.npy": b"\x80\x04."}), lambda: zipped({"x.npy": npy(np.zeros((2, 64))), "y.npy": b""}),
    lambda: b"\x93NUMPY\x01\x00\xff\xff{", lambda: b"PK\x03\x04",
    lambda: b"\x93NUMPY\x01\x00v\x00%-117s\n" % b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 64)}",
    lambda: b"\x93NUMPY\x03\x00\xff\xff\xff\x7f", lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
)
