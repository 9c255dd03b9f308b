"""The public names: what is there is what is shown, and what a type checker is told."""

import ast
import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import dlngeo

ROOMS = ("flows", "geomstats", "plotting", "problems", "pymanopt", "sampling", "sklearn", "torch")


def python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_what_a_checker_reads_is_what_runs():
    """Name → module of the imports for type checkers are those of the table, and all names lead to an object."""
    tree = ast.parse(Path(dlngeo.__file__).read_text(encoding="utf-8"))
    told = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.name == alias.asname, "only `name as name` is an export to a type checker"
                told[alias.name] = node.module
    assert told == dlngeo._HOMES | dict.fromkeys(ROOMS, "dlngeo")
    for name, module in told.items():
        if name == "torch" and importlib.util.find_spec("torch") is None:
            continue
        assert getattr(dlngeo, name) is getattr(importlib.import_module(module), name)


def test_dir_shows_the_public_names_and_nothing_else():
    assert dir(dlngeo) == sorted([*dlngeo.__all__, *ROOMS])
    script = "import dlngeo as d; dir(d); print(dir(d)); from dlngeo import *; print(sorted({*globals()} - {'d'}))"
    shown, starred = python(script).splitlines()
    assert shown == str(dir(dlngeo))
    assert [name for name in ast.literal_eval(starred) if name[:2] != "__"] == sorted(
        {*dlngeo.__all__} - {"__version__"}
    )
    with pytest.raises(AttributeError, match="'dlngeo' has no attribute 'entropyy'"):
        dlngeo.entropyy  # noqa: B018


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_say_what_is_public(room):
    if room == "torch":
        pytest.importorskip("torch")
    module = getattr(dlngeo, room)
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__doc__


def test_the_version_is_that_of_the_distribution():
    assert dlngeo.__version__ == importlib.metadata.version("dlngeo")


def test_importing_the_package_imports_nothing_else():
    heavy = "{'numpy', 'scipy', 'geomstats', 'pymanopt', 'numba', 'torch', 'jax'}"
    assert python(f"import sys, dlngeo; print({heavy} & set(sys.modules))") == "set()\n"


def test_the_room_of_an_extra_names_it():
    code = "import sys; sys.modules['torch'] = None\ntry: import dlngeo.torch\nexcept ImportError as e: print(e)"
    assert "pip install dlngeo[torch]" in python(code)


def test_a_type_checker_knows_each_name(tmp_path):
    pytest.importorskip("mypy", reason="mypy is installed with the extra 'dev'")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "import dlngeo\n"
        "dlngeo.entropyy(3)\n"
        "dlngeo.entropy()\n"
        "dlngeo.DepthKernel('deep')\n"
        "dlngeo.sampling.Langevinn\n"
        "reveal_type(dlngeo.entropy)\n"
        "reveal_type(dlngeo.FixedRank(3, 3, 2).kernel)\n"
        "reveal_type(dlngeo.__version__)\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    root = Path(dlngeo.__file__).parent.parent
    run = subprocess.run(
        [*command, f"--cache-dir={tmp_path}", str(snippet)], cwd=root, capture_output=True, text=True, check=False
    )
    lines = {int(line.split(":")[1]): line for line in run.stdout.splitlines() if line.startswith(str(snippet))}
    assert 'Module has no attribute "entropyy"' in lines[2], run.stdout + run.stderr
    assert 'Missing positional argument "x" in call to "entropy"' in lines[3]
    assert 'incompatible type "str"; expected "float"' in lines[4]
    assert 'Module has no attribute "Langevinn"' in lines[5]
    assert "rank: int | None" in lines[6].replace("Union[int, None]", "int | None")
    assert '"dlngeo.kernels.kernel.Kernel"' in lines[7]
    assert '"str"' in lines[8] or '"builtins.str"' in lines[8]
