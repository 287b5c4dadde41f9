"""The live figures of users: shares and indices worked out by hand, and long random histories against a plain model."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import Metric

from fairlead.accounts import BUCKET_NS, CONTENDING, OUTCOMES, Flow, Standing
from fairlead.clock import SECOND_NS
from fairlead.core.scheduler import VIRTUAL_UNIT
from fairlead.user_metrics import TOP_USERS, UserFamilies
from fairlead.users import OTHER, Users

NAMES = {1: "alice", 2: "bob", 3: "carol", 4: "dave", 5: "erin"}


@dataclass
class Call:
    """What is read of a call, and nothing else."""

    user: int
    pool: int = 0
    place: int = 0
    tier: int = 1
    team: str | None = None
    weight: int = 1
    cost: int = 1
    running_max: int = 0
    waited_ns: int = 0
    requeues: int = 0
    bill: Any = None
    flow: Any = None
    tally: Any = None
    user_name: str = field(default="")

    def __post_init__(self) -> None:
        self.user_name = self.user_name or NAMES.get(self.user, f"user {self.user}")


class World:
    """The table and its clock. Requests of a user wait in a list and are served in that order."""

    def __init__(self, users: Users | None = None) -> None:
        self.users = users or Users()
        self.now_ns = 0
        self.waiting: dict[int, list[Call]] = {}

    def ask(self, user: int, count: int = 1, **fields: Any) -> None:
        for _ in range(count):
            call = Call(user, **fields)
            self.users.entered(call, self.now_ns)
            self.waiting.setdefault(user, []).append(call)

    def start(self, user: int) -> Call:
        call = self.waiting[user].pop(0)
        self.users.dispatched(call, self.now_ns)
        return call

    def serve(self, *turns: int) -> None:
        for user in turns:
            self.end(self.start(user))

    def end(self, call: Call, outcome: str = "completed", cost: int | None = None) -> None:
        self.users.ended(call, outcome, call.cost if cost is None else cost, self.now_ns)

    def look(self, pools: tuple[int, ...] = (0,), meanwhile: Callable[[], None] = lambda: None) -> dict[int, Standing]:
        looking = self.users.standings(self.now_ns, pools)
        while True:
            try:
                looking.send(None)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            meanwhile()

    def shares(self, pool: int = 0) -> dict[str, tuple[float, float]]:
        """(service, fair share) by name."""
        flows = self.look((0, 1))[pool].flows
        return {flow.account.name: (flow.service, round(flow.fair, 6)) for flow in flows}

    @property
    def jain(self) -> float:
        return self.look()[0].jain


# By hand -------------------------------------------------------------------------------------------


def test_who_all_wait_all_the_time_are_due_their_weights() -> None:
    world = World()
    world.ask(1, 100, weight=3)
    world.ask(2, 100)
    world.serve(1, 1, 1, 2, 1, 1, 1, 2)
    assert world.shares() == {"alice": (6, 6), "bob": (2, 2)}
    assert world.jain == pytest.approx(1)
    world.serve(2, 2, 2, 2)  # x = 6/9 and 6/3: (8/3)^2 / (2 * (4/9 + 4))
    assert world.shares() == {"alice": (6, 9), "bob": (6, 3)}
    assert world.jain == pytest.approx(64 / 9 / (2 * 40 / 9))


def test_a_user_who_wants_little_is_short_of_nothing() -> None:
    """One of twenty is bob's, and he never waits behind another: all he wanted."""
    world = World()
    world.ask(1, 100)
    for _ in range(5):
        world.serve(*[1] * 19)
        world.ask(2)
        world.serve(2)
    assert world.shares() == {"alice": (95, 95), "bob": (5, 5)}
    assert world.jain == pytest.approx(1)


def test_a_user_who_waits_all_the_time_for_one_request_at_a_time_is_short() -> None:
    """What first come, first served does to one client beside forty."""
    world = World()
    world.ask(1, 100)
    for _ in range(5):
        world.ask(2)
        world.serve(*[1] * 9, 2)
    # Bob waits while 9 and his own are served, each time: he was due half of all 50.
    assert world.shares() == {"alice": (45, 25), "bob": (5, 25)}
    assert world.jain == pytest.approx((45 / 25 + 5 / 25) ** 2 / (2 * (1.8**2 + 0.2**2)))


def test_who_comes_late_is_not_short_of_what_was_served_before() -> None:
    world = World()
    world.ask(1, 100)
    world.serve(*[1] * 30)
    world.ask(2, 100)
    world.serve(*[1, 2] * 10)
    assert world.shares() == {"alice": (40, 40), "bob": (10, 10)}
    assert world.jain == pytest.approx(1)


def test_who_only_waits_and_expires_is_as_short_as_can_be() -> None:
    world = World()
    world.ask(1, 100)
    world.ask(2, 3)
    world.serve(*[1] * 10)
    for call in world.waiting.pop(2):
        world.end(call, "expired", 0)
    assert world.shares() == {"alice": (10, 5), "bob": (0, 5)}
    assert world.jain == pytest.approx(1 / 2)
    assert world.users.accounts[2].counts.outcomes["expired"] == 3


def test_who_waits_for_its_own_limit_is_not_kept_waiting_by_others() -> None:
    world = World()
    world.ask(2, 50, running_max=1)
    world.ask(1, 100)
    running = world.start(2)  # the only one that bob may have
    world.serve(*[1] * 9)
    assert world.shares() == {"alice": (9, 9), "bob": (1, 1)}
    world.end(running)
    world.serve(*[1] * 10)  # now he could
    assert world.shares() == {"alice": (19, 14.5), "bob": (1, 5.5)}  # half of the first and of the last ten


def test_nobody_is_a_fair_division() -> None:
    world = World()
    assert world.look() == {0: Standing()}
    world.ask(1)
    assert world.jain == 1 and world.shares() == {"alice": (0, 0)}


def test_the_true_cost_counts_where_the_estimate_was() -> None:
    world = World()
    world.ask(1, 2, cost=10)
    world.ask(2, 2, cost=10)
    first, second = world.start(1), world.start(2)
    assert world.shares() == {"alice": (10, 10), "bob": (10, 10)}
    world.now_ns += 20 * SECOND_NS
    world.end(first, cost=25)
    assert world.shares()["alice"][0] == 25
    world.now_ns += 39 * SECOND_NS
    assert world.shares()["alice"][0] == 25
    world.now_ns += 2 * SECOND_NS  # the dispatches are older than the window
    world.end(second, cost=99)
    assert world.shares() == {"alice": (0, 0), "bob": (0, 0)}
    assert world.users.accounts[2].counts.service == 99


def test_what_comes_back_from_a_node_is_not_charged() -> None:
    world = World()
    world.ask(1, cost=7)
    call = world.start(1)
    world.users.requeued(call)
    assert world.shares() == {"alice": (0, 0)}
    assert world.users.held() == (1, 0)
    call.requeues = 1
    world.users.dispatched(call, world.now_ns)
    assert world.shares() == {"alice": (7, 7)}
    assert world.look()[0].flows[0].waits == 1
    world.end(call)
    assert world.users.held() == (0, 0)


def test_waits_of_the_window() -> None:
    world = World()
    for wait_ms in (10, 30, 80):
        world.ask(1, waited_ns=wait_ms * 1_000_000)
        world.serve(1)
    (flow,) = world.look()[0].flows
    assert (flow.waits, flow.wait_ns, flow.wait_max_ns) == (3, 120_000_000, 80_000_000)
    world.now_ns += 61 * SECOND_NS
    assert world.look()[0].flows == []


def test_pools_are_divided_each_by_itself_and_a_request_can_move() -> None:
    world = World()
    world.ask(1, 10)
    world.ask(2, 10, pool=1, place=1)
    world.serve(1, 2, 2)
    assert world.shares(0) == {"alice": (1, 1)}
    assert world.shares(1) == {"bob": (2, 2)}
    for call in world.waiting[2]:
        world.users.moved(call, 0, 0, world.now_ns)
    world.serve(1, 1, 1, 2)
    assert world.shares(0) == {"alice": (4, 3), "bob": (1, 2)}
    assert world.shares(1) == {"bob": (2, 2)}
    assert world.look((0,)).keys() == {0}  # pool 1 is gone, and its number may be another's
    assert world.shares(1) == {}


def test_users_are_compared_with_those_of_their_tier_and_team() -> None:
    """What stands between tiers and teams is their weight, not who is in them."""
    world = World()
    for user, place, tier, team in ((1, 10, 0, None), (2, 11, 1, None), (3, 11, 1, None), (4, 12, 1, "t")):
        world.ask(user, 50, place=place, tier=tier, team=team)
    world.serve(*[1] * 16, 2, 3, 4, 4)
    assert world.shares() == {"alice": (16, 16), "bob": (1, 1), "carol": (1, 1), "dave": (2, 2)}
    assert world.jain == pytest.approx(1)
    world.serve(3, 3)
    assert world.shares() == {"alice": (16, 16), "bob": (1, 2), "carol": (3, 2), "dave": (2, 2)}
    assert world.jain == pytest.approx(16 / (4 * (1 + 0.25 + 2.25 + 1)))


def test_a_number_that_the_core_gives_again_is_another_place() -> None:
    world = World()
    world.ask(1, place=10, tier=0)
    world.serve(1)
    world.ask(2, 2, place=10, tier=2, team="t")
    world.serve(2)
    assert world.shares() == {"bob": (1, 1)}
    world.ask(1, place=10, tier=2, team="t")
    world.serve(1)
    assert {name: service for name, (service, _) in world.shares().items()} == {"alice": 1, "bob": 1}


def claims(world: World) -> dict[str, float]:
    return {flow.account.name: flow.claims / 2**40 for flow in world.look()[0].flows}


def test_a_piece_of_the_window_is_that_in_which_it_happened() -> None:
    """However long nothing happened before."""
    world = World()
    world.ask(1, 2)
    world.now_ns += 40 * SECOND_NS
    world.serve(1)
    world.now_ns += 30 * SECOND_NS
    assert world.shares() == {"alice": (1, 1)}


def test_who_comes_later_has_no_claim_on_what_was_served_before() -> None:
    world = World()
    world.ask(1)
    world.serve(1)
    world.now_ns += 10 * SECOND_NS
    world.ask(2)
    assert claims(world) == {"alice": 1, "bob": 0}


@pytest.mark.parametrize("how", ["ended", "moved", "requeued and moved"])
def test_who_leaves_was_there_up_to_then(how: str) -> None:
    """The piece in which it left is dealt out to it, too, though it was there first long before."""
    world = World()
    world.ask(1, 2)
    world.ask(2)
    call = world.waiting[2][0]
    if how == "requeued and moved":
        world.users.dispatched(call, world.now_ns)
    world.now_ns += 10 * SECOND_NS
    if how == "requeued and moved":
        world.users.requeued(call)
    if how == "ended":
        world.end(call, "cancelled", 0)
    else:
        world.users.moved(call, 1, 1, world.now_ns)
    world.serve(1)
    found = claims(world)
    assert found["alice"] == found["bob"] > 0


# The table -----------------------------------------------------------------------------------------


def test_the_least_recently_seen_is_forgotten_but_not_its_counts() -> None:
    world = World(Users(["carol"], users_max=2))
    for user in (1, 2, 1, 3, 3):
        world.ask(user)
        world.serve(user)
    users = world.users
    assert {account.name for account in users.accounts.values()} == {"alice", "carol"}
    assert (users.forgotten_users, users.forgotten.outcomes["completed"]) == (1, 1)
    assert {name: counts.outcomes["completed"] for name, counts in users.series.items()} == {OTHER: 3, "carol": 2}


def test_what_the_forgotten_had_stays_in_the_window() -> None:
    """One of a hundred requests is alice's, whoever of the others is still known."""
    world = World(Users(users_max=3))
    for user in range(1, 100):
        world.ask(user, waited_ns=user)
        world.serve(user)
        world.ask(1)
        call = world.waiting[1].pop()
        world.end(call, "cancelled", 0)
    flows = {flow.account.name: flow for flow in world.look()[0].flows}
    assert (world.look()[0].service, flows["alice"].service, flows[OTHER].service) == (99, 1, 96)
    assert (flows[OTHER].waits, flows[OTHER].wait_ns, flows[OTHER].wait_max_ns) == (96, sum(range(2, 98)), 97)
    world.now_ns += 61 * SECOND_NS
    assert world.look()[0] == Standing()


def test_nobody_looks_and_no_more_than_the_window_is_kept() -> None:
    world = World(Users(users_max=1))
    for turn in range(40):
        for user in (1, 2 + turn, 100 + turn):  # the last finds the table full and busy
            world.ask(user)
        world.serve(2 + turn, 1, 100 + turn)
        world.ask(200 + turn)  # alice, who is forgotten, or whoever is there
        world.serve(200 + turn)
        world.now_ns += 5 * SECOND_NS
    flows = all_flows(world) + list(world.users.surplus.flows.values())
    assert max(len(flow.recent) for flow in flows) == 12
    world.ask(500, 2)
    for _ in range(2):
        world.serve(500)
        world.now_ns += 61 * SECOND_NS
    assert [len(flow.recent) for flow in all_flows(world)] == [1]


def test_what_the_forgotten_had_does_not_come_into_another_place() -> None:
    world = World(Users(users_max=2))
    world.ask(1, place=10, tier=0)
    world.serve(1)
    world.ask(2, 2, place=10, tier=2)  # the core has given the number again
    world.ask(3, place=10, tier=2)  # alice is forgotten
    world.ask(4, place=10, tier=2)
    running = world.start(4)  # in the surplus
    world.end(world.waiting[3].pop(), "cancelled", 0)
    world.ask(5, place=10, tier=2)
    assert world.shares()[OTHER] == (1, 0)
    assert world.users.held() == (3, 1)
    world.end(running)
    assert world.look()[0].service == 1


def test_a_place_that_comes_about_during_a_look_is_left_for_the_next_one() -> None:
    world = World()
    for user in range(600):
        world.ask(user)

    def meanwhile() -> None:
        if 700 not in world.waiting:
            world.ask(700, place=7, tier=2)
            world.ask(599, place=7, tier=2)

    assert len(world.look(meanwhile=meanwhile)[0].flows) == 600
    assert len(world.look()[0].flows) == 602


def test_who_is_forgotten_leaves_no_garbage() -> None:
    """Else a million names would be a million cycles, and the collector stops the loop to find them."""
    world = World(Users(users_max=1))
    world.ask(1)
    world.serve(1)
    gone = weakref.ref(world.users.accounts[1].flows[0].recent)
    gc.disable()
    try:
        world.ask(2)
        assert gone() is None
    finally:
        gc.enable()


def test_who_has_requests_in_the_router_is_not_forgotten() -> None:
    world = World(Users(users_max=2))
    world.ask(1)
    world.ask(2)
    world.ask(3)
    assert set(world.users.accounts) == {1, 2}
    world.serve(3, 1)
    assert world.users.surplus.counts.outcomes["completed"] == 1
    assert world.shares() == {"alice": (1, 0.5), "bob": (0, 0.5), OTHER: (1, 0)}
    world.ask(3)  # there is room, since alice has gone
    assert set(world.users.accounts) == {2, 3}
    world.serve(2, 3)
    assert world.users.held() == (0, 0)


def test_a_user_called_other_is_one_of_them() -> None:
    world = World(Users([OTHER, "alice"]))
    world.ask(9, user_name=OTHER)
    world.ask(1)
    world.serve(9, 1)
    assert {name: counts.outcomes["completed"] for name, counts in world.users.series.items()} == {OTHER: 1, "alice": 1}


def test_a_look_at_many_users_lets_others_go_on_meanwhile() -> None:
    world = World()
    for user in range(3000):
        world.ask(user)
    turns = 0

    def meanwhile() -> None:
        nonlocal turns
        world.end(world.waiting[turns].pop(), "cancelled", 0)
        turns += 1

    assert len(world.look(meanwhile=meanwhile)[0].flows) == 3000
    assert turns >= 10


# In /metrics ---------------------------------------------------------------------------------------

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


def told(families: UserFamilies, world: World) -> dict[str, Metric]:
    numbers = {"virtual_time": 0, "waiting": 9, "running": 0}
    return {family.name: family for family in families.collect({0: numbers}, world.look())}


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


# At random -----------------------------------------------------------------------------------------


class Model:
    """The definitions, added up over a list of everything that was dispatched."""

    def __init__(self) -> None:
        self.dispatches: list[tuple[int, int, dict[int, int]]] = []
        self.present: dict[int, set[int]] = {}  # by bucket: users that were there at some time
        self.charges: list[tuple[int, Call]] = []
        self.final: dict[int, int] = {}  # by id of the call

    def dispatched(self, call: Call, bucket: int, contending: dict[int, int]) -> None:
        self.dispatches.append((bucket, call.cost, contending))
        self.charges.append((bucket, call))
        self.final[id(call)] = call.cost

    def window(self, now: int) -> tuple[Counter[int], dict[int, Fraction], dict[int, Fraction]]:
        """(service, claim, would have had) by user."""
        service: Counter[int] = Counter()
        claim: dict[int, Fraction] = {}
        would: dict[int, Fraction] = {}
        for bucket, call in self.charges:
            if bucket > now - 12:
                service[call.user] += self.final[id(call)]
        for bucket, cost, contending in self.dispatches:
            if bucket > now - 12:
                present = {user: WEIGHTS[user] for user in self.present[bucket]}
                for weights, sums in ((present, claim), (contending, would)):
                    for user, weight in weights.items():
                        part = Fraction(cost * weight, sum(weights.values()))
                        sums[user] = sums.get(user, Fraction(0)) + part
        return service, claim, would


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "start", "start", "end", "leave", "wait", "long"]),
        st.integers(1, 4),
        st.integers(0, 40),
        st.booleans(),
    ),
    max_size=60,
)
WEIGHTS = {1: 1, 2: 3, 3: 10, 4: 1}
LIMITS = {1: 0, 2: 0, 3: 0, 4: 2}


def all_flows(world: World) -> list[Flow]:
    return [flow for account in world.users.accounts.values() for flow in account.flows.values()]


def contending(world: World) -> dict[int, int]:
    return {
        flow.account.key: flow.weight
        for flow in all_flows(world)
        if flow.waiting and not 0 < LIMITS[flow.account.key] <= flow.running
    }


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_the_window_is_what_its_definition_says(steps: list[tuple[str, int, int, bool]]) -> None:
    world, model = World(), Model()
    running: list[Call] = []
    for what, user, number, looks in steps:
        waiting = world.waiting.setdefault(user, [])
        if what == "ask":
            world.ask(user, weight=WEIGHTS[user], cost=number, running_max=LIMITS[user])
        elif what == "start" and waiting:
            if 0 < LIMITS[user] <= sum(call.user == user for call in running):
                continue  # the core would not
            model.dispatched(waiting[0], world.now_ns // BUCKET_NS, contending(world))
            running.append(world.start(user))
        elif what == "end" and running:
            call = running.pop(number % len(running))
            model.final[id(call)] = number
            world.end(call, cost=number)
        elif what == "leave" and waiting:
            world.end(waiting.pop(), "cancelled", 0)
        elif what == "wait":
            world.now_ns += number * SECOND_NS // 10
        elif what == "long":
            world.now_ns += number * SECOND_NS
        there = model.present.setdefault(world.now_ns // BUCKET_NS, set())
        there |= {flow.account.key for flow in all_flows(world) if flow.waiting or flow.running}
        if looks:
            check(world, model)
    check(world, model)


def check(world: World, model: Model) -> None:
    now = world.now_ns // BUCKET_NS
    standing = world.look()[0]
    service, claim, would = model.window(now)
    found = {flow.account.key: flow for flow in standing.flows}
    assert {key for sums in (service, claim) for key in sums if sums[key]} <= set(found)
    for key, flow in found.items():
        assert flow.service == service[key]
        assert flow.claims / 2**40 == pytest.approx(float(claim.get(key, 0)), abs=1e-6)
        assert flow.would_have / 2**40 == pytest.approx(float(would.get(key, 0)), abs=1e-6)
        assert len(flow.recent) <= 12
    assert standing.service == sum(service.values())
    shares = sum(flow.fair for flow in standing.flows)
    assert shares == pytest.approx(sum(flow.service for flow in standing.flows if flow.claims))
    assert 0 <= standing.jain <= 1 + 1e-9
    flows = all_flows(world)
    for place in {id(flow.place): flow.place for flow in flows}.values():
        mine = [flow for flow in flows if flow.place is place]
        assert place.present == sum(flow.weight for flow in mine if flow.state)
        assert place.contending == sum(flow.weight for flow in mine if flow.state == CONTENDING)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.sampled_from(OUTCOMES), st.integers(0, 9), st.booleans(), st.booleans()),
        max_size=80,
    )
)
def test_no_counter_goes_back_whoever_comes_and_goes(requests: list[tuple[int, str, int, bool, bool]]) -> None:
    """Three users have room, eight come; some stay while others come."""
    world = World(Users(["alice", "erin"], users_max=3))
    users, stay = world.users, list[Call]()
    before: dict[tuple[str, str], int] = {}
    ended = 0
    for user, outcome, cost, stays, look in requests:
        world.ask(user)
        call = world.start(user) if outcome in ("completed", "failed") else world.waiting[user].pop()
        if stays:
            stay.append(call)
        else:
            world.end(call, outcome, cost)
            ended += 1
        if len(stay) > 4:
            world.end(stay.pop(0), "cancelled", cost)
            ended += 1
        if look:
            world.look()
        now = {(name, word): count for name, counts in users.series.items() for word, count in counts.outcomes.items()}
        now |= {(name, "service"): counts.service for name, counts in users.series.items()}
        assert now.keys() >= before.keys() and all(now[key] >= count for key, count in before.items())
        before = now
        assert set(users.series) == {OTHER, "alice", "erin"}
        assert len(users.accounts) <= 3
        totals = [counts.outcomes for counts in users.series.values()]
        kept = [account.counts.outcomes for account in users.accounts.values()]
        kept += [users.forgotten.outcomes, users.surplus.counts.outcomes]
        assert sum(map(sum, (each.values() for each in totals))) == ended
        assert sum(map(sum, (each.values() for each in kept))) == ended


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.integers(0, 9), st.integers(0, 40), st.booleans(), st.booleans()), max_size=80
    )
)
def test_the_service_of_a_pool_is_that_of_all_who_came(requests: list[tuple[int, int, int, bool, bool]]) -> None:
    """Two users have room, eight come; some stay while others come. As many as were dispatched in the window."""
    world = World(Users(users_max=2))
    dispatched: list[tuple[int, int]] = []
    stay: list[Call] = []
    for user, cost, wait_s, stays, looks in requests:
        world.ask(user, cost=cost)
        dispatched.append((world.now_ns // BUCKET_NS, cost))
        call = world.start(user)
        if stays:
            stay.append(call)
        else:
            world.end(call)
        if len(stay) > 2:
            world.end(stay.pop(0))
        world.now_ns += wait_s * SECOND_NS // 4
        if not looks:
            continue
        standing = world.look()[0]
        window = [cost for bucket, cost in dispatched if bucket > world.now_ns // BUCKET_NS - 12]
        assert (standing.service, sum(flow.waits for flow in standing.flows)) == (sum(window), len(window))
        for flow in standing.flows:
            buckets = [tally.bucket for tally in flow.recent]
            assert buckets == sorted(set(buckets))
