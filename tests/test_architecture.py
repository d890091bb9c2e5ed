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
    "collab/data/": {"pandas", "sklearn", "pooch", "platformdirs", "tomlkit", "PIL"},
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
    "collab/aggregation/": {"torch"},
}
FLWR = {"flwr.app", "flwr.serverapp", "flwr.clientapp"}  # what Flower promises; all else is its own affair
INTERNALS = {"server/flwr_adapter.py", "clients/flwr_adapter.py", "simulations/local_engine.py"}
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
        if top == "flwr" and module not in FLWR and path not in INTERNALS:
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
        ("server/flwr_adapter.py", "from flwr.supercore import telemetry"),
        ("simulations/cli.py", "from server import app\nprint(app)"),
        ("consilium.py", "from server import cli\nfrom clients import cli"),
        ("clients/app.py", "model.eval()"),
    ],
)
def test_the_rules_allow_what_they_should(path: str, code: str) -> None:
    """What a floor may do is not forbidden by the way."""
    assert list(violations(path, ast.parse(code))) == []
