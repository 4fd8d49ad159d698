"""What torch has once for the whole process. A model is captured and probed while others answer on other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class Shared:
    """A setting that several threads need for a while. Those who need the same value hold it together and the last one
    puts back what was, so that nobody loses it halfway or leaves it changed; who needs another value waits. One thread
    never needs two values at once."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._holders = 0
        self._value: object = None
        self._setting: AbstractContextManager[Any] | None = None

    @property
    def in_use(self) -> bool:
        return self._holders > 0

    @contextmanager
    def held(self, value: object, setting: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        """setting: gives what sets that value on entry and puts the one before back on exit."""
        with self._free:
            self._free.wait_for(lambda: not self._holders or self._value == value)
            if not self._holders:
                self._setting, self._value = setting(), value
                self._setting.__enter__()
            self._holders += 1
        try:
            yield
        finally:
            with self._free:
                self._holders -= 1
                if not self._holders and self._setting is not None:
                    self._setting.__exit__(None, None, None)
                    self._free.notify_all()


_CAPTURING = threading.RLock()


@contextmanager
def traced_alone() -> Iterator[None]:
    """While torch.export traces a module, every module of the process is called through its tracer, those of other
    threads too, and the tracer takes them for parts of what it traces: it raises in their midst. Here they are let
    through. One thread traces at a time."""
    from torch.fx.experimental import proxy_tensor  # half a second, which only those who capture have to spend

    tracer: Any = proxy_tensor._ModuleStackTracer
    with _CAPTURING:
        own, call_module, attribute = threading.get_ident(), tracer.call_module, tracer.getattr

        def called(self: Any, module: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            if threading.get_ident() == own:
                return call_module(self, module, forward, args, kwargs)
            return forward(*args, **kwargs)

        def got(self: Any, name: str, value: Any, cache: Any) -> Any:
            return attribute(self, name, value, cache) if threading.get_ident() == own else value

        tracer.call_module, tracer.getattr = called, got
        try:
            yield
        finally:
            tracer.call_module, tracer.getattr = call_module, attribute
