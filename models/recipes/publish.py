"""Runs a recipe and writes the model's folder: `model.toml`, `weights.safetensors`, `CARD.md`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save

from models.recipes.card import card_markdown
from models.recipes.comparison import Pair, train_pair
from models.recipes.data import Split
from models.recipes.evaluation import SAMPLES, SAMPLING_SEED
from models.recipes.manifest import manifest_toml
from models.recipes.recipe import Recipe

VERSION = "1"
REPOSITORY = Path(__file__).resolve().parent.parent / "repository"

Section = Callable[[Pair, Split], str]
"""A Markdown section of the card that only some models have, from the served pair."""


def publish(recipe: Recipe, out: Path, section: Section | None = None) -> Path:
    """Trains, scores and writes `out`/<name>/1, and returns that folder. Progress goes to stderr.

    Rerun on one machine it writes the same bytes.
    """
    split = recipe.split()
    pairs = []
    for seed in recipe.seeds:
        print(f"{recipe.name}: training seed {seed}, with and without dropout", file=sys.stderr, flush=True)
        pairs.append(train_pair(recipe, split, seed))
    served = pairs[0]
    folder = out / recipe.name / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in served.dropped.module.state_dict().items()}
    (folder / "weights.safetensors").write_bytes(save(state))
    (folder / "model.toml").write_text(_manifest(recipe, split, served.scores.tau), encoding="utf-8")
    extra = "" if section is None else section(served, split)
    (folder / "CARD.md").write_text(card_markdown(recipe, split, pairs, extra), encoding="utf-8")
    return folder


def main(recipe: Recipe, section: Section | None = None) -> None:
    """The command line of a recipe; the folder written goes to stdout."""
    parser = argparse.ArgumentParser(prog=recipe.command, description=f"Trains and writes: {recipe.description}")
    parser.add_argument("--out", type=Path, default=REPOSITORY, help="model repository to write to (%(default)s)")
    print(publish(recipe, parser.parse_args().out, section))


def _manifest(recipe: Recipe, split: Split, tau: float | None) -> str:
    return manifest_toml(
        name=recipe.name,
        task=recipe.task,
        description=recipe.description,
        labels=recipe.labels,
        input_shape=recipe.input_shape,
        input_range=recipe.input_range,
        features=recipe.features(split),
        factory=f"{recipe.factory.__module__}:{recipe.factory.__qualname__}",
        arguments={**recipe.sizes, **recipe.dropout},
        samples=SAMPLES,
        seed=SAMPLING_SEED,
        tau=tau,
    )
