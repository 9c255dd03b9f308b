"""Shared configuration of the tests."""

import os
import signal
import sys

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers, and what they start, share the cores among them. The libraries read this as they are loaded, SciPy's
    # later than NumPy's; waiting threads of two of them would take the cores from one another.
    os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np
import pytest
from hypothesis import settings

# Failures must be repeatable by whoever sees them, so the default examples are the same on every run.
# HYPOTHESIS_PROFILE=random searches afresh.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let one worker run all quick tests of a file, which Numba compiles for once, and whose fixtures are made once."""
    if config.getoption("dist") == "load" and "not slow" in config.getoption("markexpr"):
        from xdist.scheduler import LoadFileScheduling

        return LoadFileScheduling(config, log)
    return None


@pytest.fixture(autouse=True)
def _generators_of_the_process():
    """Seed the generators that hosts draw from where no rng is given, so that each test sees the same on every run."""
    np.random.seed(20240911)  # noqa: NPY002, the one that they draw from
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(20240911)


@pytest.fixture
def rng():
    return np.random.default_rng(20240911)


@pytest.fixture
def ctrl_c():
    """Let SIGINT interrupt this process and those it starts; background jobs of a shell inherit it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
