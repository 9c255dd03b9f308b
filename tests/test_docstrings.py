"""Every example in the docstring of a public name runs, and prints what it says."""

import doctest
import importlib.util
import re
import sys
import typing

import pytest
import reference

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TORCH = importlib.util.find_spec("torch") is not None
HOMES = sorted(
    {
        home
        for names in reference.public_names(m for m in reference.MODULES if TORCH or "torch" not in m).values()
        for home in names.values()
        if callable(reference.resolve(home)) and reference.resolve(home) is not typing.Any
    }
)


def examples(home):
    """Examples of an object: those of a class and of its methods."""
    value = reference.resolve(home)
    finder = doctest.DocTestFinder(exclude_empty=True)
    return finder.find(value, home, module=False, globs=dict(vars(sys.modules[value.__module__])))


@pytest.mark.parametrize("home", HOMES)
def test_each_name_has_an_example_and_points_to_others(home):
    assert any(found.examples for found in examples(home))
    assert "See Also\n" in reference.resolve(home).__doc__


@pytest.mark.slow
@pytest.mark.parametrize("home", HOMES)
def test_examples_run(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for found in examples(home):
        if not TORCH and any(re.match("(import|from) torch", e.source) for e in found.examples):
            pytest.skip("the example is of PyTorch, an extra")
        runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
        output = []
        runner.run(found, out=output.append)
        assert runner.failures == 0, "".join(output)
