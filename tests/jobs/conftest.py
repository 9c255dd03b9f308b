"""What the tests of the commands share as fixtures."""

from types import SimpleNamespace

import pytest

import dlngeo.jobs.compare
import dlngeo.jobs.flow
import dlngeo.jobs.sample


@pytest.fixture
def _sketchy(monkeypatch):
    """Draw nothing, which takes most of the time of a short run."""
    for job in (dlngeo.jobs.compare, dlngeo.jobs.flow, dlngeo.jobs.sample):
        monkeypatch.setattr(job, "figure", lambda *_: SimpleNamespace(savefig=lambda *_, **__: None))
