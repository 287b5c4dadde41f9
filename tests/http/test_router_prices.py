"""Policy token_wfq over HTTP: what is charged is what the node says was used, and the client sees none of the asking."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from rig import Client, Rig, chat_body, routed

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
FAST = MockSettings(name="fast", slots=4, ttft_ms=0, token_ms=0, tokens=5)
SLOW = MockSettings(name="slow", slots=1, ttft_ms=0, token_ms=20, tokens=500)
TOKENS = {"policy": "token_wfq"}


def charges(rig: Rig) -> list[int]:
    """What is given to the driver's finish from now on, in milli-prices."""
    seen: list[int] = []
    finish = rig.router.driver.finish

    def watched(ticket: Any, outcome: int, cost: int) -> bool:
        seen.append(cost)
        return finish(ticket, outcome, cost)

    rig.router.driver.finish = watched  # type: ignore[method-assign]
    return seen


def same_for_all(body: bytes) -> bytes:
    return re.sub(rb'"(id|created)":("[^"]*"|[0-9]+)', b"", body)


def test_a_stream_is_charged_by_its_usage_and_looks_as_if_nobody_had_asked(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([FAST], queue=TOKENS) as rig:
            told = (await rig.request("GET", rig.admin_url + "/api/nodes")).json()
            direct = await rig.request(
                "POST", told["nodes"][0]["url"] + "/v1/chat/completions", data=chat_body(stream=True)
            )
            seen = charges(rig)
            routed_answer = await rig.chat(stream=True)
            assert b"usage" not in direct.body and same_for_all(routed_answer.body) == same_for_all(direct.body)
            plain = (await rig.chat()).json()["usage"]
            assert seen == [1000 * plain["prompt_tokens"] + 2000 * plain["completion_tokens"]] * 2
            asked = await rig.chat(stream=True, stream_options={"include_usage": True})
            assert asked.body.count(b'"usage":{') == 1

    no_leaks(main)


def test_who_streams_most_of_an_answer_and_leaves_pays_for_it(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW], queue=TOKENS) as rig:
            seen = charges(rig)
            client = await Client.post(rig, chat_body(stream=True))
            await client.head()
            events = 0
            while events < 10:
                events += (await client.chunk()).count(b"data:")
            client.leave("rst")
            await rig.until(lambda: rig.running() == 0)
            assert len(seen) == 1 and seen[0] >= 2000 * (events - 1)
            await asyncio.sleep(0)

    no_leaks(main)
