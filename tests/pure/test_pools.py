"""The pools over the real core: which model is in which, what stays, what moves, what is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fairlead.core.scheduler import COMPLETED, UP, Scheduler
from fairlead.driver import Driver
from fairlead.pools import UNOFFERED_MAX, Pools
from pure.held_request import Request


class Lab:
    """Nodes with one slot each, all up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, nodes: int = 3, pools_max: int = 8, **limits: int) -> None:
        self.scheduler = Scheduler(waiting_max=10, running_max=10, pools_max=pools_max, **limits)
        self.driver = Driver(loop, self.scheduler, lambda: 0, requests_max=20)
        self.nodes = [self.driver.add_node(1) for _ in range(nodes)]
        for node in self.nodes:
            self.driver.set_node_state(node, UP)
        self.moved: list[tuple[str, int]] = []
        self.pools = Pools(self.driver, lambda offer, pool: self.moved.append(("".join(offer), pool)))

    def offer(self, *models: str, paths: tuple[str, ...] = ()) -> None:
        """models[i]: what node i lists, one letter a model; paths[i]: a path of its own, or ""."""
        self.moved.clear()
        own = [[path] if path else [] for path in paths] or [[] for _ in models]
        self.pools.rebuild(zip(self.nodes, map(list, models), own, strict=True))
        self.scheduler.check()

    def pool(self, model: str, path: str = "") -> int:
        pool = self.pools.pool_of(model, path)
        assert pool is not None
        return pool

    def runs_on(self, model: str, path: str = "") -> int:
        """The index of the node that takes the model's request; it is busy from then on."""
        request = Request(self.pool(model, path))
        assert self.driver.submit(request) == 0
        return self.nodes.index(request.node)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_models_of_the_same_nodes_share_a_pool_and_no_others(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop)
    lab.offer("ab", "abc", "c")
    assert lab.pool("a") == lab.pool("b") != lab.pool("c")
    assert lab.driver.pool_numbers(lab.pool("a"))["nodes"] == 2
    assert lab.pools.pool_of("d") is None
    assert lab.moved == []


def test_where_all_models_change_alike_the_pool_stays(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop)
    lab.offer("ab", "", "")
    pool = lab.pool("a")
    lab.offer("ab", "ab", "")
    lab.offer("", "ab", "")
    assert lab.pool("a") == lab.pool("b") == pool
    assert lab.moved == []
    assert lab.driver.pools() == [pool]
    assert lab.runs_on("a") == 1


def test_only_the_model_that_changed_moves(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop)
    lab.offer("ab", "", "")
    before = lab.pool("a")
    lab.offer("ab", "b", "")
    assert lab.pool("a") == before != lab.pool("b")
    assert lab.moved == [("b", lab.pool("b"))]
    lab.offer("ab", "", "")
    assert lab.pool("a") == lab.pool("b") == before
    assert lab.moved == [("b", before)]
    assert lab.driver.pools() == [before]


def test_a_request_that_moves_finds_the_nodes_of_its_new_pool(loop: asyncio.AbstractEventLoop) -> None:
    """Also where none may wait for a node: its model has one all the time."""
    lab = Lab(loop, nodes=2, no_node_wait_ns=0)
    lab.pools = Pools(lab.driver, lambda offer, pool: lab.driver.move(waits, pool, pool))
    lab.offer("ab", "")
    assert lab.runs_on("b") == 0
    waits = Request(lab.pool("b"))
    assert lab.driver.submit(waits) == 0
    lab.offer("ab", "b")
    assert waits.node == lab.nodes[1]


def test_models_that_change_places_are_served_where_they_are(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, nodes=2)
    lab.offer("a", "b")
    lab.offer("b", "a")
    assert (lab.runs_on("a"), lab.runs_on("b")) == (1, 0)


def test_a_model_that_nobody_lists_any_more_stays_known(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop)
    lab.offer("a", "", "")
    lab.offer("", "", "")
    assert lab.driver.pool_numbers(lab.pool("a"))["nodes"] == 0
    lab.offer("", "a", "")
    assert lab.runs_on("a") == 1


def test_unlisted_models_are_bounded(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, nodes=1)
    for number in range(UNOFFERED_MAX + 10):
        lab.pools.rebuild([(lab.nodes[0], [f"m{number}"], ())])
    known = [number for number in range(UNOFFERED_MAX + 10) if lab.pools.pool_of(f"m{number}") is not None]
    assert len(known) == UNOFFERED_MAX + 1
    assert len(lab.driver.pools()) == 2


def test_a_path_of_a_node_s_own_makes_a_pool_of_its_own_only_where_it_differs(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop)
    lab.offer("a", "ab", "b", paths=("", "/x", "/x"))
    assert lab.pool("b", "/x") == lab.pool("b")
    assert len({lab.pool("a"), lab.pool("a", "/x"), lab.pool("b")}) == 3
    assert lab.pools.pool_of("a", "/y") is None
    assert lab.runs_on("a", "/x") == 1
    assert lab.runs_on("a") == 0
    before = lab.pool("a", "/x")
    lab.offer("a", "b", "b", paths=("/x", "/x", "/x"))  # nobody has a without the path any more
    assert lab.pool("a", "/x") == lab.pool("a")
    assert lab.moved in ([("a", before)], [("a/x", lab.pool("a"))])


def test_without_room_for_a_pool_a_model_keeps_the_one_it_has(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, nodes=2, pools_max=1)
    lab.offer("ab", "")
    pool = lab.pool("a")
    lab.offer("ab", "b")
    assert lab.pool("a") == lab.pool("b") == pool
    lab.offer("ab", "c")
    assert lab.pools.pool_of("c") is None


def test_a_pool_that_was_left_makes_room_once_its_last_request_has_ended(loop: asyncio.AbstractEventLoop) -> None:
    lab = Lab(loop, nodes=2, pools_max=2)
    lab.offer("a", "b")
    request = Request(lab.pool("b"))
    assert lab.driver.submit(request) == 0
    lab.offer("ab", "")  # b joins a's pool; the one it left has a request that runs
    assert lab.pool("a") == lab.pool("b")
    assert len(lab.driver.pools()) == 2
    assert lab.driver.finish(request, COMPLETED, 1)
    lab.offer("ab", "c")
    assert lab.pool("c") != lab.pool("a")
    assert lab.runs_on("c") == 1
