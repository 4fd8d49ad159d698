"""Rows are the same, read in parts or at once, whatever file they stand in."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidInput
from service.files.source import Source

ROWS = np.random.default_rng(0).uniform(0, 4, (11, 3)).astype(np.float32)
NAMES = ("petal", "stem", "leaf")


def text(separator: str = "\n") -> str:
    return separator.join([",".join(NAMES), *(",".join(map(str, row)) for row in ROWS.tolist())]) + separator


def objects() -> str:
    return "\n\n".join(json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS.tolist())


def by_feature() -> dict[str, np.ndarray]:
    return {name: ROWS[:, i] for i, name in reversed(list(enumerate(NAMES)))}


WRITERS = {
    "header.csv": lambda path: path.write_text(text()),
    "blank.csv": lambda path: path.write_text("\n" + text("\n\n")),
    "windows.csv": lambda path: path.write_bytes(b"\xef\xbb\xbf" + text("\r\n").encode()),
    "carriage.csv": lambda path: path.write_bytes(text("\r").encode()),
    "bare.csv": lambda path: path.write_text("\n".join(",".join(map(str, row)) for row in ROWS.tolist())),
    "lists.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, ROWS.tolist()))),
    "objects.jsonl": lambda path: path.write_text(objects()),
    "rows.npy": lambda path: np.save(path, ROWS),
    "columns.npy": lambda path: np.save(path, np.asfortranarray(ROWS)),
    "big_endian.npy": lambda path: np.save(path, ROWS.astype(">f4")),
    "doubles.npy": lambda path: np.save(path, ROWS.astype(np.float64)),
    "one.npz": lambda path: np.savez(path, whatever=ROWS),
    "packed.npz": lambda path: np.savez_compressed(path, x=ROWS),
    "columns.npz": lambda path: np.savez(path, x=np.asfortranarray(ROWS)),
    "features.npz": lambda path: np.savez_compressed(path, **by_feature()),
}


@pytest.fixture(params=WRITERS)
def file(request, tmp_path) -> str:
    path = tmp_path / request.param
    WRITERS[request.param](path)
    return str(path)


def all_of(source: Source, count: int) -> np.ndarray:
    parts = list(iter(lambda: source.read(count), {}))
    assert [len(part["x"]) for part in parts[:-1]] == [count] * (len(parts) - 1)
    return np.concatenate([part["x"].numpy() for part in parts])


@pytest.mark.parametrize("count", [1, 4, 11, 100])
def test_every_kind_of_file_gives_the_same_rows_in_parts_of_any_size(file, flowers, count) -> None:
    assert np.array_equal(all_of(Source(file, flowers), count), ROWS)


def test_passing_over_rows_is_as_reading_them(file, flowers) -> None:
    read, skipped = Source(file, flowers), Source(file, flowers)
    for _ in range(6):
        read.read(1)
    assert skipped.skip(6) == 6
    assert skipped.digest() == read.digest()
    assert skipped.share() == read.share()
    assert np.array_equal(all_of(skipped, 2), ROWS[6:])
    assert skipped.skip(3) == 0


def test_the_digest_tells_rows_that_were_read_and_no_others(file, flowers, tmp_path) -> None:
    name = Path(file).name
    kept, ROWS[10, 2] = float(ROWS[10, 2]), 3.25
    try:
        WRITERS[name](Path(file).with_name("other" + Path(file).suffix))
    finally:
        ROWS[10, 2] = kept
    one, other = Source(file, flowers), Source(str(tmp_path / f"other{Path(file).suffix}"), flowers)
    whole_line = "carriage" in name  # a file that is one line to the system is read at once
    for source in (one, other):
        source.skip(10)
    assert (one.digest() == other.digest()) != whole_line
    for source in (one, other):
        source.skip(1)
    assert one.digest() != other.digest()


def test_the_share_is_one_at_the_end(file, flowers) -> None:
    source = Source(file, flowers)
    assert source.skip(100) == 11
    assert source.share() == 1.0


def test_standard_input_has_no_length(flowers, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(objects().encode())))
    source = Source("-", flowers)
    assert source.share() is None
    assert np.array_equal(all_of(source, 3), ROWS)


@pytest.mark.parametrize(("name", "content", "words"), [
    ("rows.csv", "1,2,3\n1,2,1e60\n", "line 2, column 3: instances[1][2]: a finite number that float32 can hold"),
    ("rows.csv", "petal,stem,leaf\n\n1,2,1e60\n", "line 3, column 'leaf': instances[0].leaf: a finite number"),
    ("rows.csv", "petal,stem,leef\n1,2,3\n", "line 2, column 'leef': instances[0].leef: not a feature"),
    ("rows.csv", "1,2,3\n1,2\n", "line 2: instances[1]: 3 values expected, got 2"),
    ("rows.csv", '1,2,3\n1,"2\n', "line 2: instances[1]: 3 values expected, got 2"),
    ("rows.jsonl", "[1,2,3]\n\n[1,true,3]\n", "line 3: instances[1][1]: a number expected, got true"),
    ("rows.jsonl", '[1,2,3]\n"x"\n', "line 2: instances[1]: numbers expected, got a string"),
    ("rows.jsonl", b"[1,2,3]\n[\xff]\n", "line 2: text in UTF-8 expected, got b'\\xff'"),
])
def test_a_bad_row_is_named_by_its_line_and_column(flowers, tmp_path, name, content, words) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = Source(str(tmp_path / name), flowers)
    with pytest.raises(InvalidInput) as caught:
        all_of(source, 100)
    assert words in caught.value.detail


@pytest.mark.parametrize(("arrays", "words"), [
    ({"x": np.ones((2, 4))}, "array 'x': rows of shape [3] expected, got [4]"),
    ({"petal": np.ones(2), "stem": np.ones(2), "leef": np.ones(2)},
     "array 'leef' is not one of petal, stem, leaf (did you mean 'leaf'?)"),
    ({"petal": np.ones(2), "stem": np.ones(2)}, "array 'leaf': missing"),
    ({"petal": np.ones(2), "stem": np.ones(3), "leaf": np.ones(2)}, "arrays of one length expected"),
    ({"petal": np.ones((2, 1)), "stem": np.ones(2), "leaf": np.ones(2)}, "array 'petal': a number a row expected"),
    ({"x": np.array([[1, 2, np.nan]])}, "instances[0][2]: a finite number"),
    ({"x": np.ones((2, 3), bool)}, "array 'x': numbers expected, got bool"),
])
def test_arrays_that_do_not_fit_are_named(flowers, tmp_path, arrays, words) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(InvalidInput) as caught:
        Source(str(tmp_path / "rows.npz"), flowers).read(10)
    assert words in caught.value.detail


def test_arrays_of_a_wrong_shape_are_refused_before_they_are_read(flowers, tmp_path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10, 10**12)})
    (tmp_path / "rows.npy").write_bytes(header.getvalue())
    with pytest.raises(InvalidInput, match=r"rows of shape \[3\] expected"):
        Source(str(tmp_path / "rows.npy"), flowers)


@pytest.mark.parametrize("kind", ["rows.npy", "columns.npy", "one.npz", "packed.npz", "columns.npz"])
def test_an_array_that_is_cut_short_or_damaged_is_found(flowers, tmp_path, kind) -> None:
    path = tmp_path / kind
    WRITERS[kind](path)
    whole = path.read_bytes()
    if kind.endswith("npz"):
        with zipfile.ZipFile(path) as archive:
            entry = archive.infolist()[0]
            at = entry.header_offset + 30 + len(entry.filename) + entry.compress_size + 10
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    else:
        path.write_bytes(whole[:-5])
    with pytest.raises(InvalidInput, match=path.name):
        all_of(Source(str(path), flowers), 4)


def test_a_line_without_an_end_is_not_taken_into_memory_whole(flowers, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("service.files.lines._LONGEST_BYTES", 1000)
    (tmp_path / "rows.jsonl").write_text("[1,2,3]\n[" + "1," * 600 + "\n")
    with pytest.raises(InvalidInput, match="line 2: at most 1000 bytes expected"):
        all_of(Source(str(tmp_path / "rows.jsonl"), flowers), 4)
