"""The bundled models as they lie on disk, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from models.recipes import breast_cancer, diabetes, digits, digits_cnn
from models.recipes.publish import REPOSITORY, VERSION
from models.recipes.recipe import Recipe
from service.repository.loader import ReadyModel, load_model

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (digits.RECIPE, digits_cnn.RECIPE, diabetes.RECIPE, breast_cancer.RECIPE)
}


def folder(name: str) -> Path:
    return REPOSITORY / name / VERSION


def ready(name: str) -> ReadyModel:
    """Loaded by the service's own loader."""
    return load_model(folder(name))


def card(name: str) -> str:
    return (folder(name) / "CARD.md").read_text(encoding="utf-8")


def card_row(name: str, first_cell: str) -> list[float]:
    """The numbers of the first table row of the card that starts with these words."""
    start = f"| {first_cell} |"
    line = next(line for line in card(name).splitlines() if line.startswith(start))
    return [float(cell) for cell in line.removeprefix(start).strip(" |").split(" | ")]


def untrained(width: int, classes: int) -> nn.Module:
    """A linear network, seeded: for what does not depend on training."""
    torch.manual_seed(0)
    return nn.Linear(width, classes)
