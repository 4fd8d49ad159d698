"""What `benchmarks.serving` measured, as ratios within a round and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.contenders import DEFAULT_SEED, EMPTY, ERRORBAR, ERRORBAR_WORKERS, LOOP

Measured = dict[str, Any]
Round = Mapping[str, Measured]  # by server
OURS = (ERRORBAR, ERRORBAR_WORKERS)


def _saturation(of_round: Round, server: str, route: str) -> float | None:
    """Answers a second; None where it was not measured or is wrong."""
    found = of_round.get(server, {}).get("routes", {}).get(route)
    return None if found is None or found["wrong"] else found["saturation"]


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over is not None and under else None


def _best_other(of_round: Round) -> float | None:
    others = [_saturation(of_round, name, "uncertainty") for name in of_round if name not in (*OURS, LOOP, EMPTY)]
    return max((each for each in others if each is not None), default=None)


def _tail(of_round: Round, server: str) -> float | None:
    at = of_round.get(server, {}).get("routes", {}).get("uncertainty", {}).get("at", {}).get("80%")
    return None if at is None else _ratio(at["latency_ms"]["p99"], at["latency_ms"]["p50"])


def _asked(server: str) -> dict[str, Callable[[Round], float | None]]:
    return {
        f"{server}: uncertainty / predict, requests a second": lambda r: _ratio(
            _saturation(r, server, "uncertainty"), _saturation(r, server, "predict")),
        f"{server}: the same with the default seed": lambda r: _ratio(
            _saturation(r, server, DEFAULT_SEED), _saturation(r, server, "predict")),
        f"{server}: predict / empty route": lambda r: _ratio(
            _saturation(r, server, "predict"), _saturation(r, EMPTY, "empty")),
        f"{server}: uncertainty / usual loop's": lambda r: _ratio(
            _saturation(r, server, "uncertainty"), _saturation(r, LOOP, "uncertainty")),
        f"{server}: uncertainty / best other peer's": lambda r: _ratio(
            _saturation(r, server, "uncertainty"), _best_other(r)),
        f"{server}: p99 / p50 of uncertainty at 80 %": lambda r: _tail(r, server),
    }


def ratios(rounds: Sequence[Round]) -> dict[str, list[float]]:
    """By what they say, one a round; what cannot be said is left out."""
    found = {}
    for name, of_round in {**_asked(ERRORBAR), **_asked(ERRORBAR_WORKERS)}.items():
        each = [value for value in map(of_round, rounds) if value is not None]
        if each:
            found[name] = each
    return found


def ratios_list(found: Mapping[str, Sequence[float]]) -> str:
    lines = []
    for name, each in found.items():
        spread = f" ({min(each):.2f} to {max(each):.2f} over {len(each)} rounds)" if len(each) > 1 else ""
        lines.append(f"- {name}: **{median(each):.2f}**{spread}")
    return "\n".join(lines)


def heading(result: Measured) -> str:
    plan = result["plan"]
    return (
        f"{result['date']}, {result['machine']}, commit {result['commit']}. Single rows, T = {result['samples']}; "
        f"saturation {plan['saturation_s']:g} s at {_listed(plan['connections'])} "
        f"connections; open loops of {plan['load_s']:g} s; {plan['rounds']} rounds, medians.\n"
    )


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def table(run: Measured) -> str:
    """Markdown: a line a server and route."""
    shared = "shared with the generator" if run["generator_shares_cores"] else "the generator on another"
    heads = ["server", "route", "requests a second", "connections", "p50 at 50 %, ms", "p99 at 50 %", "p50 at 80 %",
             "p99 at 80 %", "p99 / p50 at 80 %", "CPU a request at 80 %, ms", "memory, MiB", "idle CPU, %"]
    lines = [f"### {run['cores']} core{'s' * (run['cores'] > 1)} for the server, {shared}", "",
             f"Saturation by {'wrk' if run['wrk'] else 'the generator in a closed loop'}.", "",
             "| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    notes = []
    for name in dict.fromkeys(name for of_round in run["rounds"] for name in of_round):
        starts = [of_round[name] for of_round in run["rounds"] if name in of_round]
        measured = [each for each in starts if "routes" in each]
        notes += [f"- {name}: {each['failed']}" for each in starts if "failed" in each][:1]
        for route in measured[0]["routes"] if measured else ():
            cells, said = _cells(measured, route)
            lines.append("| " + " | ".join([name, route, *cells]) + " |")
            notes += [f"- {name}, {route}: {note}" for note in said]
    return "\n".join([*lines, "", *notes, *[""] * bool(notes)])


def _cells(starts: Sequence[Measured], route: str) -> tuple[list[str], list[str]]:
    found = [each["routes"][route] for each in starts]
    wrong = next((each["wrong"] for each in found if each["wrong"]), "")
    best = max((one for each in found for one in each["tried"]), key=lambda one: one["rate"])
    cells = [f"{median(each['saturation'] for each in found):.0f}{' ✗' * bool(wrong)}", str(best["connections"])]
    notes = [f"wrong: {wrong}"] if wrong else []
    for share in ("50%", "80%"):
        loads = [each["at"][share] for each in found if share in each["at"]]
        cells += [_median(load["latency_ms"][which] for load in loads) for which in ("p50", "p99")]
        notes += _doubts(share, loads)
    eighty = [each["at"]["80%"] for each in found if "80%" in each["at"]]
    cells.append(_median(_ratio(load["latency_ms"]["p99"], load["latency_ms"]["p50"]) for load in eighty))
    cells.append(_median(load["cpu_ms_a_request"] for load in eighty))
    cells += [f"{median(each['memory_mib'] for each in starts):.0f}",
              f"{median(each['idle_cpu_percent'] for each in starts):.1f}"]
    return cells, notes


def _median(values: Any) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    middle = median(known)
    return f"{middle:.3f}" if middle < 1 else f"{middle:.2f}" if middle < 100 else f"{middle:.0f}"


def _doubts(share: str, loads: Sequence[Measured]) -> list[str]:
    """What else became of requests, and where the generator was too late to judge."""
    said = []
    others = {key: sum(load["outcomes"].get(key, 0) for load in loads) for load in loads for key in load["outcomes"]}
    if bad := {key: count for key, count in others.items() if key != "200"}:
        said.append(f"at {share}, besides 200: " + ", ".join(f"{count} {key}" for key, count in bad.items()))
    late = max((load["generator_late_ms"] for load in loads), default=0.0)
    least = min((load["latency_ms"]["p50"] or 0.0 for load in loads), default=0.0)
    if late > max(0.5, least):
        said.append(f"at {share} the generator itself was late by up to {late:.1f} ms (99th percentile)")
    return said
