"""Where things live: imports have no circle and point one way, from the mathematics to the command line."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dlngeo

ROOT = Path(dlngeo.__file__).parent
# Each room may import from its own row and those above. The package itself only gives names to what is below it.
ROWS = [
    {"errors", "_check", "_linalg", "_autodiff"},
    {"compiled", "kernels", "shooting"},
    {"weights"},
    {"matrices"},
    {"thermodynamics"},
    {"geomstats"},
    {"pymanopt", "flows", "sampling", "torch"},
    {"problems"},
    {"sklearn"},
    {"plotting"},
    {"jobs"},
    {"cli"},
    {"__init__", "__main__"},
]


def modules(root):
    return {
        ".".join((root.name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }


def imports(root):
    """Module → the modules that it imports, those inside functions and for type checkers included."""
    known = modules(root)
    found = {}
    for name, path in known.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {n if n in known else node.module for n in whole}
        found[name] = names & set(known) - {name}
    return found


def room(module):
    return [*module.split("."), "__init__"][1]


def row(module):
    return next(i for i, rooms in enumerate(ROWS) if room(module) in rooms)


def arrows_back(root):
    return [(a, b) for a, targets in imports(root).items() for b in targets if row(a) < row(b)]


def test_imports_have_no_circle():
    list(TopologicalSorter(imports(ROOT)).static_order())


def test_every_import_points_from_the_job_to_the_mathematics():
    assert arrows_back(ROOT) == []
    drawing = {room(a) for a, targets in imports(ROOT).items() if any(room(b) == "plotting" for b in targets)}
    assert drawing - {"__init__"} == {"plotting", "jobs"}  # the package only gives names


def test_there_are_few_rooms_at_the_top():
    rooms = [p for p in ROOT.iterdir() if p.name not in ("__pycache__", "py.typed")]
    assert len(rooms) <= 22
    assert {p.stem for p in rooms} == set().union(*ROWS)


def test_a_circle_through_a_lazy_import_is_found(tmp_path):
    root = tmp_path / "dlngeo"
    for folder in ("kernels", "matrices"):
        (root / folder).mkdir(parents=True)
    (root / "kernels" / "a.py").write_text("def f():\n    from dlngeo.matrices import b\n")
    (root / "matrices" / "b.py").write_text("from dlngeo.kernels.a import f\n")
    with pytest.raises(CycleError):
        TopologicalSorter(imports(root)).prepare()
    assert arrows_back(root) == [("dlngeo.kernels.a", "dlngeo.matrices.b")]
