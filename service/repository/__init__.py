"""Models on disk: manifests, loading with the admission probe, names and versions. Knows files, not the web."""

from service.repository.inputs import Input
from service.repository.loader import ReadyModel, load_model
from service.repository.manifest import Feature, Manifest, SamplingDefaults, read_manifest
from service.repository.repository import Repository
from service.repository.scan import Key
from service.repository.warm_up import warm_up_inputs

__all__ = [
    "Feature", "Input", "Key", "Manifest", "ReadyModel", "Repository", "SamplingDefaults", "load_model",
    "read_manifest", "warm_up_inputs",
]
