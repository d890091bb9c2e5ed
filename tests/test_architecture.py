"""The house: no import runs uphill, and what never to do is never done. It reads every file's syntax."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("protocol", "collab", "server", "clients", "simulations")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.py"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))]
)

# Whom a folder may import of ours. The command itself, consilium.py, may import all.
OURS = {
    "protocol": {"protocol"},
    "collab": {"protocol", "collab"},
    "server": {"protocol", "collab", "server"},
    "clients": {"protocol", "collab", "clients"},
    "simulations": set(FOLDERS),
}
# What the two lower floors may import of others, and, by the start of a path, where more is allowed.
THEIRS = {"protocol": {"pydantic", "numpy"}, "collab": {"pydantic", "numpy", "scipy"}}
ALSO = {
    "protocol/records.py": {"flwr"},
    "protocol/keys.py": {"cryptography"},
    "protocol/roster.py": {"cryptography"},
    "protocol/roster_book.py": {"cryptography"},
    "protocol/seal.py": {"cryptography"},
    "collab/data/": {"pandas", "sklearn", "pooch", "platformdirs", "PIL"},
    "collab/training.py": {"torch"},
    "collab/decomposition/": {"torch"},
    "collab/distillation.py": {"torch"},
    "collab/heads.py": {"torch"},
    "collab/personal.py": {"torch"},
    "collab/prototypes.py": {"torch"},
    "collab/ridge_head.py": {"torch"},
    "collab/scaffold.py": {"torch"},
    "collab/steering.py": {"torch"},
    "collab/kinds/": {"torch"},
    "collab/models/": {"torch"},
}
FLWR = {"flwr.app", "flwr.serverapp", "flwr.clientapp"}  # what Flower promises; all else is its own affair
# Who may use more of Flower: each has a contract test that names what it uses.
INTERNALS = ("server/flwr_adapter/", "clients/flwr_adapter.py", "simulations/local_engine.py")
# What few files may use, whatever their floor: keys and certificates, listeners, and lines of our own.
ONLY_IN = {
    "cryptography": {
        "protocol/keys.py",
        "protocol/roster.py",
        "protocol/roster_book.py",
        "protocol/seal.py",
        "server/certificates.py",
        "server/door.py",
        "server/identities.py",
        "server/provision.py",
        "clients/flwr_adapter.py",
        "simulations/sealed.py",
        "simulations/benchmarks/stock_flower.py",
    },
    "uvicorn": {"server/listeners.py", "clients/flwr_adapter.py"},
    "httpx": {
        "server/flwr_adapter/grid.py",
        "server/flwr_adapter/runtime.py",
        "server/flwr_adapter/simulation.py",
        "clients/flwr_adapter.py",
        "clients/inquiry.py",
        "clients/up.py",
        "clients/upkeep.py",
    },
    "fastapi": {"server/flwr_adapter/link.py"},
    "google": {"server/flwr_adapter/link.py"},
    "starlette": set[str](),
    "requests": set[str](),
    "aiohttp": set[str](),
}
# It is imported by processes that must start fast and hold secrets: nothing but Python's own.
ALONE = {"protocol/children.py"}
PRINTERS = ("cli.py", "console.py")
UNSAFE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "numpy.load", "np.load"}


def violations(path: str, tree: ast.AST) -> Iterator[str]:
    """Yield what a file does against the rules of the house, one line each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (f"{path}:{node.lineno} {why}" for why in bad_imports(path, node))
        elif isinstance(node, ast.Global):
            yield f"{path}:{node.lineno} a global statement"
        elif isinstance(node, ast.Call):
            yield from (f"{path}:{node.lineno} calls {name}" for name in bad_calls(path, node))


def bad_imports(path: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield the modules that this file may not import."""
    if isinstance(node, ast.ImportFrom) and node.level:
        yield "a relative import"
        return
    folder = path.split("/", maxsplit=1)[0]
    modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    more = {name for start, names in ALSO.items() if path.startswith(start) for name in names}
    for module in modules:
        top = module.split(".")[0]
        foreign = top not in FOLDERS and top not in sys.stdlib_module_names
        if top in FOLDERS and top not in OURS.get(folder, FOLDERS):
            yield f"imports {module}: uphill or sideways"
        if foreign and folder in THEIRS and top not in THEIRS[folder] | more:
            yield f"imports {module}: not on this floor"
        if path not in ONLY_IN.get(top, {path}):
            yield f"imports {module}: only few files do"
        if path in ALONE and top not in sys.stdlib_module_names:
            yield f"imports {module}: it stands alone"
        if top == "flwr" and module not in FLWR and not path.startswith(INTERNALS):
            yield f"imports {module}: Flower's own affair"
        if top in UNSAFE:
            yield f"imports {module}: runs what it reads"


def bad_calls(path: str, node: ast.Call) -> Iterator[str]:
    """Yield the functions that this file may not call."""
    name = ast.unparse(node.func)
    if name == "print" and not path.endswith(PRINTERS) and "/benchmarks/" not in path:
        yield "print"
    safe = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
    if name in CALLS and not (safe and name.endswith("p.load")):
        yield name


def test_the_house_has_files() -> None:
    """The rules below are not kept by an empty list."""
    assert {path.split("/")[0] for path in FILES} >= set(FOLDERS)


def test_the_exceptions_are_needed() -> None:
    """Each file that may do more than its neighbours is there and does so: no exception outlives its need."""
    imported = {path: _imported(path) for path in FILES}
    for name, paths in ONLY_IN.items():
        assert {path for path in paths if name not in imported.get(path, set())} == set()
    assert all(path in FILES for path in ALONE)
    for start, names in ALSO.items():
        below = set().union(*(imported[path] for path in FILES if path.startswith(start)))
        assert names <= below, f"{start} uses no {', '.join(names - below)}"
    for start in INTERNALS:
        assert any(path.startswith(start) for path in FILES), start


def _imported(path: str) -> set[str]:
    """The first words of all modules that a file imports."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))))
    found = {a.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for a in node.names}
    return found | {(n.module or "").split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom)}


@pytest.mark.parametrize("path", FILES)
def test_the_rules_of_the_house(path: str) -> None:
    """Imports run downhill, Flower stays at its doors, nothing unpickles, evaluates, prints or is global."""
    assert list(violations(path, ast.parse((ROOT / path).read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("protocol/codec.py", "import collab.rounds"),
        ("protocol/codec.py", "import flwr.app"),
        ("protocol/arrays.py", "import torch"),
        ("collab/rounds.py", "from server import runlog"),
        ("collab/rounds.py", "import flwr.app"),
        ("collab/rounds.py", "import torch"),
        ("collab/metrics.py", "from pandas import DataFrame"),
        ("collab/rounds.py", "from . import events"),
        ("server/app.py", "import clients.app"),
        ("clients/app.py", "def f():\n    from server.app import app"),
        ("clients/app.py", "import simulations"),
        ("server/app.py", "from flwr.common import constant"),
        ("server/app.py", "import flwr"),
        ("clients/app.py", "import pickle"),
        ("collab/rounds.py", "def f():\n    global x\n    x = 1"),
        ("server/app.py", "print(1)"),
        ("collab/rounds.py", "eval('1')"),
        ("clients/app.py", "torch.load('x')"),
        ("collab/data/npz_file.py", "np.load('x')"),
        ("collab/data/npz_file.py", "np.load('x', allow_pickle=True)"),
        ("protocol/children.py", "import protocol.errors"),
        ("server/flwr_adapter.py", "from flwr.supercore import telemetry"),
        ("server/link.py", "from flwr.superlink import main"),
        ("server/serve.py", "from cryptography import x509"),
        ("clients/agent.py", "import uvicorn"),
        ("server/contact.py", "def f():\n    import httpx"),
        ("server/listeners.py", "import starlette.requests"),
    ],
)
def test_the_rules_can_be_broken(path: str, code: str) -> None:
    """Each rule sees what it forbids, also inside a function."""
    assert len(list(violations(path, ast.parse(code)))) == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("protocol/records.py", "from flwr.app import Array"),
        ("collab/training.py", "import torch"),
        ("collab/data/csv_file.py", "import pandas as pd"),
        ("collab/data/npz_file.py", "np.load('x', allow_pickle=False)"),
        ("server/flwr_adapter/link.py", "from flwr.supercore import telemetry"),
        ("clients/flwr_adapter.py", "from flwr.supernode import main\nimport uvicorn"),
        ("server/door.py", "from cryptography import x509"),
        ("protocol/children.py", "import subprocess"),
        ("simulations/cli.py", "from server import app\nprint(app)"),
        ("consilium.py", "from server import cli\nfrom clients import cli"),
        ("clients/app.py", "model.eval()"),
    ],
)
def test_the_rules_allow_what_they_should(path: str, code: str) -> None:
    """What a floor may do is not forbidden by the way."""
    assert list(violations(path, ast.parse(code))) == []
