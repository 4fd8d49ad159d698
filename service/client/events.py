"""Server-sent events, as an Errorbar server writes them: a name and one line of data each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from service.client.answers import Uncertain, json_of, refused, uncertain_of
from service.errors import ErrorbarError


class Reader:
    """Takes the bytes of a stream and gives an answer for each event that is complete."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._fields: dict[bytes, bytes] = {}
        self._begun = list[bytes]()  # of a line, in pieces
        self.ended = False
        """Whether the last answer came."""

    def take(self, content: bytes) -> Iterator[Uncertain]:
        """Raises the error that the server means. Lines end at a line feed: texts may have what Unicode calls an end
        of a line."""
        first, *others = content.split(b"\n")
        self._begun.append(first)
        for other in others:
            line, self._begun = b"".join(self._begun), [other]
            if (answer := self._line(line.removesuffix(b"\r"))) is not None:
                yield answer

    def _line(self, line: bytes) -> Uncertain | None:
        if line:
            name, _, value = line.partition(b":")
            self._fields[name] = value.removeprefix(b" ")
            return None
        fields, self._fields = self._fields, {}
        if b"data" not in fields:
            return None
        body: Any = json_of(fields[b"data"])
        if fields.get(b"event") not in (b"progress", b"result"):
            raise refused(self._response.status_code, body)
        self.ended = fields[b"event"] == b"result"
        return uncertain_of(body, final=self.ended)

    def check_ended(self) -> None:
        """ErrorbarError where a stream breaks off."""
        if not self.ended:
            raise ErrorbarError("the server's answers ended before the last of them")
