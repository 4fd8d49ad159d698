"""`tolerance` and `decide` over REST, the command line and the client."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.api.decode import decode_options
from service.cli import main
from service.client import Client
from service.errors import InvalidOption
from service.scheduling import Limits

ROWS = [[1.0, 12.0, 2.0], [2.4, 2.0, 0.2], [0.1, 29.0, 4.0], [2.0, 1.0, 0.1]]
ABOVE = {"above": 0.5, "error": 0.05}
QUICK = {"above": 0.6, "error": 0.1}  # settles some rows before they have three blocks of ten


def uncertain(client, model="flowers", instances=ROWS, **fields):
    return client.post(f"/v1/models/{model}:uncertainty", json={"instances": instances, **fields})


def refused(answer, path: str, words: str) -> None:
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "invalid_option")
    assert body["errors"][0]["path"] == path
    assert words in body["detail"]


def metric(client, start: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start)), 0.0)


def test_a_tolerance_stops_each_row_after_its_own_samples(client, state) -> None:
    body = uncertain(client, tolerance=0.08, seed=1).json()
    assert body["sampling"] == {
        "method": "sampled", "samples": 1000, "seed": 1, "masks": "shared", "design": "iid", "dtype": "float32",
        "sites_active": 2, "sites_total": 2, "tolerance": 0.08,
    }
    sampler = state.repository.get("flowers").sampler
    for row, instance in zip(body["predictions"], ROWS, strict=True):
        n = row["samples"]
        assert (row["stopped"], row["after_stopping"], row["settled"], row["se_df"]) == ("tolerance", True, None, n - 1)
        plain = sampler.uncertainty(torch.tensor([instance]), n, 1, design="iid")
        for name in ("mean", "std", "mean_se", "std_se"):
            assert row[name] == pytest.approx(getattr(plain, name)[0].tolist(), abs=1e-6)
    assert len({row["samples"] for row in body["predictions"]}) > 1


def test_a_row_that_has_all_samples_says_so(client) -> None:
    row = uncertain(client, tolerance=1e-4, samples=100).json()["predictions"][0]
    assert (row["samples"], row["stopped"], row["after_stopping"]) == (100, "samples", False)


def test_a_decision_says_which_side_each_row_is_on(client) -> None:
    body = uncertain(client, decide=ABOVE).json()
    assert body["sampling"]["decide"] == ABOVE
    for row in body["predictions"]:
        assert row["stopped"] == ("decision" if row["settled"] else "samples")
        if row["settled"] is not None:
            assert (max(row["mean"]) > 0.5) == (row["settled"] == "above")
    assert {row["settled"] for row in body["predictions"]} & {"above", "below"}


def test_numbers_that_only_some_rows_have_are_null_in_the_others(client) -> None:
    rows = uncertain(client, decide=QUICK, include_samples=True, quantiles=[0.5]).json()["predictions"]
    few, *_, many = sorted(rows, key=lambda row: row["samples"])
    assert few["samples"] < 21 <= many["samples"]
    assert (few["std_se"], few["entropy_se"]) == (None, None)
    assert None not in (many["std_se"], many["entropy_se"])
    for row in rows:
        assert np.array(row["sample_values"]).shape == (row["samples"], 2)
        assert row["mean"] == pytest.approx(np.mean(row["sample_values"], 0).tolist(), abs=1e-6)


def test_an_ordinary_answer_says_nothing_of_stopping(client) -> None:
    body = uncertain(client, tolerance=None, decide=None).json()
    assert "after_stopping" not in body["predictions"][0]
    assert body["sampling"]["samples"] == 50
    assert "tolerance" not in body["sampling"]


@pytest.mark.parametrize(("fields", "path", "words"), [
    ({"tolerance": "0.05"}, "tolerance", 'a number expected, got "0.05"'),
    ({"tolerance": True}, "tolerance", "a number expected, got true"),
    ({"tolerance": 0}, "tolerance", "between 0 and 0.5"),
    ({"tolerance": 0.5}, "tolerance", "between 0 and 0.5"),
    ({"decide": 0.9}, "decide", "expected, got the number 0.9"),
    ({"decide": {"above": 0.9}}, "decide.error", "missing"),
    ({"decide": {"abov": 0.9, "error": 0.01}}, "decide.abov", "did you mean 'above'"),
    ({"decide": {"above": "high", "error": 0.01}}, "decide.above", "a number expected"),
    ({"decide": {"above": 0.4, "error": 0.01}}, "decide.above", "from 0.5 to less than 1"),
    ({"decide": {"above": 1, "error": 0.01}}, "decide.above", "from 0.5 to less than 1"),
    ({"decide": {"above": 0.9, "error": 1}}, "decide.error", "at most 0.5"),
    ({"decide": {"above": 0.9, "error": 0.01}, "samples": 51}, "samples", "at least 52 are needed"),
    ({"decide": {"above": 0.9, "error": 0.001}, "samples": 73}, "samples", "at least 74 are needed"),
    ({"decide": {"above": 0.999, "error": 0.01}}, "samples", "got 1000"),
    ({"tolerance": 0.05, "decide": ABOVE}, "decide", "not both"),
    ({"tolerance": 0.05, "design": "balanced"}, "design", "independent samples"),
    ({"decide": ABOVE, "design": "balanced"}, "design", "independent samples"),
    ({"tolerance": 0.05, "samples": 1}, "samples", "an integer from 2"),
    ({"tolerance": 0.05, "on_deadline": "later"}, "on_deadline", '"fail" or "partial" expected'),
])
def test_a_rule_that_could_not_hold_is_refused_by_its_path(client, fields, path, words) -> None:
    refused(uncertain(client, **fields), path, words)


@pytest.mark.parametrize("option", [{"tolerance": 0.05}, {"decide": ABOVE}])
def test_a_regression_cannot_stop_early(client, option) -> None:
    refused(uncertain(client, "height", [[0.0] * 4], **option), next(iter(option)), "only for classification")
    body = client.post("/v1/models/flowers:predict", json={"instances": ROWS, **option}).json()
    assert "an option of :uncertainty" in body["detail"]


def test_iid_may_be_said_and_52_samples_are_enough(client) -> None:
    answer = uncertain(client, decide={"above": 0.9, "error": 0.01}, samples=52, design="iid")
    assert answer.status_code == 200
    assert answer.json()["sampling"]["samples"] == 52


def test_a_locked_model_stops_no_row_early(state) -> None:
    model = state.repository.get("flowers")
    locked = replace(model.manifest.sampling, locked=True, design="iid", samples=1000)
    model = replace(model, manifest=replace(model.manifest, sampling=locked))
    for option in ({"tolerance": 0.05}, {"decide": ABOVE}):
        with pytest.raises(InvalidOption, match="this model is locked"):
            decode_options(option, model, Limits())


def test_a_server_that_allows_fewer_samples_draws_no_more(state) -> None:
    options = decode_options({"tolerance": 0.05}, state.repository.get("flowers"), Limits(samples=300))
    assert (options.samples, options.design) == (300, "iid")


def test_the_metrics_count_rows_by_why_they_stopped(client) -> None:
    names = ('errorbar_stopped_total{model="flowers",reason="tolerance"}', 'errorbar_samples_total{model="flowers"}',
             'errorbar_samples_per_request_count{model="flowers"}', 'errorbar_samples_per_request_sum{model="flowers"}')
    before = [metric(client, name) for name in names]
    rows = uncertain(client, tolerance=0.08).json()["predictions"]
    counts = [row["samples"] for row in rows]
    moved = [metric(client, name) - old for name, old in zip(names, before, strict=True)]
    assert moved == [len(rows), sum(counts), 1, max(counts)]


def test_the_client_has_samples_and_sides_as_lists_over_rows(application) -> None:
    client = Client(transport=application._transport)
    answer = client.uncertainty("flowers", ROWS, decide=QUICK)
    assert answer.samples.min() < 21 <= answer.samples.max()
    assert answer.stopped == ["decision" if side else "samples" for side in answer.settled]
    assert answer.sampling.decide.above == 0.6
    assert np.isnan(answer.std_se[answer.samples < 21]).all()
    assert np.isfinite(answer.std_se[answer.samples > 20]).all()
    assert np.isfinite(answer.mean).all()
    assert client.uncertainty("flowers", ROWS, tolerance=0.08).stopped == ["tolerance"] * 4


def test_the_command_line_has_the_same(small_models, tmp_path, capsys, application) -> None:
    np.save(tmp_path / "rows.npy", ROWS)

    def run(*options: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["uncertainty", "flowers", str(tmp_path / "rows.npy"), "--models", str(small_models), *options])
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    served = uncertain(application, tolerance=0.08).json()["predictions"]
    printed = json.loads(run("--tolerance", "0.08", "--json")[1])["predictions"]
    assert [row["samples"] for row in printed] == [row["samples"] for row in served]
    assert "after_stopping" in printed[0]
    table = run("--decide-above", "0.5", "--decide-error", "0.05")[1]
    assert "stopped" in table
    assert "above" in table
    status, _, err = run("--decide-above", "0.5")
    assert status == 2
    assert "decide.error: missing" in err
