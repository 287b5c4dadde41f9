"""Requests that generate nothing have slots of their own; paths that only some nodes have go to those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from raw_server import Peer
from rig import CHAT, MODEL, Answer, Client, RawNode, Rig, chat_body, raw_answer, routed
from test_router_admin import metrics

from fairlead.core.scheduler import DRAINING, UP
from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
COUNT = "/v1/messages/count_tokens"
CHEAP = (COUNT, "/tokenize", "/detokenize")


class Doors:
    """A node's script: generations wait for one door, cheap requests for another."""

    def __init__(self, *, generate: bool, count: bool) -> None:
        self.generate, self.count = asyncio.Event(), asyncio.Event()
        for door, is_open in ((self.generate, generate), (self.count, count)):
            if is_open:
                door.set()

    async def __call__(self, peer: Peer, request: bytes) -> None:
        cheap = request.split()[1].decode() in CHEAP
        await (self.count if cheap else self.generate).wait()
        await peer.send(raw_answer(b'{"input_tokens":1}'))

    def open_all(self) -> None:
        self.generate.set()
        self.count.set()


@asynccontextmanager
async def node_and_router(doors: Doors, slots: int = 1, **sections: Any) -> AsyncIterator[tuple[RawNode, Rig]]:
    async with RawNode(doors, slots=slots) as node, routed(raw=[node.entry], **sections) as rig:
        yield node, rig


def ask(rig: Rig, path: str = COUNT, user: str = "u", **headers: str) -> asyncio.Task[Answer]:
    body = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": user}], "prompt": "x", "tokens": [1]})
    return asyncio.ensure_future(rig.request("POST", path, data=body, headers={"X-User-Id": user} | headers))


async def described(rig: Rig) -> dict[str, Any]:
    return dict((await rig.request("GET", rig.admin_url + "/api/nodes")).json()["nodes"][0])


def test_they_are_served_at_once_while_generations_queue(no_leaks: Run) -> None:
    async def main() -> None:
        doors = Doors(generate=False, count=True)
        async with node_and_router(doors) as (_, rig):
            chats = [rig.later(user=user) for user in "aabc"]
            await rig.until(lambda: rig.waiting() == 3)
            for path in CHEAP:
                answer = await ask(rig, path, "a")
                assert (answer.status, answer.headers["X-Queue-Status"]) == (200, "direct")
            assert rig.waiting() == 3
            doors.open_all()
            assert [answer.status for answer in await asyncio.gather(*chats)] == [200] * 4

    no_leaks(main)


def test_a_flood_of_them_stops_no_generation_and_takes_turns_with_other_users(no_leaks: Run) -> None:
    async def main() -> None:
        doors = Doors(generate=True, count=False)
        async with node_and_router(doors) as (node, rig):
            flood = [ask(rig, user="flooder") for _ in range(20)]
            await rig.until(lambda: (rig.running(), rig.waiting()) == (8, 12))
            chat = await rig.chat(user="polite")
            assert (chat.status, chat.headers["X-Queue-Status"]) == (200, "direct")
            polite = ask(rig, user="polite")
            await rig.until(lambda: rig.waiting() == 13)
            told, shown = await metrics(rig), await described(rig)
            assert (told['fairlead_queue_depth{pool="0"}'], told['fairlead_queue_depth{pool="0-cheap"}']) == (0, 13)
            assert (told['fairlead_in_flight{node="raw"}'], told['fairlead_cheap_in_flight{node="raw"}']) == (0, 8)
            assert (shown["in_flight"], shown["slots_in_use"], shown["cheap_in_flight"]) == (0, 0, 8)
            doors.open_all()
            answers = await asyncio.gather(*flood, polite)
            assert {answer.status for answer in answers} == {200}
            assert answers[-1].headers["X-Queue-Position"] == "2"
            counted = [request for request in node.requests if request.split()[1].decode() == COUNT]
            assert [b"polite" in request for request in counted[8:]].index(True) < 2

    no_leaks(main)


def test_what_a_user_may_run_is_counted_without_them(no_leaks: Run) -> None:
    async def main() -> None:
        doors = Doors(generate=False, count=True)
        async with node_and_router(doors, slots=4, users={"u": {"max_in_flight": 1}}) as (_, rig):
            first = rig.later()
            await rig.until(lambda: rig.running() == 1)
            assert (await ask(rig)).headers["X-Queue-Status"] == "direct"
            second = rig.later()
            await rig.until(lambda: rig.waiting() == 1)
            assert (await ask(rig)).headers["X-Queue-Status"] == "direct"
            assert (rig.running(), rig.waiting()) == (1, 1)
            doors.open_all()
            assert (await first).status == (await second).status == 200
            doors.count.clear()
            count = ask(rig)
            await rig.until(lambda: rig.running() == 1)
            assert (await rig.chat()).headers["X-Queue-Status"] == "direct"
            doors.open_all()
            assert (await count).status == 200

    no_leaks(main)


def test_they_wait_for_a_node_as_others_do_and_not_for_longer(no_leaks: Run) -> None:
    async def main() -> None:
        doors = Doors(generate=True, count=True)
        async with node_and_router(doors, queue={"no_node_wait": "200ms"}) as (_, rig):
            driver, ((_, handle),) = rig.router.driver, rig.router.registry.handles()
            driver.set_node_state(handle, DRAINING)
            answer = await ask(rig)
            assert (answer.status, answer.code) == (503, "no_healthy_node")
            waits = ask(rig)
            await rig.until(lambda: rig.waiting() == 1)
            driver.set_node_state(handle, UP)
            assert (await waits).status == 200

    no_leaks(main)


def test_a_node_that_is_removed_takes_no_more_of_them_and_its_successor_does(no_leaks: Run) -> None:
    async def main() -> None:
        doors = Doors(generate=True, count=False)
        async with node_and_router(doors) as (_, rig):
            registry = rig.router.registry
            ((_, handle),) = registry.handles()
            running = [ask(rig) for _ in range(8)]
            await rig.until(lambda: rig.running() == 8)
            config = registry.by_handle[handle].config
            removal = asyncio.ensure_future(registry.remove("raw"))
            waits = ask(rig)
            await rig.until(lambda: rig.waiting() == 1)
            await removal
            registry.add(config)
            await rig.until(lambda: rig.running() == 9, "that the successor has slots of its own")
            doors.open_all()
            assert {answer.status for answer in await asyncio.gather(*running, waits)} == {200}

    no_leaks(main)


def test_waiting_for_a_model_they_follow_it_into_another_pool(no_leaks: Run) -> None:
    async def main() -> None:
        doors = Doors(generate=False, count=False)
        queue = {"tier_policy": "strict"}
        async with node_and_router(doors, queue=queue, users={"H": {"priority": "high"}}) as (node, rig):
            driver, registry = rig.router.driver, rig.router.registry
            counts = [ask(rig, user=f"count {number}") for number in range(10)]
            await rig.until(lambda: (rig.running(), rig.waiting()) == (8, 2))
            chats = [rig.later("first")]
            await rig.until(lambda: rig.running() == 9)
            for waiting, (user, prompt) in enumerate((("n", "normal"), ("H", "high")), 3):
                chats.append(rig.later(prompt, user=user))
                await rig.until(lambda waiting=waiting: rig.waiting() == waiting)
            before, after = registry.pool_of(MODEL), driver.add_pool()
            ((_, handle),) = registry.handles()
            driver.set_node_pools(handle, [before, after])
            rig.router.gateway.model_moved(MODEL, "", after)
            depth = {driver.pool_name(pool): driver.pool_numbers(pool)["waiting"] for pool in driver.pools()}
            assert depth == {"0": 0, "0-cheap": 0, f"{after}": 2, f"{after}-cheap": 2}
            assert (await rig.invariants())["ok"]
            doors.open_all()
            assert {answer.status for answer in await asyncio.gather(*counts, *chats)} == {200}
            asked = [request for request in node.requests if request.split()[1].decode() == CHAT]
            assert [b"high" in request for request in asked] == [False, True, False]

    no_leaks(main)


# Paths of a node's own ---------------------------------------------------------------------------


def test_a_path_that_only_some_nodes_have_goes_to_those(no_leaks: Run) -> None:
    async def main() -> None:
        doors = Doors(generate=True, count=True)
        other = MockSettings(name="mock", models=(MODEL, "small"), slots=8, ttft_ms=0, token_ms=0, tokens=1)
        async with RawNode(doors) as node, routed([other], raw=[node.entry | {"paths": ["/generate"]}]) as rig:
            for _ in range(6):
                assert (await rig.request("POST", "/generate", data=chat_body())).status == 200
                assert (await rig.request("POST", CHAT, data=chat_body())).status == 200
            paths = [request.split()[1].decode() for request in node.requests]
            assert paths.count("/generate") == 6
            refused = await rig.request("POST", "/generate", data=chat_body(model="small"))
            assert (refused.status, refused.code) == (404, "not_found")
            assert "'small' has the path '/generate'" in refused.json()["error"]["message"]
            unknown = await rig.request("POST", "/generate", data=chat_body(model="none"))
            assert (unknown.status, unknown.code) == (404, "model_not_found")

    no_leaks(main)


@pytest.mark.parametrize(("path", "pools"), [("/generate", 2), (CHAT, 1), ("/tokenize", 1)])
def test_only_a_path_that_is_not_every_node_s_makes_a_pool(no_leaks: Run, path: str, pools: int) -> None:
    async def main() -> None:
        doors = Doors(generate=True, count=True)
        async with RawNode(doors) as node, routed([MockSettings()], raw=[node.entry | {"paths": [path]}]) as rig:
            assert len(rig.router.driver.pools()) == pools

    no_leaks(main)


@pytest.mark.parametrize("path", ["/generate", CHAT, "/tokenize"])
def test_a_path_that_all_its_nodes_have_shares_the_model_s_pool(no_leaks: Run, path: str) -> None:
    async def main() -> None:
        doors = Doors(generate=False, count=False)
        async with RawNode(doors, slots=1) as node, routed(raw=[node.entry | {"paths": [path]}]) as rig:
            assert len(rig.router.driver.pools()) == 1
            client = await Client.post(rig, chat_body(), path=path)
            await rig.until(lambda: rig.running() == 1)
            doors.open_all()
            assert (await client.answer()).status == 200
            client.leave("close")

    no_leaks(main)
