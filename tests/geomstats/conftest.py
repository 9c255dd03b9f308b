"""Hooks that the test cases shipped by geomstats need."""

import geomstats.backend as gs
import pytest
from geomstats.test.conf import pytest_collection_modifyitems  # noqa: F401

# Its pytest_make_parametrize_id is left out: a hook acts on every test, and this one writes addresses of objects into
# their names, which then differ between the workers of pytest-xdist.


def pytest_configure(config):
    for marker in ("ignore", "mathprop", "random", "shape", "type", "vec"):
        config.addinivalue_line("markers", f"{marker}: set by geomstats on the test cases it ships")


@pytest.fixture(autouse=True)
def _seed():
    gs.random.seed(3)
