"""The site has every public name, each page, and one version."""

import re
from pathlib import Path

import pytest
import reference

import dlngeo

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("torch", reason="the pages of the room dlngeo.torch")
    folder = tmp_path_factory.mktemp("site") / "reference"
    reference.write_pages(folder)
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_the_reference_has_every_public_name_and_no_other(pages):
    """Names in the tables of the pages, against those in ``__all__``."""
    for module, names in reference.public_names().items():
        loaded = reference.resolve(module)
        public = {name for name in loaded.__all__ if f"{module}.{name}" not in reference.MODULES} - {"__version__"}
        listed = re.findall(r"^   ([\w.]+)$", pages[module], flags=re.M)
        assert len(listed) == len(set(listed)) == len(public)
        for name in public:
            home = names[name]
            assert (name if home == f"{module}.{name}" else home) in listed
            value = reference.resolve(home)
            assert value is getattr(loaded, name) or value == getattr(loaded, name)


def test_each_object_is_documented_once(pages):
    homes = {home for names in reference.public_names().values() for home in names.values()}
    documented = [
        f"{module}.{name}"
        for module, text in pages.items()
        for table in re.findall(r":toctree: names\n\n((?:   [\w.]+\n)+)", text)
        for name in table.split()
    ]
    assert sorted(documented) == sorted(homes)


def test_every_room_is_in_the_reference(pages):
    assert {f"dlngeo.{room}" for room in dlngeo._ROOMS} < set(reference.MODULES)
    assert set(re.findall(r"^(dlngeo[\w.]*)$", pages["index"], flags=re.M)) == set(reference.MODULES)


def test_every_page_is_in_a_table_of_contents_once():
    trees = [
        tree
        for path in DOCS.glob("*.md")
        for tree in re.findall(r"```{toctree}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S)
    ]
    listed = re.findall(r"^([\w-]+)$", "\n".join(trees), flags=re.M)
    assert sorted(listed) == sorted({path.stem for path in DOCS.glob("*.md")} - {"index"})


def test_one_version():
    cff = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.search(r"^## \[(\d[\d.]*)\] - (\S+)$", changelog, flags=re.M).groups()
    assert f'\nversion: {version}\ndate-released: "{date}"\n' in cff
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
