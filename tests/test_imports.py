"""Imports go one way: from the ways in down to the files that everything stands on, and never in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
DATA = ("data_builders", "command line", "columns", "files")
# Each room and the rooms that it may import from.
ALLOWED = {
    "way in": {"command line", "data_builders"},
    "modeling_cpsl": {"flat", "modulation", "training"},
    "experiments": {
        "training",
        "modulation",
        "flat",
        "modeling_cpsl",
        "columns",
        "files",
        "command line",
        "data_builders",
    },
    "evidence": {"experiments", "training", "modulation", "flat", "columns", "files", "command line", "data_builders"},
    "training": {"modulation", "flat", "columns", "files"},
    "modulation": set(),
    "flat": set(),
    "data_builders": {"columns", "files", "command line"},
    "command line": {"files"},
    "columns": set(),
    "files": set(),
}
ROOMS = {"columns": "columns", "files": "files", "command_line": "command line"}


def room_of(module):
    package, *path = module.split(".")
    if package in ("cpsl", "run_train") or path[-1:] == ["__main__"]:
        return "way in"
    if package == "data_builders":
        return ROOMS.get(path[0] if path else "", "data_builders")
    if path and path[0] in ("evidence", "experiments", "training", "modulation"):
        return path[0]
    return "flat" if path and path[0].endswith("_cpsl") else "modeling_cpsl"


def find_modules():
    paths = [ROOT / "cpsl.py", ROOT / "run_train.py"]
    paths += [path for package in ("modeling_cpsl", "data_builders") for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = find_modules()


def imported_names(module):
    """Everything that a module imports anywhere in it, as absolute names."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_modules(module):
    found = set()
    for name in imported_names(module):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found |= {name} - {"", module}
    return found


GRAPH = {module: imported_modules(module) for module in MODULES}


def test_there_is_no_circle():
    graphlib.TopologicalSorter(GRAPH).prepare()


@pytest.mark.parametrize("module", GRAPH)
def test_imports_go_one_way(module):
    room = room_of(module)
    assert {room_of(other) for other in GRAPH[module]} <= ALLOWED[room] | {room}


def test_a_circle_and_a_wrong_way_would_be_seen():
    assert room_of("data_builders.formats.table") == "data_builders"
    assert "experiments" not in ALLOWED["training"]
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(GRAPH | {"data_builders.files": {"cpsl"}}).prepare()
