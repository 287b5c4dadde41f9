"""Which users /metrics shows, and what of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client.core import Metric

from fairlead.clock import SECOND_NS
from fairlead.core.scheduler import VIRTUAL_UNIT
from fairlead.user_metrics import TOP_USERS, UserFamilies
from pure.users_world import World, drive

LAGS = {1: 3, 2: 7, 3: 5}


class Core:
    """What the core would say: everybody waits once."""

    def pool_name(self, pool: int) -> str:
        return str(pool)

    def place_user(self, pool: int, place: int, user: int) -> dict[str, int]:
        lag = LAGS.get(user)
        if lag is None:
            return {}
        return {"waiting": 1, "running": 0, "virtual_time": lag * VIRTUAL_UNIT, "virtual_start": 0}


def told(families: UserFamilies, world: World, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Metric]:
    numbers = {"virtual_time": 0, "waiting": 9, "running": 0}
    figures = drive(families.add_up(world.look()), meanwhile)
    return {family.name: family for family in families.collect({0: numbers}, figures)}


def values(family: Metric) -> dict[str, float]:
    return {sample.labels["user"]: sample.value for sample in family.samples}


def shown(families: UserFamilies, world: World) -> set[str]:
    return set(values(told(families, world)["fairlead_user_share"])) - {"other"}


def test_who_is_shown_stays_until_another_has_twice_as_much() -> None:
    world = World()
    families = UserFamilies(world.users, 1, Core())
    for user in range(100, 100 + TOP_USERS):
        world.ask(user, cost=10)
        world.serve(user)
    first = shown(families, world)
    assert len(first) == TOP_USERS
    world.ask(1, 2, cost=19)
    world.serve(1)
    assert shown(families, world) == first
    world.serve(1)
    assert "alice" in shown(families, world)


def test_who_was_due_most_and_got_nothing_is_shown() -> None:
    world = World()
    world.ask(1, cost=10, weight=10)  # waits all the time
    for user in range(100, 130):
        world.ask(user, cost=10)
        world.serve(user)
    assert "alice" in shown(UserFamilies(world.users, 1, Core()), world)


def test_two_of_one_name_are_added_up_and_the_larger_lag_is_told() -> None:
    world = World()
    for user, wait_s in ((1, 1), (2, 3), (3, 2)):
        world.ask(user, 2, waited_ns=wait_s * SECOND_NS, user_name="127.0.0.1")
        world.serve(user)
    found = told(UserFamilies(world.users, 1, Core()), world)
    assert values(found["fairlead_user_lag"]) == {"127.0.0.1": 7}
    assert values(found["fairlead_user_wait_seconds"]) == {"127.0.0.1": pytest.approx(2), "other": 0}
    assert values(found["fairlead_user_waiting"]) == {"127.0.0.1": 3, "other": 6}
    assert values(found["fairlead_user_share"]) == {"127.0.0.1": 1, "other": 0}


def test_shares_add_up_to_one_whatever_is_served_while_they_are_added_up() -> None:
    world = World()
    for user in range(2000):
        world.ask(user, 60)
        world.serve(user)
    turns = 0

    def meanwhile() -> None:
        nonlocal turns
        world.serve(1, 1000, 1999)
        turns += 1

    found = told(UserFamilies(world.users, 1, Core()), world, meanwhile)
    assert turns >= 20
    assert sum(values(found["fairlead_user_share"]).values()) == pytest.approx(1)
