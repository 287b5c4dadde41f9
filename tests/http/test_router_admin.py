"""The admin listener: what is counted agrees with what happened, and only those who meant it are answered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from rig import Client, RawNode, Rig, chat_body, routed, silence

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
SLOW = MockSettings(name="slow", slots=1, ttft_ms=100, token_ms=0, tokens=1)


async def metrics(rig: Rig) -> dict[str, float]:
    text = (await rig.request("GET", rig.admin_url + "/metrics")).body.decode()
    return {name: float(value) for name, value in re.findall(r"^([a-z][^ ]*) (\S+)$", text, re.MULTILINE)}


def test_every_request_is_counted_once_by_how_it_ended(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW], queue={"max_waiting": 2}) as rig:
            first = rig.later("a")
            await rig.until(lambda: rig.running() == 1)
            second, expiring = rig.later("b"), rig.later("c", headers={"X-Queue-Timeout-Ms": "50"})
            await rig.until(lambda: rig.waiting() == 2)
            assert (await rig.chat("full")).status == 429
            assert (await expiring).status == 504
            assert (await first).status == (await second).status == 200
            assert (await rig.request("POST", "/v1/completions", data=b"{")).status == 400
            leaver = await Client.post(rig, chat_body())
            await rig.until(lambda: rig.running() == 1)
            leaver.leave("close")
            await rig.until(lambda: rig.running() == 0)
            told = await metrics(rig)
            ended = {
                "completed": 2,
                "cancelled": 1,
                "expired": 1,
                "refused": 1,
                "rejected": 1,
                "failed": 0,
                "no_node": 0,
                "drained": 0,
            }
            assert {word: told[f'fairlead_requests_total{{outcome="{word}"}}'] for word in ended} == ended
            assert told['fairlead_rejected_total{code="invalid_json"}'] == 1
            assert told['fairlead_node_up{node="slow"}'] == 1
            assert told['fairlead_in_flight{node="slow"}'] == 0
            assert told["fairlead_queue_wait_seconds_count"] == 3
            assert told["fairlead_request_duration_seconds_count"] == 3
            assert told["fairlead_time_to_first_byte_seconds_count"] == 2
            stats = (await rig.request("GET", rig.admin_url + "/api/queue/stats")).json()
            assert (stats["timeout_count"], stats["rejected_count"]) == (1, 1)
            assert 20 <= stats["avg_wait_time_ms"] <= 60
            assert 60 <= stats["avg_process_time_ms"] <= 130

    no_leaks(main)


def test_the_invariants_hold_while_requests_wait_and_run(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(silence, slots=2) as node, routed(raw=[node.entry]) as rig:
            clients = [await Client.post(rig, chat_body()) for _ in range(5)]
            await rig.until(lambda: rig.waiting() == 3)
            found = await rig.invariants()
            assert (found["waiting"], found["gateway_waiting"]) == (3, 3)
            assert (found["leases"], found["open_exchanges"]) == (2, 2)
            assert found["received"] == found["accounted"] == 5
            told = await metrics(rig)
            assert told['fairlead_queue_depth{pool="0"}'] == 3
            assert told['fairlead_in_flight{node="raw"}'] == 2
            stats = (await rig.request("GET", rig.admin_url + "/api/queue/stats")).json()
            assert (stats["waiting_count"], stats["processing_count"]) == (3, 2)
            nodes = (await rig.request("GET", rig.admin_url + "/api/nodes")).json()["nodes"]
            assert (nodes[0]["name"], nodes[0]["in_flight"], nodes[0]["state"]) == ("raw", 2, "up")
            for client in clients:
                client.leave("close")

    no_leaks(main)


def test_a_broken_invariant_is_told(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW]) as rig:
            gateway, honest = rig.router.gateway, rig.router.gateway.waiting
            gateway.waiting = lambda: 7  # type: ignore[method-assign]
            answer = await rig.request("GET", rig.admin_url + "/api/invariants")
            assert answer.status == 500
            assert answer.json()["failures"] == ["waiting is 0, gateway_waiting is 7"]
            gateway.waiting = honest  # type: ignore[method-assign]

    no_leaks(main)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8081", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("[::1]:8081", 200),
        ("[::1]", 200),
        ("evil.example", 400),
        ("evil.example:8081", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example:8081", 400),
        ("", 400),
        ("::1", 400),
    ],
)
def test_a_name_that_is_not_the_listeners_is_refused(no_leaks: Run, host: str, status: int) -> None:
    async def main() -> None:
        async with routed([SLOW]) as rig:
            reader, writer = await asyncio.open_connection(*rig.router.addresses["admin"])
            client = Client(reader, writer)
            writer.write(f"GET /api/queue/stats HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (await client.answer()).status == status
            client.leave("close")

    no_leaks(main)


def test_inference_is_not_served_there(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([SLOW]) as rig:
            answer = await rig.request("POST", rig.admin_url + "/v1/chat/completions", data=chat_body())
            assert (answer.status, answer.code) == (404, "not_found")
            answer = await rig.request("POST", rig.admin_url + "/metrics")
            assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "method_not_allowed", "GET, HEAD")

    no_leaks(main)
