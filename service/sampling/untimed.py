"""Choices between ways that give the same numbers within rounding: by the clock, or by rule.

A server lets the clock choose, since that is faster, and the last bits of its answers may differ from one start to the
next. Where two processes must give the same bits, a rule chooses: oneDNN where torch has it, and of a network's kernels
the most special one. One processor and one number of threads then give one answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_BY_RULE = ContextVar("by_rule", default=False)


def by_rule() -> bool:
    """Whether the clock must not choose, on this thread, now."""
    return _BY_RULE.get()


@contextmanager
def chosen_by_rule() -> Iterator[None]:
    """A network must be prepared, and run, within one."""
    token = _BY_RULE.set(True)
    try:
        yield
    finally:
        _BY_RULE.reset(token)
