"""The live figures of users: long random histories against a plain model."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.accounts import BUCKET_NS, CONTENDING, OUTCOMES
from fairlead.clock import SECOND_NS
from fairlead.users import OTHER, Users
from pure.users_world import Call, World, all_flows


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
