"""Where in the core a request goes: pools, the groups below them, and the nodes that work for them.

Promise: pool, tier and team give a place, made when it is first asked for; what stands for one node, and for one pool,
changes together. There are never more groups than the core has room for: those without requests make room, and if
there are none, ``NoRoom`` says so.

Theory. A pool of models is a pool of the core. Below it stands a group for each tier, and below that one for each team,
so users compete within their team, teams and the users without one within their tier, tiers within the pool. Without
tiers (fifo) teams stand below the pool.

Cheap requests generate nothing, so they must not wait behind those that do. Every node is two nodes of the core: one
with the slots that it is said to have, one with CHEAP_SLOTS. Every pool has a twin for cheap requests, made when the
first comes, for which the second nodes work; there users compete without tiers and teams, and each is a user of its
own to the core, so that no limit on what a user runs concerns them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from fairlead.config import Config, TeamConfig
from fairlead.config_schema import TIERS
from fairlead.core.scheduler import Scheduler
from fairlead.policy import FIFO, WEIGHTED

CHEAP_SLOTS: Final = 8
_CHEAP_USER: Final = 1 << 63  # keys are digests: that another user's differs in this bit alone does not happen


class NoRoom(Exception):
    """There are as many groups or pools as there can be, and all have requests."""


@dataclass(frozen=True, slots=True)
class Shape:
    """tiers: their weights, the highest first. promote_after_ns: None = by weight, else by rank (strict).
    pool_running_max: 0 = no limit."""

    tiers: tuple[int, ...] = ()
    promote_after_ns: int | None = None
    teams: Mapping[str, TeamConfig] = field(default_factory=dict)
    pool_running_max: int = 0

    @classmethod
    def of(cls, config: Config) -> Shape:
        """Under fifo there are no tiers; only wfq and token_wfq weigh teams."""
        queue = config.queue
        weighted, tiered = queue.policy in WEIGHTED, queue.policy != FIFO
        return cls(
            tiers=tuple(queue.tiers[name] for name in TIERS) if tiered else (),
            promote_after_ns=queue.promote_after_ns if tiered and queue.tier_policy == "strict" else None,
            teams={name: team if weighted else replace(team, weight=1) for name, team in config.teams.items()},
            pool_running_max=queue.max_in_flight_per_pool,
        )


class Places:
    def __init__(self, scheduler: Scheduler, shape: Shape, now_ns: int) -> None:
        self._scheduler = scheduler
        self._shape = shape
        self._tiered = bool(shape.tiers)
        self._team_limits = {
            name: scheduler.add_limit(now_ns, team.max_in_flight)
            for name, team in shape.teams.items()
            if team.max_in_flight
        }
        self._pool_limits: dict[int, int] = {}
        # (pool, tier, team or None) -> group; whatever is below another came after it.
        self._groups: dict[tuple[int, int, str | None], int] = {}
        self._twins: dict[int, int] = {}  # pool -> its twin
        self._cheap_pools: set[int] = set()
        self._cheap_nodes: dict[int, int] = {}  # node -> its second node
        self._first_nodes: dict[int, int] = {}  # and back
        self._pools_of: dict[int, frozenset[int]] = {}  # by node; without the twins

    # Pools and groups ----------------------------------------------------------------------------

    def add_pool(self, now_ns: int) -> int:
        """A new pool. ValueError: the core has no room."""
        shape, scheduler = self._shape, self._scheduler
        limit = scheduler.add_limit(now_ns, shape.pool_running_max) if shape.pool_running_max else 0
        try:
            pool = scheduler.add_pool(now_ns, 1, limit)
        except ValueError:
            if limit:
                scheduler.remove_limit(now_ns, limit)
            raise
        self._pool_limits[pool] = limit
        if shape.promote_after_ns is not None:
            scheduler.set_strict(now_ns, pool, shape.promote_after_ns)
        return pool

    def remove_pool(self, now_ns: int, pool: int) -> list[int]:
        """Forget an unused pool, and its twin; the pools of the core that are no more."""
        for key in [key for key in reversed(self._groups) if key[0] == pool]:
            self._scheduler.remove_group(now_ns, self._groups.pop(key))
        gone = [pool, self._twins.pop(pool)] if pool in self._twins else [pool]
        for each in gone:
            self._scheduler.remove_pool(now_ns, each)
        self._cheap_pools.difference_update(gone)
        limit = self._pool_limits.pop(pool)
        if limit:
            self._scheduler.remove_limit(now_ns, limit)
        return gone

    def is_unused(self, pool: int) -> bool:
        """Nothing waits or runs in it or its twin, and no node works for it."""
        numbers = [self._scheduler.pool(each) for each in (pool, self._twins.get(pool)) if each is not None]
        return not any(each["waiting"] or each["running"] or each["nodes"] for each in numbers)

    def find(self, now_ns: int, pool: int, tier: int, team: str | None, cheap: bool) -> tuple[int, int]:
        """(pool, place) for a request of a model in that pool; the pool may be its twin. Raises NoRoom."""
        if cheap:
            twin = self._twins.get(pool)
            if twin is None:
                twin = self._make_twin(now_ns, pool)
            return twin, twin
        return pool, self._place(now_ns, pool, tier, team)

    def of_pool(self, pool: int) -> list[int]:
        """The places below a pool in which users may compete, itself among them if it is one."""
        groups = [group for key, group in self._groups.items() if key[0] == pool]
        strict = self._shape.promote_after_ns is not None and pool not in self._cheap_pools
        return groups if strict else [pool, *groups]

    def core_user(self, pool: int, user: int) -> int:
        """A user's number in that pool of the core."""
        return user ^ _CHEAP_USER if pool in self._cheap_pools else user

    def name(self, pool: int) -> str:
        """How a pool of the core is called in metrics."""
        for first, twin in self._twins.items():
            if twin == pool:
                return f"{first}-cheap"
        return str(pool)

    def _make_twin(self, now_ns: int, pool: int) -> int:
        try:
            twin = self._twins[pool] = self._scheduler.add_pool(now_ns)
        except ValueError as error:
            raise NoRoom(str(error)) from None
        self._cheap_pools.add(twin)
        for node, pools in self._pools_of.items():
            if pool in pools:
                self._let_twins_follow(now_ns, node)
        return twin

    def _place(self, now_ns: int, pool: int, tier: int, team: str | None) -> int:
        if not self._tiered:
            if team is None:
                return pool
            tier = 0
        found = self._groups.get((pool, tier, team))
        return self._make_group(now_ns, pool, tier, team) if found is None else found

    def _make_group(self, now_ns: int, pool: int, tier: int, team: str | None) -> int:
        shape = self._shape
        if team is None:
            parent, weight, limit = pool, shape.tiers[tier], 0
        else:
            parent = self._place(now_ns, pool, tier, None)
            weight, limit = shape.teams[team].weight, self._team_limits.get(team, 0)
        rank = tier  # looked at below a strict pool only
        try:
            group = self._scheduler.add_group(now_ns, parent, weight, rank, limit)
        except ValueError as error:
            if not self._forget_unused(now_ns, parent):
                raise NoRoom(str(error)) from None
            group = self._scheduler.add_group(now_ns, parent, weight, rank, limit)
        self._groups[pool, tier, team] = group
        return group

    def _forget_unused(self, now_ns: int, keep: int) -> int:
        """Remove the groups without requests; how many. What those owed to the others of their level is forgotten."""
        forgotten = 0
        for key, group in reversed(list(self._groups.items())):
            numbers = self._scheduler.group(group)
            if group != keep and not numbers["waiting"] and not numbers["running"]:
                self._scheduler.remove_group(now_ns, group)
                del self._groups[key]
                forgotten += 1
        return forgotten

    # Nodes ---------------------------------------------------------------------------------------

    def add_node(self, now_ns: int, slots: int) -> int:
        """A new node, named by the handle of its first half. ValueError: the core has no room."""
        node = self._scheduler.add_node(now_ns, slots)
        cheap = self._scheduler.add_node(now_ns, CHEAP_SLOTS)
        self._cheap_nodes[node] = cheap
        self._first_nodes[cheap] = node
        self._pools_of[node] = frozenset()
        return node

    def remove_node(self, now_ns: int, node: int) -> bool:
        if not self._scheduler.remove_node(now_ns, node):
            return False
        cheap = self._cheap_nodes.pop(node)
        self._scheduler.remove_node(now_ns, cheap)
        del self._first_nodes[cheap], self._pools_of[node]
        return True

    def set_node_pools(self, now_ns: int, node: int, pools: Iterable[int]) -> bool:
        wanted = frozenset(pools)
        if not self._scheduler.set_node_pools(now_ns, node, wanted):
            return False
        self._pools_of[node] = wanted
        self._let_twins_follow(now_ns, node)
        return True

    def _let_twins_follow(self, now_ns: int, node: int) -> None:
        twins = [self._twins[pool] for pool in self._pools_of[node] if pool in self._twins]
        self._scheduler.set_node_pools(now_ns, self._cheap_nodes[node], twins)

    def set_node_state(self, now_ns: int, node: int, state: int) -> bool:
        if not self._scheduler.set_node_state(now_ns, node, state):
            return False
        return self._scheduler.set_node_state(now_ns, self._cheap_nodes[node], state)

    def node_of(self, handle: int) -> int:
        """The node that a dispatch to this handle of the core means."""
        return self._first_nodes.get(handle, handle)

    def node_numbers(self, node: int) -> dict[str, int]:
        """The core's, of the first half; ``cheap_leases``, of the second. Empty: there is no such node."""
        numbers = self._scheduler.node(node)
        if numbers:
            numbers["cheap_leases"] = self._scheduler.node(self._cheap_nodes[node])["leases"]
        return numbers
