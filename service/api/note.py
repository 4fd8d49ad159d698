"""What the parts of the edge note about a request for one another: who asks, which model answered, how it ended."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from service.keys import Key
from service.repository import ReadyModel

_KEY = "errorbar.note"


@dataclass(slots=True)
class Note:
    """admitted: the gate has let it in. key: None where no keys are needed. code: "ok" or the error's."""

    admitted: bool = False
    key: Key | None = None
    model: ReadyModel | None = None
    code: str = "ok"

    def may_ask(self, model: str) -> bool:
        return self.key is None or self.key.may_ask(model)


def note_of(scope: MutableMapping[str, Any]) -> Note:
    """The note of the request with this ASGI scope; an empty one if there was none."""
    found = scope.get(_KEY)
    if found is None:
        found = scope[_KEY] = Note()
    assert isinstance(found, Note)
    return found
