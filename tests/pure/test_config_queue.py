"""Tiers, teams and the prices of tokens in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.clock import SECOND_NS
from fairlead.config import TeamConfig, UserConfig, load
from fairlead.config_schema import TEAMS_MAX
from pure.config_text import NODES, fault, read

# Tiers and teams -----------------------------------------------------------------------------------


def test_tiers_and_teams(file: Path) -> None:
    text = """\
teams: {red: {weight: 2, max_in_flight: 20}, blue: }
users: {alice: {team: red, priority: high}, bob: {team: none}, carol: , default: {team: blue, priority: low}}
queue: {tiers: {high: 8}, tier_policy: strict, promote_after: 1m, within_user: deadline, max_in_flight_per_pool: 9}
"""
    config = read(file, NODES + text)
    assert dict(config.teams) == {"red": TeamConfig(2, 20), "blue": TeamConfig(1, 0)}
    assert dict(config.users) == {
        "alice": UserConfig(1, 0, "high", "red"),
        "bob": UserConfig(1, 0, "low", None),
        "carol": UserConfig(1, 0, "low", "blue"),
    }
    queue = config.queue
    assert dict(queue.tiers) == {"high": 8, "normal": 4, "low": 1}
    assert (queue.tier_policy, queue.promote_after_ns, queue.within_user) == ("strict", 60 * SECOND_NS, "deadline")
    assert queue.max_in_flight_per_pool == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "users: {a: {team: reed}}",
            "users.a.team: unknown team 'reed': name it under teams; nearest known team: red",
        ),
        (
            "users: {default: {team: xyz}}",
            "users.default.team: unknown team 'xyz': name it under teams; known teams: red, blue",
        ),
        ("users: {a: {team: ''}}", "users.a.team: '' is not allowed: choose a name from teams, or none"),
        ("users: {a: {priority: High}}", "users.a.priority: 'High' is not allowed: choose high | normal | low"),
        ("queue: {tiers: {low: 0}}", "queue.tiers.low: '0' is not allowed: choose an integer 1..10000"),
        ("queue: {tiers: {lo: 1}}", "queue.tiers.lo: unknown key; nearest known key: low"),
        ("queue: {tiers: [1, 2, 3]}", "queue.tiers: must be a mapping"),
        ("queue: {tier_policy: fair}", "queue.tier_policy: 'fair' is not allowed: choose weighted | strict"),
        ("queue: {promote_after: 0s}", "queue.promote_after: '0s' is not allowed: choose a duration 1ms..24h"),
        ("queue: {within_user: edf}", "queue.within_user: 'edf' is not allowed: choose arrival | deadline"),
    ],
)
def test_tiers_and_teams_that_can_not_be(file: Path, text: str, message: str) -> None:
    assert fault(file, NODES + "teams: {red: , blue: }\n" + text).startswith("f.yaml:3: " + message)


@pytest.mark.parametrize(
    ("teams", "message"),
    [
        ("{none: {}}", "teams: no team can be called none: a user without a team has that"),
        ("{'': {}}", "teams.: a team's name must be 1..128 printable characters"),
        ("{a: {weigth: 1}}", "teams.a.weigth: unknown key; nearest known key: weight"),
        ("{a: {weight: 10001}}", "teams.a.weight: '10001' is not allowed: choose an integer 1..10000"),
        ("[a]", "teams: must be a mapping"),
    ],
)
def test_teams_that_can_not_be(file: Path, teams: str, message: str) -> None:
    assert fault(file, f"{NODES}teams: {teams}").startswith("f.yaml:2: " + message)


def test_there_may_be_so_many_teams_and_not_one_more(file: Path) -> None:
    teams = [f"t{number}" for number in range(TEAMS_MAX + 1)]
    assert len(read(file, f"{NODES}teams: {{{': , '.join(teams[1:])}: }}").teams) == TEAMS_MAX
    message = fault(file, f"{NODES}teams: {{{': , '.join(teams)}: }}")
    assert message == "f.yaml:2: teams: has 1001 teams, the most there may be is 1000: leave some out"


def test_without_teams_a_user_s_team_is_unknown(file: Path) -> None:
    message = fault(file, NODES + "users: {a: {team: red}}")
    assert message == "f.yaml:2: users.a.team: unknown team 'red': name it under teams; known teams: none"


# Prices --------------------------------------------------------------------------------------------


def test_prices_that_are_left_out_are_the_default_s(file: Path) -> None:
    given = read(file, NODES + "queue: {prices: {input: 0.1, cached_input: 0.01}}").queue.prices
    assert dict(given) == {"input": 0.1, "output": 2.0, "cached_input": 0.01}
    assert dict(load(None, env={}).queue.prices) == {"input": 1.0, "output": 2.0, "cached_input": 1.0}


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ("{input: -1}", "f.yaml:2: queue.prices.input: '-1' is not allowed: choose a number 0..1000"),
        ("{output: 1000.5}", "f.yaml:2: queue.prices.output: '1000.5' is not allowed: choose a number 0..1000"),
        ("{inputs: 1}", "f.yaml:2: queue.prices.inputs: unknown key; nearest known key: input"),
        ("[1]", "f.yaml:2: queue.prices: "),
    ],
)
def test_prices_that_can_not_be(file: Path, prices: str, message: str) -> None:
    assert fault(file, NODES + "queue: {prices: " + prices + "}").startswith(message)
