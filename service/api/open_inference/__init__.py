"""The Open Inference Protocol (v2) over REST, with its binary tensors and classification.

Source: the public specification (kserve/open-inference-protocol) and Triton's extensions of it."""

from service.api.open_inference.infer import OpenInference as OpenInference
from service.api.open_inference.infer import infer_route as infer_route
from service.api.open_inference.metadata import model_metadata as model_metadata
from service.api.open_inference.metadata import server_metadata as server_metadata
