"""The core against the model, call by call: tiny capacities, every operation, everything compared after every step."""

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fairlead.core import scheduler as core
from models.scheduler_model import Model

STEPS = Counter()
USERS = st.integers(1, 3)
PICK = st.integers(0, 1000)


class SchedulerMachine(RuleBasedStateMachine):
    """Handles of core and model differ in number and not in meaning: pairs are kept."""

    def __init__(self):
        super().__init__()
        self.now = 0
        self.waiting, self.running, self.spent, self.nodes = [], [], [], []

    @initialize(
        order=st.sampled_from([core.FAIR, core.FAIR, core.FIFO]),
        routing=st.sampled_from([core.SCORE, core.SCORE_RAW, core.LEAST_LOADED]),
        waiting_max=st.integers(0, 4),
        running_max=st.integers(1, 4),
        bytes_max=st.sampled_from([5, 1000]),
        page=st.sampled_from([1, 2, 8]),
        patience=st.sampled_from([3, core.NEVER]),
        rebase_at=st.sampled_from([1, 2 * core.VIRTUAL_UNIT, 1 << 60]),
        overflow=st.sampled_from([core.REJECT, core.PUSH_OUT]),
        within_user=st.sampled_from([core.ARRIVAL, core.ARRIVAL, core.DEADLINE]),
        promote=st.sampled_from([None, None, 0, 2, core.NEVER]),
        limited=st.sampled_from([(0, 0, 0), (1, 1, 1), (1, 2, 0), (2, 1, 1)]),
    )
    def build(
        self,
        order,
        routing,
        waiting_max,
        running_max,
        bytes_max,
        page,
        patience,
        rebase_at,
        overflow,
        within_user,
        promote,
        limited,
    ):
        limits = dict(
            waiting_max=waiting_max,
            running_max=running_max,
            waiting_bytes_max=bytes_max,
            flows_max=20,
            nodes_max=3,
            pools_max=2,
            decisions_max=page,
            order=order,
            routing=routing,
            no_node_wait_ns=patience,
            rebase_at=rebase_at,
            overflow=overflow,
            within_user=within_user,
            groups_max=4,
            limits_max=3,
        )
        self.core, self.model = core.Scheduler(**limits), Model(**limits)
        # Pool 1 has two tiers, and each of them a team; requests go to all of them unless the pool is strict. The
        # teams share one limit, pool 0 and the upper tier another.
        self.limits = [self.both("add_limit", running_max) for running_max in limited]
        one, two, _ = self.limits
        self.pools = [self.both("add_pool", 1, two), self.both("add_pool")]
        high, low = self.both("add_group", 1, 4, 0, two), self.both("add_group", 1, 1, 1)
        self.groups = [high, low, self.both("add_group", low, 3, 0, one), self.both("add_group", high, 1, 0, one)]
        self.places = [0, *self.groups] + ([] if promote is not None else [1])
        if promote is not None:
            self.both("set_strict", 1, promote)
        for slots in (1, 2):
            self.add_node(slots)
            self.both("set_node_pools", self.nodes[-1], [0, 1][:slots])
            self.both("set_node_state", self.nodes[-1], core.UP)

    def both(self, name, *arguments):
        """Call core and model with their own handles; the answers must agree, and pairs of handles come back."""
        ours = [value[0] if isinstance(value, tuple) else value for value in arguments]
        theirs = [value[1] if isinstance(value, tuple) else value for value in arguments]
        answer = getattr(self.core, name)(self.now, *ours)
        expected = getattr(self.model, name)(self.now, *theirs)
        if name == "add_node" or (name == "submit" and answer > 0 and expected > 0):
            return answer, expected
        assert answer == expected, (name, arguments, answer, expected)
        return answer

    @rule(step=st.sampled_from([0, 1, 1, 2, 5]))
    def wait(self, step):
        self.now += step

    @rule(
        pick=PICK,
        user=USERS,
        weight=st.sampled_from([1, 2, 7, 16]),
        cost=st.integers(0, 9),
        width=st.sampled_from([1, 1, 2]),
        size=st.integers(0, 4),
        patience=st.sampled_from([0, 1, 4, 1000]),
        running_max=st.sampled_from([0, 0, 1, 2]),
        waiting_max=st.sampled_from([0, 0, 1, 2, core.NEVER_WAIT]),
    )
    def submit(self, pick, user, weight, cost, width, size, patience, running_max, waiting_max):
        deadline = self.now + patience
        place = self.places[pick % len(self.places)]
        foretold, pushed_out = self.core.position_if(place, user, weight, deadline), self.core.counters()["pushed_out"]
        pair = self.both("submit", place, user, weight, cost, width, size, deadline, running_max, waiting_max)
        if isinstance(pair, tuple):
            self.waiting.append(pair)
            if self.core.counters()["pushed_out"] == pushed_out:
                assert self.core.position(pair[0]) == foretold

    @rule()
    def drain(self):
        decisions, expected = self.core.drain(self.now), self.model.drain(self.now)
        known, nodes = dict(self.waiting), dict(self.nodes)
        assert [(kind, known[handle], nodes.get(node, 0)) for kind, handle, node in decisions] == expected
        for kind, handle, _ in decisions:
            pair = (handle, known[handle])
            self.waiting.remove(pair)
            (self.running if kind == core.DISPATCHED else self.spent).append(pair)

    @precondition(lambda self: self.running)
    @rule(pick=PICK, outcome=st.sampled_from([1, 2, 3]), cost=st.integers(0, 20))
    def finish(self, pick, outcome, cost):
        pair = self.running.pop(pick % len(self.running))
        assert self.both("finish", pair, outcome, cost)
        self.spent.append(pair)

    @precondition(lambda self: self.running)
    @rule(pick=PICK)
    def requeue(self, pick):
        pair = self.running.pop(pick % len(self.running))
        assert self.both("requeue", pair)
        self.waiting.append(pair)

    @precondition(lambda self: self.waiting)
    @rule(pick=PICK)
    def cancel(self, pick):
        pair = self.waiting.pop(pick % len(self.waiting))
        assert self.both("cancel", pair)
        self.spent.append(pair)

    @precondition(lambda self: self.waiting)
    @rule(pick=PICK, to=PICK)
    def move(self, pick, to):
        # False for one that was pushed out and not reported yet.
        self.both("move", self.waiting[pick % len(self.waiting)], self.places[to % len(self.places)])

    @rule(pick=PICK, weight=st.sampled_from([1, 2, 16]))
    def set_weight(self, pick, weight):
        self.both("set_weight", (self.pools + self.groups)[pick % 6], weight)

    @rule(pick=PICK, running_max=st.sampled_from([0, 1, 1, 2]))
    def set_limit(self, pick, running_max):
        self.both("set_limit", self.limits[pick % 3], running_max)

    @rule(pick=PICK, limit=st.sampled_from([None, 0, 2]))
    def make_a_team_anew(self, pick, limit):
        """A team that has nothing to do is made again, under its tier, with another limit."""
        group = self.groups[2 + pick % 2]
        seen = self.core.group(group)
        if not seen["waiting"] and not seen["running"]:
            self.both("remove_group", group)
            tier = self.groups[1 - pick % 2]
            assert self.both("add_group", tier, 2, 0, 0 if limit is None else self.limits[limit]) == group

    @precondition(lambda self: self.spent)
    @rule(pick=PICK)
    def use_a_spent_handle(self, pick):
        pair = self.spent[pick % len(self.spent)]
        for name, rest in (("finish", (1, 1)), ("cancel", ()), ("requeue", ()), ("move", (0,))):
            assert self.both(name, pair, *rest) is False

    @precondition(lambda self: len(self.nodes) < 3)
    @rule(slots=st.integers(0, 3))
    def add_node(self, slots):
        self.nodes.append(self.both("add_node", slots))

    @precondition(lambda self: self.nodes)
    @rule(pick=PICK)
    def remove_node(self, pick):
        pair = self.nodes.pop(pick % len(self.nodes))
        assert self.both("remove_node", pair)
        assert not self.both("remove_node", pair)

    @precondition(lambda self: self.nodes)
    @rule(pick=PICK, state=st.sampled_from([core.DOWN, core.UP, core.UP, core.DRAINING]))
    def set_state(self, pick, state):
        assert self.both("set_node_state", self.nodes[pick % len(self.nodes)], state)

    @precondition(lambda self: self.nodes)
    @rule(pick=PICK, pools=st.sampled_from([[], [0], [1], [0, 1]]))
    def set_pools(self, pick, pools):
        assert self.both("set_node_pools", self.nodes[pick % len(self.nodes)], pools)

    @precondition(lambda self: self.nodes)
    @rule(pick=PICK, slots=st.integers(0, 3), gpu=st.sampled_from([-1.0, 0.0, 0.1, 0.9, 2.0]), others=st.integers(0, 5))
    def set_numbers(self, pick, slots, gpu, others):
        assert self.both("set_node_slots", self.nodes[pick % len(self.nodes)], slots)
        assert self.both("set_node_load", self.nodes[pick % len(self.nodes)], gpu, others)

    @invariant()
    def agree(self):
        if not hasattr(self, "core"):
            return
        STEPS["steps"] += 1
        self.core.check()
        assert self.core.counters() == self.model.counters()
        assert self.core.next_deadline_ns() == self.model.next_deadline_ns()
        for pool in self.pools:
            assert self.core.pool(pool) == self.model.pool(pool)
        for group in self.groups:
            assert self.core.group(group) == self.model.group(group)
        for limit in self.limits:
            assert self.core.limit(limit) == self.model.limit(limit)
        for place in self.places:
            for user in (1, 2, 3):
                assert self.core.user(place, user) == self.model.user(place, user)
                claim = (place, user, user, self.now + user)
                assert self.core.position_if(*claim) == self.model.position_if(*claim)
        for ours, theirs in self.nodes:
            assert self.core.node(ours) == self.model.node(theirs)
        for ours, theirs in self.waiting:
            assert self.core.position(ours) == self.model.position(theirs)


def test_core_and_model_agree_on_everything(request):
    STEPS.clear()
    examples = {"dev": 60, "ci": 600}[request.config.getoption("--profile")]
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    print(f"{STEPS['steps']:,} steps compared")
    if request.config.getoption("--profile") == "ci":
        assert STEPS["steps"] >= 20_000, "the machine must run at least 20,000 steps in CI"
