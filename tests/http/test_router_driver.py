"""The driver with the real core: callbacks that call back, fail, or end each other, and its one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fairlead.clock import MILLISECOND_NS, now_ns
from fairlead.core.scheduler import COMPLETED, EXPIRED, FAILED, NEVER, NO_NODE, UP, Scheduler
from fairlead.driver import Driver
from fairlead.ticket import Ticket

Run = Callable[[Any], Any]


class Request(Ticket):
    """Does at each event what the test says, and remembers that it came."""

    def __init__(self, driver: Driver, pool: int, name: str = "", *, user: int = 1, deadline_ns: int = NEVER) -> None:
        self.driver = driver
        self.handle = 0
        self.pool = self.place = pool
        self.user = user
        self.weight = self.cost = self.width = 1
        self.size_bytes = self.running_max = self.waiting_max = 0
        self.deadline_ns = deadline_ns
        self.name = name
        self.events: list[tuple[str, int]] = []
        self.dispatched: Callable[[Request], object] = lambda request: None
        self.timed: Callable[[Request, int], int] = lambda request, at_ns: 0
        self.expired: Callable[[Request], object] = lambda request: None

    def on_dispatch(self, node: int, now_ns: int) -> None:
        self.events.append(("dispatch", node))
        self.dispatched(self)

    def on_expire(self, kind: int, now_ns: int) -> None:
        self.events.append(("expire", kind))
        self.expired_ns = now_ns
        self.expired(self)

    def on_timer(self, now_ns: int) -> int:
        self.events.append(("timer", now_ns))
        return self.timed(self, now_ns)

    def on_broken(self) -> None:
        self.events.append(("broken", 0))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


class World:
    def __init__(self, slots: int = 1, waiting_max: int = 20_000, driver: type[Driver] = Driver, **limits: Any) -> None:
        self.loop = asyncio.get_running_loop()
        scheduler = Scheduler(waiting_max=waiting_max, running_max=100, **limits)
        self.driver = driver(self.loop, scheduler, now_ns, requests_max=waiting_max + 100, seed=1)
        self.pool = self.driver.add_pool()
        self.node = self.driver.add_node(slots)
        self.driver.set_node_pools(self.node, [self.pool])
        self.driver.set_node_state(self.node, UP)

    def submit(self, name: str = "", **fields: Any) -> Request:
        request = Request(self.driver, self.pool, name, **fields)
        assert self.driver.submit(request) == 0
        return request

    def done(self) -> None:
        self.driver.check()
        assert not self.driver.tickets()
        self.driver.close()


def test_a_long_queue_whose_requests_end_at_once_is_served_without_recursion(no_leaks: Run) -> None:
    async def main() -> None:
        world = World()
        first = world.submit()
        order: list[int] = []
        for number in range(10_000):
            request = world.submit()
            request.dispatched = lambda request, number=number: (
                order.append(number),
                world.driver.finish(request, COMPLETED, 1),
            )
        world.driver.finish(first, COMPLETED, 1)
        assert order == list(range(10_000))
        world.done()

    no_leaks(main)


def test_a_callback_that_fails_ends_its_own_request_only(no_leaks: Run) -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        world = World(slots=3)
        first = [world.submit() for _ in range(3)]
        waiting = [world.submit(str(number)) for number in range(3)]

        def fail(request: Request) -> None:
            raise ValueError("planted")

        waiting[1].dispatched = fail
        world.driver.set_node_slots(world.node, 6)
        assert [request.kinds for request in waiting] == [["dispatch"], ["dispatch", "broken"], ["dispatch"]]
        assert [str(context["exception"]) for context in told] == ["planted"]
        assert world.driver.counters()["failed"] == 1
        for request in (*first, waiting[0], waiting[2]):
            world.driver.finish(request, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_a_request_may_end_another_of_the_same_decisions(no_leaks: Run) -> None:
    async def main() -> None:
        world = World(slots=1)
        first = world.submit()
        one, two = world.submit("one"), world.submit("two")
        one.dispatched = lambda request: world.driver.cancel(two)
        world.driver.set_node_slots(world.node, 3)
        assert (one.kinds, two.kinds) == (["dispatch"], [])
        assert world.driver.counters()["cancelled"] == 1
        assert not world.driver.cancel(two), "it has left"
        for request in (first, one):
            assert world.driver.finish(request, COMPLETED, 1)
            assert not world.driver.finish(request, FAILED, 1), "its lease was released"
        world.done()

    no_leaks(main)


def test_who_is_sent_away_is_told_although_another_took_its_slot_meanwhile(no_leaks: Run) -> None:
    async def main() -> None:
        world = World()
        first = world.submit()
        soon_ns = now_ns() + 30 * MILLISECOND_NS
        one, two = world.submit("one", deadline_ns=soon_ns), world.submit("two", deadline_ns=soon_ns)
        news: list[Request] = []
        one.expired = lambda request: news.extend(world.submit(user=2) for _ in range(2))
        await asyncio.sleep(0.1)
        assert (one.events, two.events) == ([("expire", EXPIRED)],) * 2
        assert set(world.driver.tickets()) == {first, *news}
        for request in news:
            assert world.driver.cancel(request)
        world.driver.finish(first, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_who_leaves_while_others_are_told_that_they_are_sent_away_is_told_nothing(no_leaks: Run) -> None:
    async def main() -> None:
        world = World()
        first = world.submit()
        soon_ns = now_ns() + 30 * MILLISECOND_NS
        one, two = world.submit("one", deadline_ns=soon_ns), world.submit("two", deadline_ns=soon_ns)
        left: list[bool] = []
        one.expired = lambda request: left.extend(world.driver.cancel(two) for _ in range(2))
        await asyncio.sleep(0.1)
        assert (one.kinds, two.kinds, left) == (["expire"], [], [True, False])
        world.driver.finish(first, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_a_request_whose_callback_fails_after_putting_it_back_ends_all_the_same(no_leaks: Run) -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        world = World()
        request = Request(world.driver, world.pool)

        def fail(request: Request) -> None:
            if len(request.events) == 1:
                world.driver.requeue(request)
                raise ValueError("planted")

        request.dispatched = fail
        world.driver.submit(request)
        assert request.kinds == ["dispatch", "broken"]
        assert [str(context["exception"]) for context in told] == ["planted"]
        world.done()

    no_leaks(main)


def test_a_request_that_comes_back_goes_to_another_node(no_leaks: Run) -> None:
    async def main() -> None:
        world = World(slots=1)
        other = world.driver.add_node(1)
        world.driver.set_node_pools(other, [world.pool])
        world.driver.set_node_state(other, UP)
        request = Request(world.driver, world.pool)

        def out_of_reach(request: Request) -> None:
            if len(request.events) == 1:
                world.driver.requeue(request)

        request.dispatched = out_of_reach
        world.driver.submit(request)
        assert {node for _, node in request.events} == {world.node, other}
        world.driver.finish(request, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_deadlines_are_noticed_within_25_ms_and_never_early(no_leaks: Run) -> None:
    async def main() -> None:
        world = World()
        first = world.submit()
        begin = now_ns()
        waiting = [world.submit(user=2, deadline_ns=begin + ms * MILLISECOND_NS) for ms in (90, 30, 60, 31, 0, 120)]
        await asyncio.sleep(0.2)
        for request in waiting:
            assert request.events == [("expire", EXPIRED)]
            assert 0 <= request.expired_ns - request.deadline_ns <= 25 * MILLISECOND_NS
        world.driver.finish(first, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_a_pool_without_a_node_expires_its_requests(no_leaks: Run) -> None:
    async def main() -> None:
        world = World(no_node_wait_ns=50 * MILLISECOND_NS)
        world.driver.set_node_state(world.node, 0)
        request = world.submit()
        await asyncio.sleep(0.1)
        assert request.events == [("expire", NO_NODE)]
        world.done()

    no_leaks(main)


def test_a_timer_comes_when_it_is_due_again_as_told_and_not_after_the_end(no_leaks: Run) -> None:
    async def main() -> None:
        world = World(slots=3)
        once, thrice, never = (world.submit() for _ in range(3))
        begin = now_ns()
        thrice.timed = lambda request, at_ns: at_ns + 20 * MILLISECOND_NS if len(request.events) < 4 else 0
        world.driver.set_timer(once, begin + 500 * MILLISECOND_NS)
        world.driver.set_timer(once, begin + 40 * MILLISECOND_NS)
        world.driver.set_timer(thrice, begin + 20 * MILLISECOND_NS)
        world.driver.set_timer(never, begin + 30 * MILLISECOND_NS)
        world.driver.finish(never, COMPLETED, 1)
        await asyncio.sleep(0.15)
        assert never.kinds == ["dispatch"]
        assert once.kinds == ["dispatch", "timer"]
        assert 40 * MILLISECOND_NS <= once.events[1][1] - begin <= 65 * MILLISECOND_NS
        times = [at_ns - begin for kind, at_ns in thrice.events if kind == "timer"]
        assert len(times) == 3
        for number, at_ns in enumerate(times, 1):
            assert 20 * number * MILLISECOND_NS <= at_ns <= (20 + 25) * number * MILLISECOND_NS
        for request in (once, thrice):
            world.driver.finish(request, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_a_request_that_is_put_back_takes_its_timer_along(no_leaks: Run) -> None:
    async def main() -> None:
        world = World()
        request = world.submit()
        world.driver.set_timer(request, now_ns() + 20 * MILLISECOND_NS)
        world.driver.set_node_state(world.node, 0)
        world.driver.requeue(request)
        await asyncio.sleep(0.05)
        assert request.kinds == ["dispatch"]
        world.driver.cancel(request)
        world.done()

    no_leaks(main)


def test_a_request_that_is_put_back_while_timers_come_is_not_told_of_its_own(no_leaks: Run) -> None:
    async def main() -> None:
        world = World(slots=2)
        one, two = world.submit("one"), world.submit("two")
        for request in (one, two):
            world.driver.set_timer(request, now_ns() + 5 * MILLISECOND_NS)

        def put_both_back(request: Request, at_ns: int) -> int:
            world.driver.set_node_state(world.node, 0)
            for each in (one, two):
                assert world.driver.requeue(each)
            return at_ns + MILLISECOND_NS

        one.timed = put_both_back
        await asyncio.sleep(0.05)
        assert (one.kinds, two.kinds) == (["dispatch", "timer"], ["dispatch"])
        world.driver.check()
        for request in (one, two):
            assert world.driver.cancel(request)
        world.done()

    no_leaks(main)


def test_a_request_can_be_put_back_into_another_pool(no_leaks: Run) -> None:
    async def main() -> None:
        world = World()
        request = world.submit()
        other, node = world.driver.add_pool(), world.driver.add_node(1)
        world.driver.set_node_pools(node, [other])
        world.driver.set_node_state(node, UP)
        assert world.driver.requeue(request, (other, other))
        assert (request.pool, request.events) == (other, [("dispatch", world.node), ("dispatch", node)])
        assert world.driver.pool_numbers(world.pool)["running"] == 0
        world.driver.finish(request, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_the_loop_sleeps_while_nothing_is_due(no_leaks: Run) -> None:
    """One timer for a thousand deadlines, moved only by what comes before it."""

    async def main() -> None:
        fired = 0

        class Counted(Driver):
            def _fire(self) -> None:
                nonlocal fired
                fired += 1
                super()._fire()

        world = World(driver=Counted)
        first = world.submit()
        begin = now_ns()
        for number in range(1000):
            world.submit(user=number, deadline_ns=begin + 10**12 + number)
        last = world.submit(deadline_ns=begin + 30 * MILLISECOND_NS)
        await asyncio.sleep(0.1)
        assert last.kinds == ["expire"]
        assert fired <= 2
        for ticket in world.driver.tickets():
            if ticket is not first:
                world.driver.cancel(ticket)
        world.driver.finish(first, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_a_moved_request_waits_elsewhere(no_leaks: Run) -> None:
    async def main() -> None:
        world = World()
        first = world.submit()
        request = world.submit()
        other = world.driver.add_pool()
        node = world.driver.add_node(1)
        world.driver.set_node_pools(node, [other])
        world.driver.set_node_state(node, UP)
        assert world.driver.move(request, other, other)
        assert request.events == [("dispatch", node)]
        assert not world.driver.move(request, world.pool, world.pool), "it does not wait any more"
        for each in (first, request):
            world.driver.finish(each, COMPLETED, 1)
        world.done()

    no_leaks(main)


def test_the_place_of_a_refused_request_is_the_one_it_would_have_had(no_leaks: Run) -> None:
    async def main() -> None:
        world = World(waiting_max=4)
        first = world.submit(user=1)
        heavy = [world.submit(user=1) for _ in range(4)]
        for user, position in ((1, 5), (2, 2)):
            refused = Request(world.driver, world.pool, user=user)
            assert world.driver.submit(refused) < 0
            assert world.driver.position_refused(refused) == position
        for request in heavy:
            world.driver.cancel(request)
        world.driver.finish(first, COMPLETED, 1)
        world.done()

    no_leaks(main)
