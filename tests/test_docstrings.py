"""Every example in the docstring of a public name runs, and prints what it says."""

import doctest
import importlib.util
import sys
from pathlib import Path

import pytest
import reference

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
HOMES = sorted(
    {
        home
        for names in (reference.public_names() if importlib.util.find_spec("torch") else {}).values()
        for home in names.values()
        if callable(reference.resolve(home))
    }
)


def examples(home):
    """Examples of an object: those of a class and of its methods."""
    value = reference.resolve(home)
    finder = doctest.DocTestFinder(exclude_empty=True)
    return finder.find(value, home, module=False, globs=dict(vars(sys.modules[value.__module__])))


def test_new_names_have_an_example_and_point_to_others():
    """The names that have not yet are in a list, which may only become shorter."""
    without = (Path(__file__).parent / "without_examples.txt").read_text(encoding="utf-8").split()
    complete = {
        home
        for home in HOMES
        if any(found.examples for found in examples(home)) and "See Also\n" in reference.resolve(home).__doc__
    }
    assert set(HOMES) - complete <= set(without), "write them an example that runs, and a See Also"
    assert sorted(complete & set(without)) == [], "take them off tests/without_examples.txt"


@pytest.mark.parametrize("home", HOMES)
def test_examples_run(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for found in examples(home):
        runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
        output = []
        runner.run(found, out=output.append)
        assert runner.failures == 0, "".join(output)
