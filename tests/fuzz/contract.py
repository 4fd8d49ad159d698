"""Requests that schemathesis makes of the OpenAPI document, right and wrong ones, and answers held against it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzz.raw import HANGS_S, Findings
from tests.fuzz.words import ROWS

_MAY_FAIL = (503, 504)
_DOES_WHAT_IT_SAYS = "/unload"  # and then there is nothing left to ask
_WITHOUT_BODY = 5  # requests to a route without one, of each sort
_CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


def fuzz_contract(url: str, count: int, number: int) -> Findings:
    """Sends about so many requests, shared out over the routes of the document."""
    config = SchemathesisConfig.from_dict({})
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    every = [found.ok() for found in schema.get_all_operations()]
    operations = [operation for operation in every if not operation.path.endswith(_DOES_WHAT_IT_SAYS)]
    bodies = sum(bool(operation.body) for operation in operations)
    findings = Findings()
    with requests.Session() as session:
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                # what has no body has little to vary
                share = count // (2 * bodies) if operation.body else _WITHOUT_BODY
                with suppress(Unsatisfiable):  # of a route that takes nothing there is nothing wrong to send
                    _run(operation.as_strategy(generation_mode=mode), share, number, session, findings)
    return findings


def _run(strategy: st.SearchStrategy[Case], count: int, number: int, session: requests.Session, findings: Findings
         ) -> None:
    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck),
              report_multiple_bugs=False)
    @given(strategy, st.booleans())
    def one(case: Case, well_shaped: bool) -> None:
        row = ROWS.get(str((case.path_parameters or {}).get("name")), [1.0])
        if well_shaped and isinstance(case.body, dict) and "instances" in case.body:
            case.body["instances"] = [row]
        if well_shaped and isinstance(case.body, dict) and "inputs" in case.body:
            shape = [1, *np.shape(row)]
            case.body |= {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": [row]}], "outputs": []}
        _judge(case, session, findings)

    one()


def _judge(case: Case, session: requests.Session, findings: Findings) -> None:
    sent = f"{case.method} {case.formatted_path} {_shown(case.body)}".encode("utf-8", "replace")
    try:
        response = case.call(session=session, timeout=HANGS_S)
    except requests.Timeout:
        findings.failed.append(("a hang", sent))
        return
    except (requests.RequestException, UnicodeError, ValueError):
        return  # what the client itself will not send
    findings.sent += 1
    findings.statuses[response.status_code] += 1
    if response.status_code >= 500 and response.status_code not in _MAY_FAIL:
        findings.failed.append((f"a server error: {response.content[:300]!r}", sent))
        return
    try:
        case.validate_response(response, checks=_CHECKS)
    except AssertionError as e:
        findings.failed.append((f"not as the document says: {e}", sent))
    except BaseExceptionGroup as e:
        findings.failed.append((f"not as the document says: {[str(each) for each in e.exceptions]}", sent))


def _shown(body: Any) -> str:
    try:
        return json.dumps(body)[:2000]
    except (TypeError, ValueError):
        return repr(body)[:2000]
