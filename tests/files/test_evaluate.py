"""`errorbar evaluate`: figures that a slow loop gives too, of a file's rows, as a table, JSON and one HTML file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.repository import ReadyModel

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal([5.8, 3.0, 3.8], 0.5, (40, 3))
HEIGHT_ROWS = GENERATOR.normal(0, 1, (30, 4))
FAR = GENERATOR.normal(60, 20, (25, 3))


def figures(said: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {m["name"]: m["values"] for m in json.loads(said)["metrics"]}
    return found


@pytest.fixture
def labels(tmp_path) -> np.ndarray:
    """Of the rows in flowers.npz, which are about half right whatever the model says."""
    labels = np.random.default_rng(1).integers(0, 2, len(X))
    np.savez(tmp_path / "flowers.npz", x=X, label=labels)
    np.savez(tmp_path / "far.npz", x=FAR, label=np.zeros(len(FAR)))
    (tmp_path / "species.csv").write_text("a,b,c,species\n1,2,3,none\n")
    return labels


def test_classification_figures_are_those_of_the_rows(run, labels, by_rule: dict[str, ReadyModel]) -> None:
    status, out, _ = run("evaluate", "flowers", "--data", "flowers.npz", "--json")
    assert status == 0
    found = figures(out)
    sampler, rows = by_rule["flowers"].sampler, torch.tensor(X, dtype=torch.float32)
    answer = sampler.uncertainty(rows, seed=0)
    for way, p in (("eval mode", sampler.predict(rows).double().numpy()), ("MC dropout", answer.mean.numpy())):
        of_label = p[np.arange(len(X)), labels]
        expected = {
            "accuracy": (p.argmax(1) == labels).mean(), "negative log-likelihood": -np.log(of_label).mean(),
            "Brier score": ((p - np.eye(2)[labels]) ** 2).sum(1).mean(),
        }
        for name, value in expected.items():
            assert found[name][way]["estimate"] == pytest.approx(value, abs=1e-5)
            assert found[name][way]["low"] <= value <= found[name][way]["high"]


def test_regression_figures_are_those_of_the_rows(run, tmp_path, by_rule: dict[str, ReadyModel]) -> None:
    model = by_rule["height"]
    values = np.random.default_rng(2).normal(0, 1, len(HEIGHT_ROWS))
    lines = [",".join(map(str, [value, *row])) for row, value in zip(HEIGHT_ROWS, values, strict=True)]
    (tmp_path / "height.csv").write_text("\n".join(["size,a,b,c,d", *lines]))
    status, out, _ = run("evaluate", "height", "--data", "height.csv", "--truth", "size", "--json")
    assert status == 0
    found = figures(out)
    rows = torch.tensor(HEIGHT_ROWS, dtype=torch.float32)
    answer = model.sampler.uncertainty(rows, seed=0)
    mean, std = answer.mean.numpy()[:, 0], answer.std.numpy()[:, 0]
    assert found["RMSE"]["MC dropout"]["estimate"] == pytest.approx(np.sqrt(((mean - values) ** 2).mean()), rel=1e-5)
    assert model.manifest.tau is not None
    total = np.sqrt(std**2 + 1 / model.manifest.tau)
    inside = np.abs(values - mean) <= 1.6448536269514722 * total
    assert found["90% interval: coverage"]["MC dropout"]["estimate"] == pytest.approx(inside.mean())
    gaussian = -0.5 * np.log(2 * np.pi * total**2) - (values - mean) ** 2 / (2 * total**2)
    assert found["log-likelihood, Gaussian"]["MC dropout"]["estimate"] == pytest.approx(gaussian.mean(), rel=1e-5)
    assert "log-likelihood, mixture" in found


def test_rows_of_another_kind_are_told_apart_and_everything_stands_in_one_html_file(run, labels, tmp_path) -> None:
    status, out, err = run("evaluate", "flowers", "--data", "flowers.npz", "--ood", "far.npz", "--report", "r.html")
    assert status == 0
    assert "AUROC of mutual information" in out
    assert "flowers/1, 40 rows, 50 samples, seed 0" in out
    assert "MC dropout - eval mode" in out
    assert err == ""
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for part in ("flowers/1: evaluation", "Metrics", "Reliability", "Risk and coverage", "40 rows", "25 rows", "<svg"):
        assert part in page
    assert "src=" not in page
    assert "<script" not in page


def test_the_same_rows_and_seed_give_the_same_figures_and_another_seed_others(run, labels) -> None:
    said = [run("evaluate", "flowers", "--data", "flowers.npz", "--json", "--seed", seed)[1] for seed in "334"]
    assert said[0] == said[1]
    assert figures(said[0])["Brier score"]["MC dropout"] != figures(said[2])["Brier score"]["MC dropout"]
    assert figures(said[0])["Brier score"]["eval mode"] == figures(said[2])["Brier score"]["eval mode"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["flowers", "--data", "flowers.npz", "--truth", "species"], "array 'species' with the truth: missing"),
    (["flowers", "--data", "flowers.npz", "--report", "nowhere/r.html"], "a folder that is there expected"),
    (["flowers", "--data", "species.csv"], "a column 'label' with the truth expected; --truth says"),
    (["plain", "--data", "flowers.npz"], "has no dropout to sample"),
    (["flowers", "--data", "flowers.npz", "--report", "r.pdf"], "a name that ends in .html expected"),
    (["flowers", "--data", "flowers.npz", "--samples", "1"], "samples: an integer from 2"),
])
def test_what_cannot_be_evaluated_is_said_in_a_sentence(run, labels, arguments, message) -> None:
    status, out, err = run("evaluate", *arguments)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())
    assert not Path("r.pdf").exists()


def test_rows_of_another_kind_may_have_a_header_of_their_own_and_a_truth_that_does_not_matter(run, tmp_path) -> None:
    rows = [",".join(map(str, row)) for row in HEIGHT_ROWS]
    (tmp_path / "own.csv").write_text("\n".join(["a,b,c,d,value", *(f"{row},0.5" for row in rows)]))
    (tmp_path / "same.csv").write_text("\n".join(["a,b,c,d", *rows]))
    for other in ("same.csv", "own.csv"):
        status, out, _ = run("evaluate", "height", "--data", "own.csv", "--ood", other, "--json")
        assert status == 0
        assert json.loads(out)["other"]["auroc"]["std"]["MC dropout"]["estimate"] == pytest.approx(0.5)


def test_the_digest_of_the_data_is_that_of_the_file(run, labels, tmp_path) -> None:
    _, out, _ = run("evaluate", "flowers", "--data", "flowers.npz", "--json")
    expected = hashlib.sha256((tmp_path / "flowers.npz").read_bytes()).hexdigest()
    assert json.loads(out)["data"] == f"sha256:{expected}"
