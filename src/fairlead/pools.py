"""Which models share which nodes: the pools, in which users compete.

Promise: every model that a node has ever offered belongs to exactly one pool, a pool is the models that are served
by the same nodes, and a change touches no pool that it need not touch: where all of a pool's models change alike,
the pool stays and only its nodes change, so nobody's place or counter moves.

Membership is what nodes have listed, not whether they are well: a node that is down is still a member of its pools.
A model at a path that only some nodes have (their ``paths``) is an offer of its own; where the same nodes make it as
serve the model anyway, it has the same pool.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from fairlead.driver import Driver

log = logging.getLogger("fairlead.nodes")

UNOFFERED_MAX: Final = 1_000  # models that nobody lists any more, kept so that they are "no node" and not "unknown"


Offer = tuple[str, str]  # a model, and the path of a node's own at which it is, or "": at the usual ones


class Pools:
    """The map from offers to the core's pools. moved(offer, pool) is called for each that got another pool."""

    def __init__(self, driver: Driver, moved: Callable[[Offer, int], None]) -> None:
        self._driver = driver
        self._moved = moved
        self._pool_of: dict[Offer, int] = {}
        self._nodes_of: dict[int, frozenset[int]] = {}  # pool -> handles of its nodes
        self._leaving: set[int] = set()  # pools without a model, with requests that still run

    def pool_of(self, model: str, path: str = "") -> int | None:
        """path: one of a node's own, or "" for those that every node has."""
        return self._pool_of.get((model, path))

    def models_of(self, pool: int) -> list[str]:
        return sorted({model for model, _ in self._offers_of(pool)})

    def _offers_of(self, pool: int) -> set[Offer]:
        return {offer for offer, its in self._pool_of.items() if its == pool}

    def rebuild(self, nodes: Iterable[tuple[int, Iterable[str], Iterable[str]]]) -> None:
        """nodes: every node's handle, the models that it lists, and the paths of its own."""
        self._free_left()  # there may be no room for a new pool otherwise
        listed = [(node, [(model, path) for path in ("", *paths) for model in models]) for node, models, paths in nodes]
        groups = self._groups(listed)
        moves = self._settle(groups)
        self._join(node for node, _ in listed)  # first: who is moved to a pool must find its nodes there
        for offer, pool in moves:
            self._moved(offer, pool)
        self._free_empty()

    def _groups(self, listed: list[tuple[int, list[Offer]]]) -> dict[frozenset[int], list[Offer]]:
        """Node sets, each with its offers in the order in which they were first seen."""
        nodes_of: dict[Offer, set[int]] = {offer: set() for offer in self._pool_of}
        for node, offers in listed:
            for offer in offers:
                nodes_of.setdefault(offer, set()).add(node)
        unoffered = [offer for offer, nodes in nodes_of.items() if not nodes]
        for offer in unoffered[: max(0, len(unoffered) - UNOFFERED_MAX)]:
            del nodes_of[offer], self._pool_of[offer]
        groups: dict[frozenset[int], list[Offer]] = {}
        for offer, nodes in nodes_of.items():
            groups.setdefault(frozenset(nodes), []).append(offer)
        return groups

    def _settle(self, groups: dict[frozenset[int], list[Offer]]) -> list[tuple[Offer, int]]:
        """Give every group a pool: the one it has, else one that only it uses, else a new one. Returns who moves."""
        taken: set[int] = set()
        chosen: dict[frozenset[int], int] = {}
        for kept, its in self._nodes_of.items():
            if its in groups and its not in chosen:
                chosen[its] = kept
                taken.add(kept)
        for nodes, offers in groups.items():
            if nodes in chosen:
                continue
            before = {self._pool_of[offer] for offer in offers if offer in self._pool_of} - taken
            alone = [pool for pool in sorted(before) if self._offers_of(pool) <= set(offers)]
            pool = alone[0] if alone else self._new_pool(offers)
            if pool is not None:
                chosen[nodes] = pool
                taken.add(pool)
        for nodes, pool in chosen.items():
            self._nodes_of[pool] = nodes
        of = {offer: pool for nodes, pool in chosen.items() for offer in groups[nodes]}
        moves = [(offer, pool) for offer, pool in of.items() if self._pool_of.get(offer, pool) != pool]
        self._pool_of.update(of)
        return moves

    def _new_pool(self, offers: list[Offer]) -> int | None:
        try:
            return self._driver.add_pool()
        except ValueError as error:
            names = ", ".join(f"{model} {path}".strip() for model, path in offers[:5])
            log.error("models %s keep the pool they have, or none: %s", names, error)
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
            if self._driver.is_unused(pool):
                self._driver.remove_pool(pool)
                self._leaving.discard(pool)
