"""Models on disk: manifests, loading with the admission probe, names and versions. Knows files, not the web."""

from service.repository.loader import ReadyModel, load_model
from service.repository.manifest import Feature, Input, Manifest, SamplingDefaults, read_manifest
from service.repository.repository import Repository

__all__ = [
    "Feature", "Input", "Manifest", "ReadyModel", "Repository", "SamplingDefaults", "load_model", "read_manifest",
]
