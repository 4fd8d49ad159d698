"""Nothing that others build on changes unseen: the document, metrics, settings, codes of errors, the command line."""

from __future__ import annotations

import pytest

from tests.contract.told import FOLDER, TOLD


@pytest.mark.parametrize("name", TOLD)
def test_what_others_build_on_is_as_it_was(name) -> None:
    kept = (FOLDER / name).read_text(encoding="utf-8")
    assert TOLD[name]() == kept, "`make contract` writes it anew; then the change stands in review and in CHANGELOG.md"
