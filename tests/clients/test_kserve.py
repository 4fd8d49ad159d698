"""The KServe SDK's client, and callers of TF Serving's V1 protocol, work as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest

from tests.clients.conftest import ROWS, native

kserve = pytest.importorskip("kserve")


def asked(protocol: str, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol=protocol))
        try:
            return await ask(client)
        finally:
            await client.close()

    return asyncio.run(main())


def request(binary: bool, **parameters: Any) -> Any:
    tensor = kserve.InferInput("x", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return kserve.InferRequest("flowers", [tensor], request_id="seven", parameters=parameters)


def test_the_server_and_its_models_are_live_and_ready(url) -> None:
    async def ask(client: Any) -> list[bool]:
        return [await client.is_server_live(url), await client.is_server_ready(url),
                await client.is_model_ready(url, "flowers")]

    assert asked("v2", ask) == [True, True, True]


@pytest.mark.parametrize("binary", [True, False])
def test_infer_is_answered_with_the_native_numbers(url, binary) -> None:
    answer = asked("v2", lambda client: client.infer(
        url, request(binary, mode="uncertainty", samples=40, seed=5), model_name="flowers"))
    expected = native(url, "flowers", "uncertainty", ROWS.tolist(), samples=40, seed=5)
    assert answer.id == "seven"
    for name in ("mean", "std", "entropy"):
        (output,) = (output for output in answer.outputs if output.name == name)
        np.testing.assert_allclose(output.as_numpy(), [row[name] for row in expected], rtol=1e-4, atol=1e-6)


def test_a_model_that_there_is_not_is_an_error_with_its_reason(url) -> None:
    with pytest.raises(httpx.HTTPStatusError) as told:
        asked("v2", lambda client: client.infer(url, request(True), model_name="trees"))
    assert told.value.response.status_code == 404
    assert "no model 'trees'" in told.value.response.json()["error"]


def test_v1_answers_instances_with_predictions(url) -> None:
    answer = asked("v1", lambda client: client.infer(url, {"instances": ROWS.tolist()}, model_name="flowers"))
    expected = native(url, "flowers", "predict", ROWS.tolist())
    assert [row["label"] for row in answer["predictions"]] == [row["label"] for row in expected]
    assert asked("v1", lambda client: client.is_model_ready(url, "flowers")) is True


def test_a_caller_of_tf_serving_finds_its_routes(url) -> None:
    with httpx.Client(base_url=url) as client:
        assert client.get("/v1/models/flowers").json()["ready"] is True
        answer = client.post("/v1/models/flowers/versions/1:predict", json={"instances": ROWS.tolist()})
        assert len(answer.json()["predictions"]) == 2
        assert client.post("/v1/models/trees:predict", json={"instances": [[1]]}).status_code == 404
