"""A file of answers is the same, whatever happened while it was made."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidInput, ModelFailed, OutputRefused
from service.files import run as run_module
from service.files.partial import opened
from service.files.run import chunk_rows, threads_of
from service.scheduling import Options
from service.scheduling.at_once import answered
from service.statistics.summary import StopReason
from tests.files.conftest import CHUNK, INDEPENDENT, SHARED, Interrupted, answer_file

ROWS = np.random.default_rng(0).uniform(0, 4, (19, 3)).round(3)
SUFFIXES = (".jsonl", ".csv", ".npy")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return csv_of(tmp_path, ROWS)


def csv_of(folder: Path, values: np.ndarray, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text("petal,stem,leaf\n" + "".join(",".join(map(str, row)) + "\n" for row in values))
    return path


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("options", [None, SHARED, INDEPENDENT], ids=["predict", "shared", "independent"])
def test_chunks_do_not_show_in_the_answers(flowers, rows, tmp_path, options, monkeypatch) -> None:
    answer_file(flowers, rows, tmp_path / "parts.jsonl", options)
    monkeypatch.setattr(run_module, "chunk_rows", lambda model, options: 1000)
    answer_file(flowers, rows, tmp_path / "whole.jsonl", options)
    name = "probabilities" if options is None else "mean"
    parts, whole = ([row[name] for row in lines_of(tmp_path / f"{n}.jsonl")] for n in ("parts", "whole"))
    assert len(parts) == len(ROWS)
    assert np.allclose(parts, whole, atol=1e-6, rtol=0)


def test_rows_with_masks_of_their_own_have_those_of_their_place_in_the_file(flowers, tmp_path) -> None:
    file = csv_of(tmp_path, np.tile(ROWS[:1], (9, 1)))
    for name, options in (("own", INDEPENDENT), ("shared", SHARED)):
        answer_file(flowers, file, tmp_path / f"{name}.jsonl", options)
    own, shared = ({tuple(row["std"]) for row in lines_of(tmp_path / f"{n}.jsonl")} for n in ("own", "shared"))
    assert len(own) == 9
    assert np.ptp(list(shared), axis=0).max() < 1e-6


@pytest.mark.parametrize("options", [None, SHARED, INDEPENDENT], ids=["predict", "shared", "independent"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_that_is_interrupted_at_random_gives_the_same_file(
    flowers, rows, tmp_path, suffix, options, interrupting
) -> None:
    answer_file(flowers, rows, tmp_path / f"whole{suffix}", options)
    chance, out, times = random.Random(suffix), tmp_path / f"out{suffix}", 0
    while not out.exists() and times < 100:
        interrupting(chance.randrange(9), chance.choice([0, 1, 7, 30]))
        try:
            answer_file(flowers, rows, out, options)
        except Interrupted:
            times += 1
        interrupting(10**6, 0)
    assert times > 1
    assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert left_in(tmp_path) == {"rows.csv", out.name, f"whole{suffix}"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("writes", range(14))  # all that a run of five chunks makes
def test_there_is_no_write_at_which_an_interruption_shows(
    flowers, rows, tmp_path, suffix, writes, interrupting
) -> None:
    answer_file(flowers, rows, tmp_path / f"whole{suffix}")
    interrupting(writes, 3)
    out = tmp_path / f"out{suffix}"
    with pytest.raises(Interrupted):
        answer_file(flowers, rows, out)
    assert not out.exists()
    answer_file(flowers, rows, out)
    assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def interrupted(flowers, rows, out, interrupting, writes: int = 9, options: Options | None = SHARED) -> None:
    """Three chunks of four rows are kept."""
    interrupting(writes, 0)
    with pytest.raises(Interrupted):
        answer_file(flowers, rows, out, options)


def test_only_what_is_left_is_computed_and_the_last_chunk_to_compare(flowers, rows, tmp_path, interrupting,
                                                                     monkeypatch) -> None:
    out, places = tmp_path / "out.jsonl", []
    interrupted(flowers, rows, out, interrupting)

    def seen(job: Any) -> Any:
        places.append(job.options.first_row)
        return answered(job)

    monkeypatch.setattr(run_module, "answered", seen)
    assert answer_file(flowers, rows, out).kept == 12
    assert places == [8, 12, 16]


def test_what_stands_behind_the_last_whole_row_is_cut_off(flowers, rows, tmp_path, interrupting) -> None:
    answer_file(flowers, rows, tmp_path / "whole.jsonl")
    out = tmp_path / "out.jsonl"
    interrupted(flowers, rows, out, interrupting)
    for name, more in (("out.jsonl.part", b'{"label": "dai'), ("out.jsonl.journal", b'{"rows":16,"by')):
        with (tmp_path / name).open("ab") as file:
            file.write(more)
    assert answer_file(flowers, rows, out).kept == 12
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(("keep", "kept"), [(-1, 8), (40, 0), (0, 0)])
def test_an_output_that_lost_its_end_goes_on_where_it_is_whole(
    flowers, rows, tmp_path, interrupting, keep, kept
) -> None:
    answer_file(flowers, rows, tmp_path / "whole.csv")
    out = tmp_path / "out.csv"
    interrupted(flowers, rows, out, interrupting)
    part = tmp_path / "out.csv.part"
    part.write_bytes(part.read_bytes()[:keep])
    assert answer_file(flowers, rows, out).kept == kept
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(flowers, rows, tmp_path, monkeypatch) -> None:
    from service.files import partial

    answer_file(flowers, rows, tmp_path / "whole.npy")
    write, room = partial._write, [9]

    def full(file: Any, content: bytes) -> None:
        room[0] -= 1
        if room[0] < 0:
            file.write(content[:5])
            raise OSError(28, "No space left on device")
        write(file, content)

    monkeypatch.setattr(partial, "_write", full)
    with pytest.raises(OutputRefused, match=r"out\.npy\.part: cannot be written: No space left"):
        answer_file(flowers, rows, tmp_path / "out.npy")
    room[0] = 1000
    assert answer_file(flowers, rows, tmp_path / "out.npy").kept > 0
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize(("change", "words"), [
    ({"seed": 4}, "seed was 3, is 4"), ({"samples": 30}, "samples was 20, is 30"),
    ({"masks": "independent"}, "masks was shared, is independent"),
    ({"tolerance": 0.1, "design": "iid"}, "tolerance was not given, is 0.1"),
])
def test_other_options_are_refused_by_name_and_restart_begins_anew(
    flowers, rows, tmp_path, interrupting, change, words
) -> None:
    out, other = tmp_path / "out.jsonl", replace(SHARED, **change)
    interrupted(flowers, rows, out, interrupting)
    before = (tmp_path / "out.jsonl.part").read_bytes()
    with pytest.raises(OutputRefused, match=words) as caught:
        answer_file(flowers, rows, out, other)
    assert "--restart" in caught.value.detail
    assert (tmp_path / "out.jsonl.part").read_bytes() == before
    assert answer_file(flowers, rows, out, other, restart=True).kept == 0
    answer_file(flowers, rows, tmp_path / "whole.jsonl", other)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_another_model_mode_version_or_processor_is_refused_by_name(flowers, rows, tmp_path, interrupting,
                                                                   monkeypatch) -> None:
    out = tmp_path / "out.jsonl"
    interrupted(flowers, rows, out, interrupting)
    with pytest.raises(OutputRefused, match=r"digest was .*, is sha256:other"):
        answer_file(replace(flowers, digest="sha256:other"), rows, out)
    with pytest.raises(OutputRefused, match="mode was uncertainty, is predict"):
        answer_file(flowers, rows, out, None)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("torch.backends.cpu.get_cpu_capability", lambda: "ABACUS")
        with pytest.raises(OutputRefused, match=r"instructions was .*, is ABACUS"):
            answer_file(flowers, rows, out)
    monkeypatch.setattr("service.__version__", "9.9")
    with pytest.raises(OutputRefused, match=r"errorbar was .*, is 9\.9"):
        answer_file(flowers, rows, out)


def test_a_machine_that_computes_other_bits_is_refused(flowers, rows, tmp_path, interrupting, monkeypatch) -> None:
    out = tmp_path / "out.jsonl"
    interrupted(flowers, rows, out, interrupting)

    def a_bit_more(job: Any) -> Any:
        answer = answered(job)
        return answer._replace(arrays={**answer.arrays, "mean": np.nextafter(answer.arrays["mean"], 2)})

    monkeypatch.setattr(run_module, "answered", a_bit_more)
    with pytest.raises(OutputRefused, match="other last digits"):
        answer_file(flowers, rows, out)


@pytest.mark.parametrize(("row", "words"), [(1, "its first 8 rows were others"), (9, "its rows 8 to 11 were others")])
def test_an_input_that_changed_where_it_is_answered_is_refused(
    flowers, rows, tmp_path, interrupting, row, words
) -> None:
    out, changed = tmp_path / "out.jsonl", ROWS.copy()
    interrupted(flowers, rows, out, interrupting)
    changed[row, 1] += 0.001
    csv_of(tmp_path, changed)
    with pytest.raises(OutputRefused, match=words):
        answer_file(flowers, rows, out)
    csv_of(tmp_path, ROWS[:10])
    with pytest.raises(OutputRefused, match="its rows 8 to 11 were others"):
        answer_file(flowers, rows, out)
    csv_of(tmp_path, ROWS)
    assert answer_file(flowers, rows, out).kept == 12


def test_an_input_may_change_behind_what_is_answered(flowers, rows, tmp_path, interrupting) -> None:
    changed = np.concatenate([ROWS, ROWS])
    changed[12:] += 0.001
    answer_file(flowers, csv_of(tmp_path, changed, "changed.csv"), tmp_path / "whole.csv")
    interrupted(flowers, rows, tmp_path / "out.csv", interrupting)
    csv_of(tmp_path, changed)
    assert answer_file(flowers, rows, tmp_path / "out.csv").kept == 12
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_an_input_that_grew_after_its_last_row_was_answered_gives_the_file_of_the_longer_one(
    flowers, rows, tmp_path, interrupting
) -> None:
    longer = np.concatenate([ROWS, ROWS])
    answer_file(flowers, csv_of(tmp_path, longer, "longer.csv"), tmp_path / "whole.npy")
    writes = 2 + 2 * -(-len(ROWS) // CHUNK) + 1  # all but the last, of the final head
    interrupted(flowers, rows, tmp_path / "out.npy", interrupting, writes)
    csv_of(tmp_path, longer)
    assert answer_file(flowers, rows, tmp_path / "out.npy").kept == 16
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_bad_row_is_named_what_is_before_its_chunk_is_kept_and_mended_it_goes_on(flowers, tmp_path) -> None:
    text = csv_of(tmp_path, ROWS).read_text()
    answer_file(flowers, tmp_path / "rows.csv", tmp_path / "whole.csv")
    bad = text.splitlines(keepends=True)
    bad[15] = "1,12,many\n"
    (tmp_path / "rows.csv").write_text("".join(bad))
    out = tmp_path / "out.csv"
    with pytest.raises(InvalidInput, match=r"rows\.csv: line 16, column 'leaf': a number expected, got 'many'"):
        answer_file(flowers, tmp_path / "rows.csv", out)
    assert not out.exists()
    (tmp_path / "rows.csv").write_text(text)
    assert answer_file(flowers, tmp_path / "rows.csv", out).kept == 12
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_nothing_is_left_where_no_row_was_answered(flowers, tmp_path) -> None:
    (tmp_path / "rows.csv").write_text("1,2,x\n")
    with pytest.raises(InvalidInput):
        answer_file(flowers, tmp_path / "rows.csv", tmp_path / "out.csv")
    assert left_in(tmp_path) == {"rows.csv"}


def test_a_model_that_fails_on_a_row_names_it(flowers, rows, tmp_path, monkeypatch) -> None:
    def fails_on_row_9(job: Any) -> Any:
        first = job.options.first_row
        if first <= 9 < first + job.rows:
            raise ModelFailed("a number that is not finite")
        return answered(job)

    monkeypatch.setattr(run_module, "answered", fails_on_row_9)
    with pytest.raises(ModelFailed, match=r"rows\.csv: line 11: a number that is not finite"):
        answer_file(flowers, rows, tmp_path / "out.csv")


def test_a_finished_output_is_replaced_only_where_that_is_asked_for(flowers, rows, tmp_path, interrupting) -> None:
    out = tmp_path / "out.csv"
    answer_file(flowers, rows, out)
    before = out.read_bytes()
    with pytest.raises(OutputRefused, match="--overwrite"):
        answer_file(flowers, rows, out, INDEPENDENT)
    interrupting(9, 0)
    with pytest.raises(Interrupted):
        answer_file(flowers, rows, out, INDEPENDENT, overwrite=True)
    assert out.read_bytes() == before
    assert answer_file(flowers, rows, out, INDEPENDENT, overwrite=True).kept == 12
    assert out.read_bytes() != before


def test_two_runs_do_not_write_one_file(flowers, rows, tmp_path) -> None:
    def another(answered: int, share: float | None) -> None:
        with pytest.raises(OutputRefused, match="another run"):
            answer_file(flowers, rows, tmp_path / "out.csv")

    answer_file(flowers, rows, tmp_path / "out.csv", watch=another)
    assert left_in(tmp_path) == {"rows.csv", "out.csv"}


def test_a_partial_output_without_its_journal_and_a_journal_of_something_else_are_left_alone(
    flowers, rows, tmp_path
) -> None:
    out, part, journal = (tmp_path / f"out.csv{ending}" for ending in ("", ".part", ".journal"))
    part.write_text("precious")
    with pytest.raises(OutputRefused, match="nothing says what it was begun with"):
        answer_file(flowers, rows, out)
    part.unlink()
    journal.write_text("Dear diary")
    with pytest.raises(OutputRefused, match="not a journal of this command"):
        answer_file(flowers, rows, out)
    assert journal.read_text() == "Dear diary"
    answer_file(flowers, rows, out, restart=True)
    assert left_in(tmp_path) == {"rows.csv", "out.csv"}


def test_a_run_goes_on_with_as_many_threads_as_it_was_begun_with(flowers, rows, tmp_path, interrupting) -> None:
    interrupted(flowers, rows, tmp_path / "out.csv", interrupting)
    journal = tmp_path / "out.csv.journal"
    threads = json.loads(journal.read_text().splitlines()[0])["begun_with"]["threads"]
    journal.write_text(journal.read_text().replace(f'"threads":{threads}', '"threads":77'))
    with opened(tmp_path / "out.csv", False, False) as partial:
        assert threads_of(partial) == 77


def test_the_rows_in_memory_do_not_grow_with_the_file(flowers, tmp_path, monkeypatch) -> None:
    alive, most = [0], [0]

    class Row(list[float]):
        def __init__(self, values: list[float]) -> None:
            super().__init__(values)
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self) -> None:
            alive[0] -= 1

    parse = run_module.Source.read.__globals__["Csv"]._row
    monkeypatch.setattr("service.files.lines.Csv._row", lambda self, cells: Row(list(parse(self, cells))))
    path = tmp_path / "rows.csv"
    path.write_text("1,12,2\n" * 400)
    answer_file(flowers, path, tmp_path / "out.csv")
    assert most[0] <= 2 * CHUNK


def test_the_share_grows_to_the_whole_with_the_rows(flowers, rows, tmp_path) -> None:
    seen: list[tuple[int, float | None]] = []
    answer_file(flowers, rows, tmp_path / "out.csv", watch=lambda n, share: seen.append((n, share)))
    assert [n for n, _ in seen] == [4, 8, 12, 16, 19]
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_chunk_is_bounded_by_the_work_and_by_the_numbers_of_its_rows(by_rule) -> None:
    flowers = by_rule["flowers"]
    assert chunk_rows(flowers, None) == 4096
    few, many = (chunk_rows(flowers, replace(SHARED, samples=n)) for n in (50, 10_000))
    assert 1000 < few < 4096
    assert many == 128


def test_rows_that_stop_early_have_a_file_too(flowers, rows, tmp_path) -> None:
    options = Options(200, 0, "shared", "iid", tolerance=0.2)
    for suffix in SUFFIXES:
        answer_file(flowers, rows, tmp_path / f"out{suffix}", options)
    answers = lines_of(tmp_path / "out.jsonl")
    stopped: set[StopReason] = {row["stopped"] for row in answers}
    assert "tolerance" in stopped
    records = np.load(tmp_path / "out.npy")
    assert records["after_stopping"].tolist() == [row["after_stopping"] for row in answers]
    assert records["samples"].tolist() == [row["samples"] for row in answers]
