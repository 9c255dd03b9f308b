"""What the documentation names exists: modules, functions, tests, files, and the targets of roles in docstrings."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import reference

import dlngeo

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
HERE = r"https://(?:github\.com/dlngeo/dlngeo/blob|raw\.githubusercontent\.com/dlngeo/dlngeo)/main/([\w./-]+)"
SOURCES = sorted(Path(dlngeo.__file__).parent.rglob("*.py"))
over_pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def resolve(name):
    """Whether a dotted name leads to an object, by way of the longest module in it."""
    if name.split(".")[:2] == ["dlngeo", "torch"] and importlib.util.find_spec("torch") is None:
        return True  # nobody can know
    owner, _, last = name.rpartition(".")
    return reference.resolve(name) is not None or last in getattr(reference.resolve(owner), "__annotations__", {})


def named(text):
    """Dotted names of the package, other than those of files."""
    return set(re.findall(r"(?<![\w./])dlngeo(?:\.[A-Za-z_]\w*)+(?![\w/])", text))


def test_names_are_told_from_what_is_none():
    assert resolve("dlngeo.matrices.frame.Frame.cometric")
    assert resolve("numpy.random.Generator")
    assert not resolve("dlngeo.matrices.frame.Frame.cometrics")
    assert not resolve("dlngeo.matrix")
    assert named("`dlngeo.entropy(x)`, dlngeo.flows.limits. See dlngeo/flows/limits.py and a.dlngeo.b") == {
        "dlngeo.entropy",
        "dlngeo.flows.limits",
    }


@over_pages
def test_names_in_pages_resolve(page):
    assert [name for name in sorted(named(page.read_text(encoding="utf-8"))) if not resolve(name)] == []


@over_pages
def test_files_and_tests_in_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    for path, test in re.findall(
        r"(?<![\w/.])((?:dlngeo|docs|examples|tests)/[\w/]+\.(?:py|md|png))(?:::(\w+))?", text
    ):
        assert (ROOT / path).exists(), path
        assert not test or f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text):
        assert (page.parent / target.partition("#")[0]).exists(), target
    for target in re.findall(HERE, text):
        assert (ROOT / target).exists(), target


def test_links_of_the_readme_work_on_a_package_index():
    """None is relative, and each is defined once, at the end."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((?!https:)[^)]+\)", text) == []
    used = re.findall(r"\]\[([\w-]+)\]", text)
    defined = re.findall(r"^\[([\w-]+)\]: https://\S+$", text, flags=re.M)
    assert set(used) == set(defined)
    assert len(defined) == len(set(defined)) > 10
    assert len(re.findall(HERE, text)) == len(defined) - 1  # the other is a heading


def test_the_map_of_the_geometry_has_a_function_and_a_test_in_each_row():
    text = (ROOT / "docs" / "geometry.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text[text.index("## The metric") :].splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0] not in ("| formula", "| ---")]
    assert len(rows) > 40
    for row in rows:
        assert len(row) == 4, row
        assert re.fullmatch(r"`dlngeo\.[\w.]+`", row[2]), row
        assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+` \|", row[3]), row


def docstrings(path):
    """Pairs of a docstring and the names of the scopes around it."""
    module = ".".join(path.relative_to(Path(dlngeo.__file__).parent.parent).with_suffix("").parts)
    module = module.removesuffix(".__init__")

    def walk(node, scopes):
        if ast.get_docstring(node):
            yield ast.get_docstring(node), scopes
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
                yield from walk(child, [*scopes, f"{scopes[-1]}.{child.name}"])

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), [module.rpartition(".")[0] or module, module])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_names_and_targets_in_docstrings_resolve(path):
    code = path.read_text(encoding="utf-8")
    for text, scopes in docstrings(path):
        for name in named(text):
            assert resolve(name), name
        for role, target in re.findall(r":(mod|func|class|meth|attr|data|exc):`(?:[^`<]*<)?~?([^`>]+)>?`", text):
            known = any(map(resolve, [target, *(f"{scope}.{target}" for scope in scopes)]))
            assert known or (role == "attr" and re.search(rf"self\.(\w+, self\.)*{target}\b", code)), target
