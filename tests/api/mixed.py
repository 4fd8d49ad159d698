"""Models whose rows are images, texts, several inputs at once, or plain numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from models.architectures.cnn import CNN
from service.preprocessing.steps import ImageSteps
from tests.api.networks import Judge, Witness
from tests.conftest import CLASSIFIER, classifier, write_model
from tests.manifests import built, manifest, tensor
from tests.preprocessing.files import tokenizer

BODY_BYTES = 200_000  # that a server of these takes
PHOTO = manifest(
    "photo", "classification",
    [tensor("image", 3, 8, 8, image={
        "mode": "RGB", "short_side": 10, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})],
    built("models.architectures.cnn:CNN", image_channels=3, outputs=2),
    description="What is in a photo.", labels=["cat", "dog"],
)
JUDGE = manifest(
    "judge", "classification",
    [tensor("tokens", 8, dtype="int64", range=[0, 39], text={"mask": "mask"}),
     tensor("mask", 8, dtype="int64", range=[0, 1])],
    built("tests.api.networks:Judge"), description="Is a text good or bad?", labels=["bad", "good"],
)
WITNESS = manifest(
    "witness", "classification",
    [tensor("image", 3, 8, 8, image={"mode": "RGB"}),
     tensor("tokens", 8, dtype="int64", range=[0, 39], text={"tokenizer": "said.tokenizer.json"}),
     tensor("numbers", 3)],
    built("tests.api.networks:Witness"), description="An image, what was said of it, and three numbers.",
    labels=["false", "true"],
)
STEPS = ImageSteps("RGB", short_side=10, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def write(root: Path) -> None:
    """photo, judge, witness and flowers."""
    torch.manual_seed(0)
    write_model(root, "photo", PHOTO, CNN(3, 8, outputs=2).eval())
    write_texts(root)
    write_model(root, "flowers", CLASSIFIER, classifier())


def write_texts(root: Path) -> None:
    """judge and witness, whose rows have texts, each with its tokenizer."""
    tokenizer().save(str(write_model(root, "judge", JUDGE, Judge()) / "tokenizer.json"))
    tokenizer().save(str(write_model(root, "witness", WITNESS, Witness()) / "said.tokenizer.json"))
