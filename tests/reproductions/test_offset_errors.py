"""What ``offset_errors.py`` computes, and that the page says what was found."""

import json
from pathlib import Path

import numpy as np
import offset_errors as script
import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def cells():
    return json.loads((DOCS / "offsets.json").read_text(encoding="utf-8"))


def test_the_page_has_the_table_of_the_cells(cells):
    assert script.table(cells) in (DOCS / "relaxed.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("index", [0, 140, 300, 449, 450, 599])
def test_cells_are_computed_again(cells, index):
    cell = cells[index]
    if cell["kind"] == script.PYTORCH:
        pytest.importorskip("torch")
    again = script.compute(cell["kind"], cell["depth"], cell["seed"])
    assert {**again, "error": 0, "bound": 0, "imbalance": 0} == {**cell, "error": 0, "bound": 0, "imbalance": 0}
    for column in ("error", "bound", "imbalance"):
        assert again[column] == (None if cell[column] is None else pytest.approx(cell[column], rel=1e-3))


def test_the_bound_is_above_the_error_and_what_the_page_concludes_holds(cells):
    assert len(cells) == 4 * 3 * len(script.SEEDS)
    for cell in cells:
        assert (cell["bound"] is None) == (cell["kind"] == script.PYTORCH)
        if cell["bound"] is not None:
            assert cell["bound"] > cell["error"]
    for kind in map(str, script.NOISES):
        ratios = [
            np.median([c["bound"] / c["error"] for c in cells if (c["kind"], c["depth"]) == (kind, depth)])
            for depth in script.DEPTHS
        ]
        assert ratios == sorted(ratios)
    for depth in script.DEPTHS:
        some = [c for c in cells if (c["kind"], c["depth"]) == (script.PYTORCH, depth)]
        assert np.median([c["imbalance"] for c in some]) == pytest.approx(0.5, abs=0.1)
        assert np.median([c["error"] for c in some]) > 1
