"""How much one request may ask for and how much may wait."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import InvalidOption, TooLarge


@dataclass(frozen=True)
class Limits:
    body_bytes: int = 32 << 20
    """Largest request body."""
    rows: int = 4096
    """Most rows in a request."""
    samples: int = 10_000
    """Most samples a request may ask for."""
    rows_by_samples: int = 1_000_000
    """Most rows × samples in a request."""
    returned_numbers: int = 1_000_000
    """Most numbers that `include_samples` may return, or that quantiles may keep."""
    queue_s: float = 30.0
    """Most seconds that a request may wait: one that would wait longer is refused at once, and one that has waited so
    long after all, then."""
    waiting_bytes: int = 256 << 20
    """Most bytes of request bodies that may be in memory at once; a request is refused rather than read beyond it."""
    answer_numbers: int = 4_000_000
    """Most numbers in an answer, samples aside."""
    hang_s: float = 60.0
    """Seconds after which a part of a batch that has not returned counts as hanging; more where more was expected."""


def check_size(limits: Limits, rows: int, samples: int, kept_numbers: int, answer_numbers: int = 0) -> None:
    """Refuses, before the queue, what is over the limits. kept_numbers: rows × samples × columns, or 0 if not kept;
    answer_numbers: that the answer has besides."""
    if rows > limits.rows:
        raise TooLarge(f"at most {limits.rows} rows a request, got {rows}; send them in several requests")
    if samples > limits.samples:
        raise InvalidOption(f"samples: 2 to {limits.samples} expected, got {samples}")
    if rows * samples > limits.rows_by_samples:
        raise TooLarge(f"at most {limits.rows_by_samples} rows × samples a request, got {rows} × {samples}")
    if kept_numbers > limits.returned_numbers:
        raise TooLarge(
            f"include_samples and quantiles keep at most {limits.returned_numbers} numbers, not {kept_numbers}"
        )
    if answer_numbers > limits.answer_numbers:
        raise TooLarge(
            f"at most {limits.answer_numbers} numbers an answer, {rows} rows would give {answer_numbers}; send them in "
            "several requests")
