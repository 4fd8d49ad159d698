"""`errorbar keys`: makes, lists and removes API keys. A key is printed once, when it is made; the file has its hash."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from service.errors import InvalidSettings

app = typer.Typer(
    name="keys", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="API keys: who may ask which models, and how often.")
File = Annotated[Path | None, typer.Option("--file", help="File of keys; by default the one of the setting `keys`.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: letters, digits, dots, dashes, _.")]


def _path(given: Path | None) -> Path:
    from service.settings import read_settings

    path = given or read_settings().keys
    if path is None:
        raise InvalidSettings("no file of keys: name one with --file or by the setting keys (ERRORBAR_KEYS)")
    return path


def _text(path: Path) -> str:
    """What stands in the file; nothing where there is none."""
    from service.keys import read_keys

    if not path.exists():
        return ""
    read_keys(path)
    return path.read_text("utf-8")


def _replace(path: Path, text: str) -> None:
    """Puts the text in place of the file, all or nothing, with the rights that the file had; a new one is its owner's
    alone. A server that reads it meanwhile sees the old one or the new one."""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        number, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(number, mode)
            os.fsync(number)
        Path(name).replace(path.resolve())
    except OSError as e:
        raise InvalidSettings(f"{path}: cannot be written: {e.strerror}") from e


@app.command("add")
def add(
    name: Name,
    models: Annotated[str | None, typer.Option(help="The only models that it may ask, as a,b; all by default.")] = None,
    rate: Annotated[str | None, typer.Option(help="Requests: 100/s, 600/min, 5/h; any number by default.")] = None,
    priority: Annotated[int | None, typer.Option(help="Highest priority of its requests, 0 to 9.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May also read metrics, and load and unload models.")] = False,
    file: File = None,
) -> None:
    """Make a key. It goes to stdout, this once."""
    from service.keys import hashed, new_secret, with_key

    path, secret = _path(file), new_secret()
    allowed = None if models is None else [m for m in models.split(",") if m]
    _replace(path, with_key(_text(path), name, hashed(secret), allowed, rate, priority, admin))
    sys.stderr.write(f"the key of {name} follows; {path} has its hash, and nothing can show it again\n")
    sys.stdout.write(f"{secret}\n")


@app.command("list")
def show(
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="Plain JSON instead of lines.")] = False,
) -> None:
    """List the keys: name, models, rate, priority, whether it is an admin's."""
    from service.keys import read_keys

    keys = [key.model_dump(mode="json", exclude={"sha256"}) for key in read_keys(_path(file))]
    if as_json:
        sys.stdout.write(json.dumps({"keys": keys}) + "\n")
        return
    for key in keys:
        models = "all models" if key["models"] is None else ", ".join(sorted(key["models"]))
        rate = "" if key["rate"] is None else f"; {key['rate']:g} requests a second"
        priority = "" if key["priority"] is None else f"; priority up to {key['priority']}"
        sys.stdout.write(f"{key['name']}: {models}{rate}{priority}{'; admin' if key['admin'] else ''}\n")


@app.command("remove")
def remove(name: Name, file: File = None) -> None:
    """Take a key away. A running server refuses it within about a second."""
    from service.keys import without_key

    path = _path(file)
    _replace(path, without_key(_text(path), name))
    sys.stderr.write(f"{name} has no key any more\n")
