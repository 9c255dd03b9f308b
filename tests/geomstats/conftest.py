"""Hooks that the test cases shipped by geomstats need."""

import geomstats.backend as gs
import pytest
from geomstats.test.conf import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_make_parametrize_id,
)


def pytest_configure(config):
    for marker in ("ignore", "random", "shape", "vec"):
        config.addinivalue_line("markers", f"{marker}: set by geomstats on the test cases it ships")


@pytest.fixture(autouse=True)
def _seed():
    gs.random.seed(3)
