"""What the server must never do with what it is given: run it, unpickle it, or take it for a path."""

from __future__ import annotations

import ast
import asyncio
import builtins
import os
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import service
from service.errors import UnservableModel
from service.repository import load_model
from tests.conftest import CLASSIFIER, classifier

SOURCES = sorted(Path(service.__file__).parent.rglob("*.py"))
RUNS = {"eval", "exec", "compile", "__import__"}
UNPICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
SHELLS = {"subprocess", "pty", "commands"}


def violations(tree: ast.AST) -> list[str]:
    """Calls and imports by which bytes could become code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            found += [name for name in names if name.split(".")[0] in UNPICKLES | SHELLS]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in RUNS or called in ("torch.load", "torch.hub.load", "os.system", "os.popen", "yaml.load"):
                found.append(called)
            if called in ("np.load", "numpy.load"):
                words = {k.arg: ast.unparse(k.value) for k in node.keywords}
                found += [] if words.get("allow_pickle") == "False" else [called]
    return found


def test_nothing_in_the_service_runs_or_unpickles_what_it_reads() -> None:
    assert len(SOURCES) > 50
    found = {path.name: bad for path in SOURCES if (bad := violations(ast.parse(path.read_text())))}
    assert found == {"workers.py": ["subprocess"]}


def test_the_one_process_that_is_started_is_the_servers_own_and_no_shell() -> None:
    tree = ast.parse((Path(service.__file__).parent / "workers.py").read_text())
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Call)
            and ast.unparse(node.func).startswith(("subprocess.", "os.exec", "os.spawn"))]
    commands = [ast.unparse(call.args[-1]) for call in uses]
    assert commands == [
        "[sys.executable, '-m', 'service.workers', str(written)]", "[sys.executable, '-m', 'service.worker']"]
    assert not any(word.arg in ("shell", "executable") for call in uses for word in call.keywords)


@pytest.mark.parametrize("code", [
    "import pickle", "from pickle import loads", "import torch\ntorch.load(path)", "eval(text)", "np.load(f)",
    "np.load(f, allow_pickle=True)", "import subprocess", "from joblib import load", "import os\nos.system(x)",
])
def test_the_search_sees_each_of_them(code) -> None:
    assert violations(ast.parse(code))


class Runs:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("write", [
    lambda path, bomb: path.write_bytes(pickle.dumps(bomb)),
    lambda path, bomb: torch.save({"weights": bomb}, path),
    lambda path, bomb: torch.save({"weights": bomb}, path, _use_new_zipfile_serialization=False),
    lambda path, bomb: np.save(path.open("wb"), np.array([bomb], dtype=object), allow_pickle=True),
], ids=["pickle", "torch", "old torch", "numpy"])
def test_a_pickle_in_place_of_weights_is_refused_and_never_run(tmp_path, write) -> None:
    mark, folder = tmp_path / "it-ran", tmp_path / "flowers" / "1"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(CLASSIFIER)
    write(folder / "weights.safetensors", Runs(mark))
    with pytest.raises(UnservableModel, match=r"weights\.safetensors"):
        load_model(folder)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(mark)))  # the bomb is one
    assert mark.exists()


@pytest.mark.parametrize("factory", [
    "os:system", "builtins:eval", "models.architectures.mlp:torch.load", "subprocess:run", "models.architecturesevil:x",
    "..os:system",
])
def test_only_the_projects_own_architectures_are_built(tmp_path, factory, monkeypatch) -> None:
    monkeypatch.setattr(os, "system", lambda *a: pytest.fail("it ran"))
    folder = tmp_path / "flowers" / "1"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(CLASSIFIER.replace("models.architectures.mlp:MLP", factory))
    save_file(classifier().state_dict(), folder / "weights.safetensors")
    with pytest.raises(UnservableModel):
        load_model(folder)


NAMES = [
    "..", "../..", "..%2f..%2f", "%2e%2e", "%2e%2e%2fflowers", "....//", "flowers%00", "%00", "..%5c..", "C:%5c", "~",
    "/etc/passwd", "flowers/../flowers", "flowers/versions/../1", "flowers/versions/%2e%2e", "flowers/versions/%00",
    "flowers/versions/1%2f..%2f1", "flowers/versions/01", "flowers%0a", "%ff", "file:///etc/passwd", "flowers.",
    "FLOWERS", ".",
]


def status_of(application: Any, method: str, path: str, body: bytes) -> int:
    """Asked as uvicorn asks: a client would have put the dots of a path straight."""
    sent = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "query_string": b"", "headers": [], "root_path": "",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("verb", ["", ":predict", ":uncertainty"])
@pytest.mark.parametrize("name", NAMES)
def test_no_name_in_a_request_reaches_the_file_system(application, monkeypatch, name, verb) -> None:
    method, body, touched = "POST" if verb else "GET", b'{"instances": [[1.0, 2.0, 3.0]]}', []
    assert status_of(application.app, method, f"/v1/models/flowers{verb}", body) == 200  # what is loaded late is loaded
    calls = [(builtins, "open"), *((os, call) for call in ("open", "stat", "lstat", "listdir", "scandir"))]
    for module, call in calls:
        real = getattr(module, call)

        def watching(path: Any, *args: Any, real: Any = real, **named: Any) -> Any:
            touched.append(path)
            return real(path, *args, **named)

        monkeypatch.setattr(module, call, watching)
    assert status_of(application.app, method, f"/v1/models/{name}{verb}", body) == 404
    assert touched == []
