"""The request log: one line for every request that ended, in whatever way, and nothing in it that is a secret."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from raw_server import Peer
from rig import CHAT, MODEL, Client, RawNode, Rig, answering, chat_body, configured, raw_answer, routed, silence

from fairlead import traces
from fairlead.app import Router
from fairlead.cli import fairlead as command
from fairlead.mocknode import MockSettings
from fairlead.records import MEMBERS, LogError

Run = Callable[[Any], Any]
QUICK = MockSettings(name="quick", slots=2, ttft_ms=2, token_ms=1, batch_ms=0, tokens=7)
STUCK = MockSettings(name="stuck", slots=1, ttft_ms=60_000)
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


class Log:
    """The file, as it is when it is looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.path.read_bytes().splitlines()]

    async def after(self, rig: Rig, count: int) -> list[dict[str, Any]]:
        await rig.until(lambda: self.path.read_bytes().count(b"\n") >= count, f"{count} lines")
        lines = self.lines()
        assert len(lines) == count and all(tuple(line) == MEMBERS for line in lines)
        return lines

    async def newest(self, rig: Rig, count: int) -> dict[str, Any]:
        return (await self.after(rig, count))[-1]


@asynccontextmanager
async def logged(
    tmp_path: Path, mocks: list[MockSettings] | None = None, **sections: Any
) -> AsyncIterator[tuple[Rig, Log]]:
    """When it ends, the log says of every outcome as many as the metrics did."""
    log = Log(tmp_path / "requests.jsonl")
    async with routed(mocks, log={"requests": str(log.path)}, **sections) as rig:
        yield rig, log
        meter, driver = rig.router.meter, rig.router.driver
        await rig.until(lambda: not rig.waiting() and not rig.running())
        told = meter.outcomes(driver.counters())
    outcomes = Counter(line["outcome"] for line in log.lines())
    assert outcomes == Counter({word: count for word, count in told.items() if count})
    assert meter.log is not None and meter.log.lost == 0


def picked(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(line[name] for name in names)


def test_a_request_that_was_served(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        names = {"alice": {"weight": 3, "priority": "high", "team": "t"}}
        async with logged(tmp_path, [QUICK], users=names, teams={"t": {}}) as (rig, log):
            before = datetime.now(UTC)
            sent = {"X-Request-Id": "r-1"}
            assert (await rig.chat("x" * 40, user="alice", headers=sent, max_tokens=5, n=2)).status == 200
            (line,) = await log.after(rig, 1)
            assert picked(line, "request_id", "user", "weight", "model", "path") == ("r-1", "alice", 3, MODEL, CHAT)
            assert picked(line, "tier", "team") == ("high", "t")
            assert picked(line, "outcome", "status", "error", "node", "pool") == ("completed", 200, None, "quick", 0)
            assert picked(line, "stream", "width", "cost", "requeues", "position") == (False, 2, 2, 0, None)
            assert picked(line, "max_tokens", "input_tokens", "cached_tokens", "output_tokens") == (5, 10, 0, 10)
            assert line["tokens_by"] == "usage"
            assert 0 <= line["queue_ms"] < line["connect_ms"] + line["queue_ms"] < line["first_byte_ms"]
            assert line["first_byte_ms"] <= line["total_ms"] < 5000
            at = datetime.fromisoformat(line["time"])
            assert line["time"].endswith("Z") and abs((at - before).total_seconds()) < 5
            assert before.timestamp() - 0.01 <= line["arrival"] <= at.timestamp() + 0.01

    no_leaks(main)


def test_requests_that_end_in_the_queue(no_leaks: Run, tmp_path: Path) -> None:
    names = ("outcome", "status", "error", "node", "connect_ms", "first_byte_ms", "input_tokens", "cost")
    nothing = (None, None, None, None, 0)

    async def main() -> None:
        queue = {"max_waiting": 2, "max_waiting_per_user": 2}
        async with logged(tmp_path, [STUCK], queue=queue) as (rig, log):
            first = await Client.post(rig, chat_body())
            await rig.until(lambda: rig.running() == 1)
            expired = await rig.chat(headers={"X-Queue-Timeout-Ms": "60"})
            assert expired.status == 504
            line = await log.newest(rig, 1)
            assert picked(line, *names) == ("expired", 504, "queue_timeout", *nothing)
            assert 60 <= line["queue_ms"] <= line["total_ms"] < 5000
            assert line["position"] == 1
            leaver = await Client.post(rig, chat_body())
            await rig.until(lambda: rig.waiting() == 1)
            leaver.leave("close")
            await rig.until(lambda: not rig.waiting())
            assert picked(await log.newest(rig, 2), *names) == ("cancelled", 499, "client_closed", *nothing)
            assert (await rig.chat(headers={"X-Queue-Timeout-Ms": "0"})).status == 429
            assert picked(await log.newest(rig, 3), *names) == ("refused", 429, "queue_full", *nothing)
            flood = [rig.later(user="flood") for _ in range(2)]
            await rig.until(lambda: rig.waiting() == 2)
            assert (await rig.chat(user="flood")).status == 429
            assert picked(await log.newest(rig, 4), *names) == ("refused", 429, "user_queue_full", *nothing)
            polite = rig.later(user="polite")
            line = await log.newest(rig, 5)
            assert picked(line, *names) == ("pushed_out", 429, "queue_pushed_out", *nothing)
            assert line["user"] == "flood" and line["queue_ms"] > 0
            await rig.router.stop(0.0)
            lines = log.lines()[5:]
            assert Counter(picked(line, "outcome", "status", "error") for line in lines) == {
                ("drained", 503, "draining"): 2,
                ("failed", 503, "draining"): 1,
            }
            answers = await asyncio.gather(polite, *flood)
            assert sorted(answer.status for answer in answers) == [429, 503, 503]
            first.leave("close")

    no_leaks(main)


def test_requests_that_are_rejected_at_once(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with logged(tmp_path, [QUICK], limits={"body": "1KiB"}) as (rig, log):
            sent = {"X-Request-Id": "mine"}
            await rig.request("POST", CHAT, data=b"{", headers=sent)
            await rig.request("POST", CHAT, data=b"x" * 2000)
            await rig.request("POST", CHAT, data=orjson.dumps({"model": "nowhere"}))
            await rig.request("POST", "/v1/nothing", data=b"{}")  # no inference request at all
            lines = await log.after(rig, 3)
            assert [picked(line, "outcome", "status", "error") for line in lines] == [
                ("rejected", 400, "invalid_json"),
                ("rejected", 413, "request_too_large"),
                ("rejected", 404, "model_not_found"),
            ]
            assert picked(lines[0], "request_id", "path", "user", "model", "total_ms") == ("mine", CHAT, *[None] * 3)

    no_leaks(main)


@pytest.mark.parametrize(
    ("sent", "ended"),
    [
        (b"", ("failed", 502, "upstream_error", None, None)),
        (SSE_HEAD + 3 * TOKEN, ("failed", 200, "upstream_error", 3, "events")),
    ],
    ids=["before the first byte", "after it"],
)
def test_a_node_that_dies(no_leaks: Run, tmp_path: Path, sent: bytes, ended: tuple[Any, ...]) -> None:
    async def script(peer: Peer, request: bytes) -> None:
        await peer.send(sent.replace(b"Connection: close", b"Content-Length: 100000"))
        peer.close()

    async def main() -> None:
        async with RawNode(script) as node, logged(tmp_path, raw=[node.entry]) as (rig, log):
            client = await Client.post(rig, chat_body(stream=True))
            await client.head()
            (line,) = await log.after(rig, 1)
            assert picked(line, "outcome", "status", "error", "output_tokens", "tokens_by") == ended
            assert (line["first_byte_ms"] is None) == (not sent)
            client.leave("close")

    no_leaks(main)


def test_a_request_on_which_the_router_itself_failed(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with logged(tmp_path, [QUICK]) as (rig, log):
            asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
            rig.router.registry.by_handle.clear()
            assert (await rig.chat()).status == 500
            (line,) = await log.after(rig, 1)
            assert picked(line, "outcome", "status", "error", "node") == ("failed", 500, "internal_error", None)
            assert rig.router.meter.users.held() == (0, 0)

    no_leaks(main)


def test_a_client_that_leaves_a_stream(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        slow = MockSettings(name="slow", slots=1, ttft_ms=1, token_ms=5, batch_ms=0, tokens=1000)
        async with logged(tmp_path, [slow]) as (rig, log):
            client = await Client.post(rig, chat_body(stream=True))
            await client.head()
            for _ in range(6):
                await client.chunk()
            client.leave("close")
            (line,) = await log.after(rig, 1)
            assert picked(line, "outcome", "status", "error") == ("cancelled", 499, "client_closed")
            assert 3 <= line["output_tokens"] < 900 and line["tokens_by"] == "events"

    no_leaks(main)


def test_a_node_that_is_out_of_reach(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        queue = {"no_node_wait": "100ms"}
        async with RawNode(silence) as node, logged(tmp_path, raw=[node.entry], queue=queue) as (rig, log):
            node._server.close()
            for peer in node.peers:
                peer.transport.abort()
            await asyncio.sleep(0)
            assert (await rig.chat()).status == 503
            (line,) = await log.after(rig, 1)
            assert picked(line, "outcome", "status", "error", "requeues") == ("no_node", 503, "no_healthy_node", 1)
            assert picked(line, "node", "connect_ms", "cost") == (None, None, 0)
            assert line["queue_ms"] >= 100

    no_leaks(main)


ANSWERS = {
    "usage of a plain answer": (b"", 10, 7, "usage"),
    "usage of a stream that the client asked for": (
        b'"stream":true,"stream_options":{"include_usage":true},',
        10,
        7,
        "usage",
    ),
    "events of a stream": (b'"stream":true,', 10, 7, "events"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_tokens_are_read_whatever_the_policy_and_bytes_stay_what_they_were(
    no_leaks: Run, tmp_path: Path, what: str
) -> None:
    extra, inputs, outputs, by = ANSWERS[what]

    async def main() -> None:
        async with logged(tmp_path, [QUICK]) as (rig, log):
            body = b"{" + extra + b'"model":"demo","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 40)
            direct = rig.router.registry.nodes()[0].config.url + CHAT
            headers = {"X-Request-Id": "same"}
            ours, theirs = [await rig.request("POST", url, data=body, headers=headers) for url in (CHAT, direct)]
            assert len(ours.body) == len(theirs.body)
            (line,) = await log.after(rig, 1)
            assert picked(line, "input_tokens", "output_tokens", "tokens_by", "cost") == (inputs, outputs, by, 1)
            assert sum(rig.router.meter.priced.values()) == 0

    no_leaks(main)


def test_where_nobody_counts_there_is_no_number(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b"RIFF"))) as node, logged(tmp_path, raw=[node.entry]) as (rig, log):
            assert (
                await rig.request("POST", "/v1/audio/speech", data=b'{"model":"demo","input":"hello"}')
            ).status == 200
            (line,) = await log.after(rig, 1)
            assert picked(line, "input_tokens", "output_tokens", "tokens_by") == (2, None, "estimate")

    no_leaks(main)


def test_under_token_wfq_the_cost_is_in_tokens(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with logged(tmp_path, [QUICK], queue={"policy": "token_wfq"}) as (rig, log):
            for count in (1, 2):  # by the first it is seen that this node tells only if it is asked
                assert (await rig.chat("x" * 40, stream=True)).status == 200
                await log.after(rig, count)
            told = [picked(line, "cost", "output_tokens", "tokens_by") for line in log.lines()]
            assert told == [(24, 7, "events"), (24, 7, "usage")]

    no_leaks(main)


def test_no_secret_and_no_prompt_is_in_it_and_names_are_one_line(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b'{"echo":"ANSWER-CANARY"}'))) as node:
            entry = node.entry | {"api_key": "NODE-CANARY"}
            async with logged(tmp_path, raw=[entry]) as (rig, log):
                name = 'a"b\\c\N{SNOWMAN}'
                headers = [f"X-User-Id: {name}", "Authorization: Bearer KEY-CANARY", "Cookie: COOKIE-CANARY"]
                for path in (f"{CHAT}?token=QUERY-CANARY", CHAT):
                    client = await Client.post(rig, chat_body("PROMPT-CANARY", user="BODY-CANARY"), *headers, path=path)
                    await client.answer()
                    client.leave("close")
                await rig.request("POST", CHAT, data=b"PROMPT-CANARY")
                lines = await log.after(rig, 3)
                assert [line["user"] for line in lines] == [name, name, None]
                assert b"CANARY" not in log.path.read_bytes()
                assert b"PROMPT-CANARY" in node.requests[0] and b"NODE-CANARY" in node.requests[0]

    no_leaks(main)


def test_the_simulator_reads_what_the_router_wrote(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with logged(tmp_path, [QUICK], queue={"max_waiting": 0}) as (rig, log):
            for number in range(6):
                stream = number % 2 == 0
                await rig.chat("x" * 40 * number, user="ab"[number % 2], stream=stream, max_tokens=3 + number)
            busy = [rig.later(user=user, max_tokens=500) for user in "ab"]
            await rig.until(lambda: rig.running() == 2)
            assert (await rig.chat(user="late")).status == 429
            await asyncio.gather(*busy)
            await rig.request("POST", CHAT, data=b"{")
            await log.after(rig, 10)

    no_leaks(main)
    path = tmp_path / "requests.jsonl"
    trace = traces.read(path)
    assert (trace.reader, trace.users, len(trace)) == ("request log", ["a", "b"], 8)
    assert list(trace.input_tokens)[1:6] == [10, 20, 30, 40, 50]
    assert list(trace.output_tokens)[:6] == [3, 4, 5, 6, 7, 8]
    assert list(trace.max_tokens)[:6] == [3, 4, 5, 6, 7, 8]
    assert trace.notes == ["requests whose tokens nobody counted were left out: refused 1, rejected 1"]
    arrivals = [line["arrival"] for line in Log(path).lines() if line["outcome"] == "completed"]
    gaps = [(at - trace.arrival_ns[0]) / 1e9 for at in trace.arrival_ns]
    assert gaps == pytest.approx([at - min(arrivals) for at in sorted(arrivals)], abs=1e-6)
    result = CliRunner().invoke(command, ["simulate", "--trace", str(path), "--compare", "fifo,token_wfq"])
    assert result.exit_code == 0, result.output
    assert "8 requests of 2 users" in result.output and "left out: refused 1, rejected 1" in result.output


def test_a_log_that_can_not_be_written_is_an_error_at_the_start(no_leaks: Run, tmp_path: Path) -> None:
    async def main() -> None:
        node = {"name": "n", "url": "http://127.0.0.1:9"}
        router = Router(configured([node], log={"requests": str(tmp_path)}))
        with pytest.raises(LogError, match=r"log.requests: .*Is a directory: name a file that can be written"):
            await router.start()

    no_leaks(main)
