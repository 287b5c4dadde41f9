"""Which models share which nodes: the pools, in which users compete.

Promise: every model that a node has ever offered belongs to exactly one pool, a pool is the models that are served
by the same nodes, and a change touches no pool that it need not touch: where all of a pool's models change alike,
the pool stays and only its nodes change, so nobody's place or counter moves.

Membership is what nodes have listed, not whether they are well: a node that is down is still a member of its pools.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from fairlead.driver import Driver

log = logging.getLogger("fairlead.nodes")

UNOFFERED_MAX: Final = 1_000  # models that nobody lists any more, kept so that they are "no node" and not "unknown"


class Pools:
    """The map from models to the core's pools. moved(model, pool) is called for each model that got another pool."""

    def __init__(self, driver: Driver, moved: Callable[[str, int], None]) -> None:
        self._driver = driver
        self._moved = moved
        self._pool_of: dict[str, int] = {}
        self._nodes_of: dict[int, frozenset[int]] = {}  # pool -> handles of its nodes
        self._leaving: set[int] = set()  # pools without a model, with requests that still run

    def pool_of(self, model: str) -> int | None:
        return self._pool_of.get(model)

    def models_of(self, pool: int) -> list[str]:
        return sorted(model for model, its in self._pool_of.items() if its == pool)

    def rebuild(self, offers: Iterable[tuple[int, Iterable[str]]]) -> None:
        """offers: every node's handle and the models that it lists."""
        self._free_left()  # there may be no room for a new pool otherwise
        listed = [(node, list(models)) for node, models in offers]
        groups = self._groups(listed)
        moves = self._settle(groups)
        self._join(node for node, _ in listed)  # first: who is moved to a pool must find its nodes there
        for model, pool in moves:
            self._moved(model, pool)
        self._free_empty()

    def _groups(self, offers: list[tuple[int, list[str]]]) -> dict[frozenset[int], list[str]]:
        """Node sets, each with its models in the order in which they were first seen."""
        nodes_of: dict[str, set[int]] = {model: set() for model in self._pool_of}
        for node, models in offers:
            for model in models:
                nodes_of.setdefault(model, set()).add(node)
        unoffered = [model for model, nodes in nodes_of.items() if not nodes]
        for model in unoffered[: max(0, len(unoffered) - UNOFFERED_MAX)]:
            del nodes_of[model], self._pool_of[model]
        groups: dict[frozenset[int], list[str]] = {}
        for model, nodes in nodes_of.items():
            groups.setdefault(frozenset(nodes), []).append(model)
        return groups

    def _settle(self, groups: dict[frozenset[int], list[str]]) -> list[tuple[str, int]]:
        """Give every group a pool: the one it has, else one that only it uses, else a new one. Returns who moves."""
        taken: set[int] = set()
        chosen: dict[frozenset[int], int] = {}
        for kept, its in self._nodes_of.items():
            if its in groups and its not in chosen:
                chosen[its] = kept
                taken.add(kept)
        for nodes, models in groups.items():
            if nodes in chosen:
                continue
            before = {self._pool_of[model] for model in models if model in self._pool_of} - taken
            alone = [pool for pool in sorted(before) if set(self.models_of(pool)) <= set(models)]
            pool = alone[0] if alone else self._new_pool(models)
            if pool is not None:
                chosen[nodes] = pool
                taken.add(pool)
        for nodes, pool in chosen.items():
            self._nodes_of[pool] = nodes
        of = {model: pool for nodes, pool in chosen.items() for model in groups[nodes]}
        moves = [(model, pool) for model, pool in of.items() if self._pool_of.get(model, pool) != pool]
        self._pool_of.update(of)
        return moves

    def _new_pool(self, models: list[str]) -> int | None:
        try:
            return self._driver.add_pool()
        except ValueError as error:
            log.error("models %s keep the pool they have, or none: %s", ", ".join(models[:5]), error)
            return None

    def _join(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            self._driver.set_node_pools(node, [pool for pool, its in self._nodes_of.items() if node in its])

    def _free_empty(self) -> None:
        used = set(self._pool_of.values())
        for pool in [pool for pool in self._nodes_of if pool not in used]:
            for node in self._nodes_of[pool]:
                others = [other for other, its in self._nodes_of.items() if node in its and other != pool]
                self._driver.set_node_pools(node, others)
            del self._nodes_of[pool]
            self._leaving.add(pool)
        self._free_left()

    def _free_left(self) -> None:
        for pool in sorted(self._leaving):
            numbers = self._driver.pool_numbers(pool)
            if not numbers["waiting"] and not numbers["running"] and not numbers["nodes"]:
                self._driver.remove_pool(pool)
                self._leaving.discard(pool)
