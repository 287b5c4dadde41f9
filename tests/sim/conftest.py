"""At the end of a run: which seeds the driver was simulated with, how many events that were, and how fast."""

from __future__ import annotations

from typing import Any

import pytest

SIMULATIONS = pytest.StashKey[list[Any]]()


@pytest.fixture(scope="session")
def simulations(pytestconfig: pytest.Config) -> list[Any]:
    """The simulations of this run that went well."""
    return pytestconfig.stash.setdefault(SIMULATIONS, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    done = config.stash.get(SIMULATIONS, [])
    if not done:
        return
    events = sum(each.watch.events for each in done)
    cpu_s = sum(each.cpu_s for each in done)
    seeds = [each.plan.seed for each in done]
    crowded = [each for each in done if each.watch.crowded]
    terminalreporter.write_line(
        f"driver simulation: {len(done)} seeds {min(seeds)}..{max(seeds)}, {events:,} events in {cpu_s:.1f} s of CPU, "
        f"{60 * events / cpu_s:,.0f} a minute; {len(crowded)} seeds with more than 1,000 waiting of 100 users, "
        f"{sum(each.watch.crowded for each in crowded):,} events while they did"
    )
