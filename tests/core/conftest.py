"""Every example runs against the compiled core and against the model, so the examples check the model too."""

import pytest

from fairlead.core import scheduler as core
from models.scheduler_model import Model


def builder(kind, made):
    def build(**limits):
        limits = {"waiting_max": 1000, "running_max": 1000} | limits
        requests = limits["waiting_max"] + limits["running_max"]
        # Small tables are checked sooner.
        limits = {"flows_max": requests + 64, "nodes_max": 16, "pools_max": 4} | limits
        made.append(core.Scheduler(**limits) if kind == "core" else Model(**limits))
        return made[-1]

    return build


@pytest.fixture(params=["core", "model"])
def make(request):
    """Makes schedulers; afterwards every one of them must be in order."""
    made = []
    yield builder(request.param, made)
    for scheduler in made:
        scheduler.check()


@pytest.fixture
def only_core():
    """As make, for what the model does not have: limits on arguments, threads, P2C."""
    made = []
    yield builder("core", made)
    for scheduler in made:
        scheduler.check()
