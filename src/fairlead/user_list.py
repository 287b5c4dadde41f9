"""``GET /api/users``: who has what, who is owed what, and how fair the division of each pool is.

Promise: bounded, whatever is asked for, and in what a person counts: requests, or tokens of price 1. What the core
knows is read from it; ``users`` has the rest and says what the words mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

from fairlead.accounts import WINDOW_S, Account, Counts, Flow, Standing
from fairlead.clock import MILLISECOND_NS
from fairlead.config_schema import TIERS
from fairlead.core.scheduler import VIRTUAL_UNIT
from fairlead.driver import Driver
from fairlead.errors import ApiError
from fairlead.pieces import pieces, smallest
from fairlead.strict import digits, shown
from fairlead.users import Users

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
MODELS_MAX: Final = 100  # named per pool
_FIELDS_MAX: Final = 16
_PIECE: Final = 50  # users that are written in one turn of the loop


class PoolModels(Protocol):
    """What is read of the registry."""

    def models_of(self, pool: int) -> list[str]: ...


def _sum(account: Account, of: Callable[[Flow], float]) -> float:
    return sum(map(of, account.flows.values()))


def _wait_max_ns(account: Account) -> int:
    return max((flow.wait_max_ns for flow in account.flows.values()), default=0)


# What the list may be sorted by, the largest first.
SORTS: Final[dict[str, Callable[[Account], float]]] = {
    "service": lambda account: _sum(account, lambda flow: flow.service),
    "total": lambda account: account.counts.service,
    "waiting": lambda account: _sum(account, lambda flow: flow.waiting),
    "in_flight": lambda account: _sum(account, lambda flow: flow.running),
    "wait": _wait_max_ns,
}


class UserList:
    """unit: the core's cost of what a person counts as one."""

    def __init__(self, users: Users, unit: int, driver: Driver, nodes: PoolModels) -> None:
        self._users = users
        self._unit = unit
        self._virtual_unit = unit * VIRTUAL_UNIT
        self._driver = driver
        self._nodes = nodes

    async def document(self, query: str) -> dict[str, Any]:
        """query: limit and sort. Raises ApiError 400.

        In pieces: while requests go on, a user's counts are of the turn of the loop in which it is written; service and
        shares are of the look that added them up, so shares add up to 1.
        """
        limit, sort = _asked(query)
        users, driver = self._users, self._driver
        standings = await users.standings(driver.now_ns(), driver.pools())
        first = await self._first(limit, SORTS[sort])
        # What may have changed while others had their turns is read only now.
        pools = {pool: driver.pool_numbers(pool) for pool in driver.pools() if pool in standings}
        other = Counts()
        other.add(users.forgotten)
        other.add(users.surplus.counts)
        found: dict[str, Any] = {
            "unit": "requests" if self._unit == 1 else "tokens",
            "window_s": WINDOW_S,
            "sort": sort,
            "pools": [self._pool(pool, numbers, standings[pool]) for pool, numbers in pools.items()],
            "users_known": len(users.accounts),
            "users": [],
            "other": {"users_forgotten": users.forgotten_users, **self._counts(other)},
        }
        async for accounts in pieces(first, _PIECE):
            found["users"] += [self._user(account, standings) for account in accounts]
        return found

    async def _first(self, limit: int, size: Callable[[Account], float]) -> list[Account]:
        """The accounts to be shown: their order is of the moments at which their sizes were looked at."""

        def rank(account: Account) -> tuple[float, str, int]:
            return (-size(account), account.name, account.key)

        known = self._users.accounts
        first = await smallest(limit, list(known.values()), rank)
        return [account for account in first if known.get(account.key) is account]

    def _pool(self, pool: int, core: dict[str, int], standing: Standing) -> dict[str, Any]:
        models = self._nodes.models_of(pool)
        return {
            "pool": self._driver.pool_name(pool),
            "models": models[:MODELS_MAX],
            "models_count": len(models),
            "waiting": core["waiting"],
            "in_flight": core["running"],
            "virtual_time": core["virtual_time"] / self._virtual_unit,
            "users_in_window": len(standing.flows),
            "service": standing.service / self._unit,
            "jain_index": standing.jain,
        }

    def _user(self, account: Account, standings: dict[int, Standing]) -> dict[str, Any]:
        present = set(self._driver.pools())
        mine = [
            self._in_place(flow, standings[flow.place.pool].service)
            for flow in account.flows.values()
            if flow.place.pool in present and flow.place.pool in standings
        ]
        everything = max(sum(standing.service for standing in standings.values()), 1)
        waits = int(_sum(account, lambda flow: flow.waits))
        return {
            "user": account.name,
            "waiting": sum(each["waiting"] for each in mine),
            "in_flight": sum(each["in_flight"] for each in mine),
            "share": _sum(account, lambda flow: flow.dealt) / everything,
            "fair_share": _sum(account, lambda flow: flow.fair) / everything,
            "wait_mean_ms": _sum(account, lambda flow: flow.wait_ns) / max(waits, 1) / MILLISECOND_NS,
            "wait_max_ms": _wait_max_ns(account) / MILLISECOND_NS,
            "dispatched": waits,
            **self._counts(account.counts),
            "pools": mine,
        }

    def _in_place(self, flow: Flow, total: int) -> dict[str, Any]:
        place = flow.place
        pool, tier, team = place.what
        core = self._driver.place_user(pool, place.number, flow.account.key)
        start, time = core.get("virtual_start"), core.get("virtual_time", 0)
        return {
            "pool": self._driver.pool_name(pool),
            "tier": None if place.number == pool else TIERS[tier],
            "team": team,
            "weight": flow.weight,
            "waiting": core.get("waiting", 0),
            "in_flight": core.get("running", 0),
            "virtual_start": None if start is None else start / self._virtual_unit,
            "lag": None if start is None else (time - start) / self._virtual_unit,
            "service": flow.dealt / self._unit,
            "share": flow.dealt / max(total, 1),
            "fair_share": flow.fair / max(total, 1),
        }

    def _counts(self, counts: Counts) -> dict[str, Any]:
        tokens = {"input": counts.input, "cached": counts.cached, "output": counts.output}
        return {"requests": counts.outcomes, "service_total": counts.service / self._unit, "tokens": tokens}


def _asked(query: str) -> tuple[int, str]:
    """limit and sort."""
    given: defaultdict[str, list[str]] = defaultdict(list)
    try:
        for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=_FIELDS_MAX):
            given[name].append(value)
    except ValueError:
        raise ApiError("invalid_value", f"the query has more than {_FIELDS_MAX} parameters") from None
    for name, values in given.items():
        if name not in ("limit", "sort"):
            raise ApiError("invalid_value", f"there is no parameter {shown(name)}: choose limit or sort", param=name)
        if len(values) > 1:
            raise ApiError("invalid_value", f"{name} is given {len(values)} times: give it once", param=name)
    limit_text, sort = given.get("limit", [str(LIMIT_DEFAULT)])[0], given.get("sort", ["service"])[0]
    limit = digits(limit_text, 1, LIMIT_MAX)
    if limit is None:
        message = f"limit is {shown(limit_text)}: it must be an integer 1..{LIMIT_MAX}"
        raise ApiError("invalid_value", message, param="limit")
    if sort not in SORTS:
        raise ApiError("invalid_value", f"sort is {shown(sort)}: choose {', '.join(SORTS)}", param="sort")
    return limit, sort
