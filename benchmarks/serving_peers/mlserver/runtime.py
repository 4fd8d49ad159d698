"""MLServer's runtime for the digits: its adaptive batcher hands it many requests as one."""

from __future__ import annotations

import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving_peers.network import Digits


class Runtime(MLModel):  # type: ignore[misc]  # not installed where types are checked
    async def load(self) -> bool:
        self._digits = Digits()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        mean, std = self._digits.repeated(torch.from_numpy(np.asarray(rows, np.float32)))
        outputs = [NumpyCodec.encode_output("mean", mean.numpy()), NumpyCodec.encode_output("std", std.numpy())]
        return InferenceResponse(model_name=self.name, outputs=outputs)
