"""Configuration of Sphinx: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

import importlib.metadata
import importlib.util
import inspect
import re
import sys
from pathlib import Path

from sphinx.ext.autodoc.mock import mock

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
import reference  # noqa: E402

NOT_RUN = ("autodiff_solvers", "own_metric")  # one needs a backend of its own, the other a minute
REPOSITORY = "https://github.com/dlngeo/dlngeo"

project = "dlngeo"
author = "the dlngeo contributors"
project_copyright = f"2026, {author}"
version = release = importlib.metadata.version("dlngeo")
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/GALLERY_HEADER.rst"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "dlngeo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {"github_url": REPOSITORY, "navigation_with_keys": False}

# Reference. The optional room is documented from its source where PyTorch is not installed.
autodoc_mock_imports = [name for name in ("torch",) if importlib.util.find_spec(name) is None]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
suppress_warnings = ["ref.citation"]  # a list of sources may hold more than what is cited

# Pages, which GitHub shows as well.
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

# Gallery.
sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": rf"/(?!{'|'.join(NOT_RUN)})\w+\.py$",  # as a posix path
    "image_scrapers": ("gallery.pictures",),
    "reset_argv": "gallery.arguments",
    "backreferences_dir": "gallery/uses",
    "doc_module": ("dlngeo",),
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "abort_on_example_error": False,
}


def sources(owner):
    """Map numbers to entries in the lists of sources of a class or module, and of the module that it is in."""
    around = sys.modules.get(getattr(owner, "__module__", None))
    text = f"{inspect.getdoc(around) if around else ''}\n{inspect.getdoc(owner)}"
    return {
        entry[4:].partition("]")[0]: entry for entry in re.findall(r"^\.\. \[\d+\] .*(?:\n   .*)*", text, flags=re.M)
    }


def complete_docstring(app, what, name, obj, options, lines):
    """Add the sources that a docstring cites from the list of its module, and escape what shapes hold."""
    lines[:] = [re.sub(r"(?<!\\)\*(?=point_shape)|_(?=\])", r"\\\g<0>", line) for line in lines]
    text = "\n".join(lines)
    missing = {*re.findall(r"\[(\d+)\]_", text)} - {*re.findall(r"^\.\. \[(\d+)\]", text, flags=re.M)}
    if missing:
        listed = sources(
            reference.resolve(name.rpartition(".")[0] if what in ("method", "property", "attribute") else name)
        )
        entries = [listed[number] for number in sorted(missing & set(listed))]
        heading = [] if "References" in lines else ["", "References", "----------"]
        lines += [*heading, *"\n".join(entries).splitlines()]


def setup(app):
    """Write the reference before autosummary looks for what it names, and complete docstrings before numpydoc."""

    def write(app, config):
        with mock(autodoc_mock_imports):
            reference.write_pages(DOCS / "reference")

    def skip(app, what, name, obj, skipped, options):
        return True if (getattr(obj, "__module__", None) or "").startswith("sklearn.") else None

    app.connect("config-inited", write)
    app.connect("autodoc-skip-member", skip)  # what scikit-learn adds to its estimators
    app.connect("autodoc-process-docstring", complete_docstring, priority=100)
