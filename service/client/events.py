"""Server-sent events, as an Errorbar server writes them: a name and one line of data each."""

from __future__ import annotations

from typing import Any

import httpx

from service.client.answers import Uncertain, json_of, refused, uncertain_of
from service.errors import ErrorbarError


class Reader:
    """Takes the lines of a stream and gives an answer for each event that is complete."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._fields: dict[str, str] = {}
        self.ended = False
        """Whether the last answer came."""

    def take(self, line: str) -> Uncertain | None:
        """Raises the error that the server means."""
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        body: Any = json_of(fields["data"])
        if fields.get("event") not in ("progress", "result"):
            raise refused(self._response.status_code, body)
        self.ended = fields["event"] == "result"
        return uncertain_of(body, final=self.ended)

    def check_ended(self) -> None:
        """ErrorbarError where a stream breaks off."""
        if not self.ended:
            raise ErrorbarError("the server's answers ended before the last of them")
