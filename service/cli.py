"""The `errorbar` command. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import service
from service import key_commands
from service.errors import ErrorbarError, InvalidOption, cut, nearest, reason

app = typer.Typer(
    name="errorbar", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="An honest error bar on every prediction of a network with dropout.\n\n"
         "Start with `errorbar serve`, then open http://127.0.0.1:8080/docs.",
)
app.add_typer(key_commands.app)
_err = Console(stderr=True, markup=False, emoji=False, highlight=False)
_WIDE = 100_000  # columns of what is no terminal: a table in a pipe is never cut

Models = Annotated[Path | None, typer.Option("--models", help="Folder of models; the bundled ones by default.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Plain JSON on stdout instead of a table.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, or name/version.")]
InputFile = Annotated[str, typer.Argument(metavar="FILE", help=".npy, .npz, .csv, .jsonl; - is JSON lines.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help=(
    "Write the answers there, row by row, of a file of any length: .jsonl, .csv or .npy. After an interruption the "
    "same command goes on."))]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished --out file.")]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away what an interrupted run wrote, and begin anew.")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command. Errors made on purpose end in one sentence and status 2, not in a traceback."""
    try:
        app(args=list(arguments) if arguments is not None else None, standalone_mode=True)
    except ErrorbarError as e:
        _err.print(f"errorbar: {e.detail}", style="red")
        sys.exit(2)
    sys.exit(0)


def _print(content: str | Table, style: str | None = None) -> None:
    """To stdout, names and labels as they are: none of their characters are markup."""
    width = None if sys.stdout.isatty() else _WIDE
    Console(markup=False, emoji=False, highlight=False, width=width).print(content, style=style)


def _version(wanted: bool) -> None:
    if wanted:
        _print(f"errorbar {service.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command()
def serve(
    models: Models = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 0 to 65535; 8080 by default, 0 takes a free one.")] = None,
    device: Device = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of one pass.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port; 1 by default.")] = None,
    keys: Annotated[Path | None, typer.Option(help="File of API keys; without one everyone may ask.")] = None,
) -> None:
    """Serve all models over REST until Ctrl-C or SIGTERM."""
    from service.settings import read_settings

    settings = read_settings({"models": models, "host": host, "port": port, "device": device, "threads": threads,
                              "workers": workers, "keys": keys})
    if settings.workers > 1:
        from service.workers import hand_over

        hand_over(settings.model_dump(mode="json"))
    from service.server import run

    raise typer.Exit(run(settings))


def _repository(models: Path | None, device: str | None) -> Any:
    from service.api.app import resolved_device
    from service.repository import Repository
    from service.settings import read_settings

    settings = read_settings({"models": models, "device": device})
    return Repository(settings.models, resolved_device(settings.device))


def _load(repository: Any, wanted: str) -> Any:
    """Loads `name` or `name/version`, with a word on the terminal while it takes."""
    name, _, version = wanted.partition("/")
    versions = [v for n, v in repository.versions if n == name]
    if not versions or (version and version not in versions):
        known = [f"{n}/{v}" for n, v in repository.versions]
        raise ErrorbarError(f"no model {cut(wanted)!r}{nearest(wanted, known)}; there are: {', '.join(known)}")
    with _err.status(Text(f"loading {wanted}")):
        return repository.load(name, version or versions[-1])


def _answer(
    wanted: str, file: str, models: Path | None, device: str | None, mode: Literal["predict", "uncertainty"],
    options: Mapping[str, Any], as_json: bool, out: Path | None, overwrite: bool, restart: bool,
) -> None:
    if out is None:
        if overwrite or restart:
            raise InvalidOption.at("--overwrite" if overwrite else "--restart", "of use with --out only")
        _ask(wanted, file, models, device, mode, options, as_json)
    else:
        if as_json:
            raise InvalidOption.at("--json", "of no use with --out, whose suffix says how answers are written")
        from service.files.command import to_file

        to_file(lambda: _load(_repository(models, device), wanted), file, out, mode, options, overwrite, restart, _err)


def _ask(
    wanted: str, file: str, models: Path | None, device: str | None, mode: Literal["predict", "uncertainty"],
    options: Mapping[str, Any], as_json: bool,
) -> None:
    """Runs a file's rows through a model, in this process, and prints the answer as the server would give it."""
    from service.api.decode import decode_options, out_of_range
    from service.api.encode import encode_json, prediction_body, uncertainty_body
    from service.files.source import Source
    from service.scheduling import Engine, Job, Limits

    model = _load(_repository(models, device), wanted)
    limits = Limits()
    chosen = decode_options(options, model, limits) if mode == "uncertainty" else None
    step = max(1, min(limits.rows, limits.rows_by_samples // (chosen.effective_samples if chosen else 1)))
    with closing(Source(file, model)) as source:
        parts = list(iter(lambda: source.read(step), {}))
    engine = Engine(limits)
    bodies, start = [], 0
    with Progress(console=_err, transient=True) as progress:
        task = progress.add_task(mode, total=source.at)
        for inputs in parts:
            outside = out_of_range(inputs, model.manifest)
            here = None if chosen is None else replace(chosen, first_row=start)
            answer = engine.submit(Job(model, mode, inputs, float("inf"), here)).result()
            bodies.append(prediction_body(model, answer, outside) if chosen is None
                          else uncertainty_body(model, chosen, answer, outside, "command line"))
            start += len(outside)
            progress.advance(task, len(outside))
    engine.drain()
    predictions = [row for body in bodies for row in body["predictions"]]
    if as_json:
        sys.stdout.write(encode_json({**bodies[0], "predictions": predictions}).decode() + "\n")
    else:
        _print(_table(predictions))


def _table(predictions: Sequence[Mapping[str, Any]]) -> Table:
    """One line a row: the label with its number, or the number, and what is uncertain about it."""
    table = Table("row", box=None)
    first = predictions[0]
    labelled = "label" in first
    columns = [c for c in ("value", "output", "mean", "std", "mean_se", "noise_std", "total_std", "entropy",
                           "mutual_information", "variation_ratio", "probabilities") if c in first]
    may_stop = "after_stopping" in first
    if may_stop:  # where each row stopped takes the place of what else is uncertain: --json has all
        columns = [c for c in columns if c in ("mean", "std", "mean_se")] + ["samples", "stopped"]
    left = ("label", "stopped", "out of range")
    for column in ["label"] * labelled + columns + ["out of range"]:
        table.add_column(column, justify="left" if column in left else "right")
    for place, row in enumerate(predictions):
        cells = [str(row["label"])] if labelled else []
        for column in columns:
            value = (row["settled"] or row["stopped"]) if column == "stopped" else row[column]
            if labelled and column in ("mean", "std", "mean_se", "probabilities") and value is not None:
                value = value[row["index"]]
            cells.append("" if value is None else _number(value))
        table.add_row(str(place), *cells, ", ".join(row["out_of_range"]))
    return table


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) or getattr(value, "ndim", 1) == 0 else str(value)


@app.command()
def predict(
    model: ModelName, file: InputFile, models: Models = None, device: Device = None, as_json: AsJson = False,
    out: Out = None, overwrite: Overwrite = False, restart: Restart = False,
) -> None:
    """Predict the rows of a file, every dropout off."""
    _answer(model, file, models, device, "predict", {}, as_json, out, overwrite, restart)


@app.command()
def uncertainty(
    model: ModelName, file: InputFile,
    samples: Annotated[int | None, typer.Option(help="Samples to draw; the model's default if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same rows and seed, same answer.")] = None,
    masks: Annotated[str | None, typer.Option(help="shared or independent.")] = None,
    design: Annotated[str | None, typer.Option(help="balanced or iid.")] = None,
    method: Annotated[str | None, typer.Option(help="auto (exact where it can be) or sampled.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Stop a row once its means are known to ± this.")] = None,
    decide_above: Annotated[float | None, typer.Option(
        help="Stop a row once it is settled whether its class is more probable than this.")] = None,
    decide_error: Annotated[float | None, typer.Option(help="How likely that may be wrong; goes with it.")] = None,
    models: Models = None, device: Device = None, as_json: AsJson = False,
    out: Out = None, overwrite: Overwrite = False, restart: Restart = False,
) -> None:
    """Monte-Carlo dropout on the rows of a file: mean, standard deviation and what follows."""
    limits = {"above": decide_above, "error": decide_error}
    decide = {name: value for name, value in limits.items() if value is not None}
    given = {"samples": samples, "seed": seed, "masks": masks, "design": design, "method": method,
             "tolerance": tolerance, "decide": decide or None}
    options = {name: value for name, value in given.items() if value is not None}
    _answer(model, file, models, device, "uncertainty", options, as_json, out, overwrite, restart)


@app.command()
def evaluate(
    model: ModelName,
    data: Annotated[str, typer.Option("--data", metavar="FILE", help=(
        "Rows with their truth: .csv, .jsonl or .npz with a column, key or array for it."))],
    truth: Annotated[str | None, typer.Option("--truth", metavar="NAME", help=(
        "What the truth is called there; label, or value of a regression, if not given."))] = None,
    ood: Annotated[str | None, typer.Option("--ood", metavar="FILE", help=(
        "Rows of another kind: how well is it seen that they are?"))] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help=(
        "Write tables and plots there, one HTML file that needs nothing else."))] = None,
    samples: Annotated[int | None, typer.Option(help="Samples to draw; the model's default if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same rows and seed, same figures.")] = None,
    models: Models = None, device: Device = None, as_json: AsJson = False,
) -> None:
    """Measure how good answers are on rows with known truth, every dropout off and sampled, side by side."""
    from service.api.decode import decode_options
    from service.files.evaluate import evaluated
    from service.sampling.untimed import chosen_by_rule
    from service.scheduling import Limits

    if report is not None:
        if report.suffix.lower() not in (".html", ".htm"):
            raise InvalidOption.at("--report", f"a name that ends in .html expected, got {cut(str(report))!r}")
        if report.is_dir() or not report.parent.is_dir():
            raise InvalidOption.at("--report", f"a file in a folder that is there expected, got {cut(str(report))!r}")
    options = {name: value for name, value in {"samples": samples, "seed": seed}.items() if value is not None}
    with chosen_by_rule():
        loaded = _load(_repository(models, device), model)
        with Progress(console=_err, transient=True, disable=not _err.is_terminal) as progress:
            task = progress.add_task("evaluate", total=None)
            found = evaluated(
                loaded, data, lambda: decode_options(options, loaded, Limits()), truth, ood,
                lambda rows: progress.update(task, description=f"evaluate: {rows:,} rows"))
    if as_json:
        _print_json(found.as_json)
    else:
        _print(_evaluation_table(found.as_json))
    if report is not None:
        try:
            report.write_text(found.html(), encoding="utf-8")
        except OSError as e:
            raise ErrorbarError(f"{report}: cannot be written: {e.strerror or e}") from e


def _evaluation_table(found: Mapping[str, Any]) -> Table:
    """A line a metric: each way's figure with its interval, and how far the last is above the first."""
    ways = list(dict.fromkeys(way for metric in found["metrics"] for way in metric["values"]))
    name, drawn = f"{found['model']}/{found['version']}", found["sampling"]
    table = Table("metric", *ways, f"{ways[-1]} - {ways[0]}", "unit", box=None, title_justify="left", title=(
        f"{name}, {found['rows']:,} rows, {drawn['samples']} samples, seed {drawn['seed']}"))
    for metric in found["metrics"]:
        cells = [_estimate(metric["values"].get(way)) for way in ways]
        table.add_row(metric["name"], *cells, _estimate(metric["differences"].get(ways[-1])), metric["unit"])
    for score, by_way in (found["other"] or {"auroc": {}})["auroc"].items():
        cells = [_estimate(by_way.get(way)) for way in ways]
        table.add_row(f"AUROC of {score}, other rows", *cells, "", "share of pairs")
    return table


def _estimate(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    if value["estimate"] is None:
        return "infinite"
    low, high = value.get("low"), value.get("high")
    # where all resamples are the same they say nothing
    return _number(value["estimate"]) + ("" if low is None or low == high else f" ({low:.4g} to {_number(high)})")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


@app.command("models")
def list_models(
    models: Models = None,
    check: Annotated[Path | None, typer.Option(
        metavar="DIR", help="Load all versions of this folder as a server would; status 1 if one is refused.")] = None,
    device: Device = None, as_json: AsJson = False,
) -> None:
    """List the models of a folder, without loading them; or check a folder, for pipelines."""
    from service.repository import read_manifest

    if check is not None:
        raise typer.Exit(_check(check, device, as_json))
    repository = _repository(models, "cpu")
    entries = [
        {"name": m.name, "version": v, "task": m.task, "description": m.description}
        for n, v in repository.versions for m in [read_manifest(repository.folder(n, v) / "model.toml")]
    ]
    if as_json:
        _print_json({"models": entries})
        return
    table = Table("name", "version", "task", "description", box=None)
    for e in entries:
        table.add_row(*e.values())
    _print(table)


def _check(root: Path, device: str | None, as_json: bool) -> int:
    """A line a version on stdout, as soon as it is known."""
    from service.api.app import resolved_device
    from service.repository.check import check
    from service.scheduling import Engine
    from service.settings import read_settings

    engine = Engine()
    verdicts = []
    for verdict in check(root, resolved_device(read_settings({"device": device}).device), engine.warm):
        verdicts.append(verdict)
        if not as_json:
            said = "; ".join(verdict.warnings) if verdict.ok else verdict.reason
            words = [verdict.path, "ok" if verdict.ok else "refused", verdict.digest or "", said]
            sys.stdout.write("  ".join(word for word in words if word).replace("\n", " ") + "\n")
            sys.stdout.flush()
    engine.drain()
    ok = all(verdict.ok for verdict in verdicts)
    if as_json:
        _print_json({"ok": ok, "versions": [
            {"model": v.path, "ok": v.ok, "digest": v.digest, "warnings": v.warnings, "reason": v.reason or None}
            for v in verdicts
        ]})
    return 0 if ok else 1


@app.command()
def inspect(
    model: ModelName,
    plan: Annotated[bool, typer.Option("--plan", help="Show what runs once and what for every sample.")] = False,
    models: Models = None, device: Device = None, as_json: AsJson = False,
) -> None:
    """Show a model's card: what goes in, where dropout acts, what was noticed."""
    import orjson

    from service.api.encode import card_body, encode_json

    loaded = _load(_repository(models, device), model)
    if plan:
        described = loaded.sampler.described().as_dict()
        if as_json:
            _print_json(described)
        else:
            _show_plan(described)
        return
    card = orjson.loads(encode_json(card_body(loaded)))
    if as_json:
        _print_json(card)
        return
    _print(f"{card['name']}/{card['version']}  {card['task']}  {card['digest'][:19]}…")
    _print(card["description"])
    for i in card["inputs"]:
        _print(f"input {i['name']}: {i['dtype']}, {i['shape']} a row, range {i['range']}")
    sampling = card["sampling"]
    _print(f"engine {sampling['engine']} on {sampling['device']}, {sampling['dtype']}; by default "
           f"{sampling['samples']} samples, seed {sampling['seed']}, {sampling['masks']} masks, "
           f"{sampling['design']} design")
    table = Table("site", "kind", "p", "samples", "mask", "note", box=None)
    for s in card["sites"]:
        samples = "yes" if s["active"] else "no"
        table.add_row(s["name"], s["kind"], f"{s['p']:g}", samples, str(s["mask_shape"]), s["note"])
    _print(table)
    for warning in card["warnings"]:
        _print(f"warning: {warning}", style="yellow")


def _show_plan(plan: Mapping[str, Any]) -> None:
    if plan["eager_reason"]:
        _print(f"not captured, runs one row and one sample at a time: {plan['eager_reason']}")
        return
    _print(f"prefix, once a row: {plan['deterministic_flop_share']:.1%} of a prediction's operations")
    for step in plan["prefix"]:
        _print(f"  {step}")
    _print("suffix, for every sample:")
    for step in plan["suffix"]:
        _print(f"  {step}")
    for kernel in plan["kernels"]:
        _print(f"kernel {kernel['name']}: up to {kernel['rows']} rows together, "
               f"{kernel['samples_of_a_row']} samples of one row")
    if plan["timings"]:
        names = list(plan["timings"][0]["microseconds_a_sample"])
        table = Table("rows", *(f"{name}, µs a sample" for name in names), "serves", box=None)
        for timing in plan["timings"]:
            costs = timing["microseconds_a_sample"]
            table.add_row(str(timing["rows"]), *(f"{costs[name]:g}" for name in names), timing["serves"])
        _print(table)
    for note in plan["notes"]:
        _print(note)


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model; all by default.")] = None,
    models: Models = None, device: Device = None, as_json: AsJson = False,
) -> None:
    """Run the admission probe: is every site found, does each move the output, is the fast path right?"""
    repository = _repository(models, device)
    results: list[dict[str, Any]] = []
    for name in [model] if model is not None else [f"{n}/{v}" for n, v in repository.versions]:
        try:
            loaded = _load(repository, name)
            results.append({"model": name, "ok": True, "sites": len(loaded.sampler.sites),
                            "warnings": list(loaded.warnings), "reason": None})
        except Exception as e:
            why = e.detail if isinstance(e, ErrorbarError) else reason(e)
            results.append({"model": name, "ok": False, "sites": 0, "warnings": [], "reason": why})
    if as_json:
        _print_json({"results": results})
    else:
        table = Table("model", "verdict", "sites", "notes", box=None)
        for r in results:
            verdict = Text("ok", style="green") if r["ok"] else Text("refused", style="red")
            table.add_row(str(r["model"]), verdict, str(r["sites"]), r["reason"] or "; ".join(r["warnings"]))
        _print(table)
    raise typer.Exit(0 if all(r["ok"] for r in results) else 1)
