"""The node, asked by other clients than ours."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from fairlead.load.node import OWNER, PLAIN_BYTES, Node

NONCE = "0000000000004711"
WAIT_S = 10.0


def prompt(chunks: int = 0, pace_us: int = 0, nonce: str = NONCE, padding: int = 0, step: int = 0) -> bytes:
    content = f"bench:{nonce}:{chunks}:{pace_us}:{step}: " + "x" * padding
    return json.dumps({"model": "bench", "messages": [{"role": "user", "content": content}]}).encode()


def wire(body: bytes, more: str = "") -> bytes:
    return f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def connected(node: Any) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", node.ports[0]), timeout=WAIT_S) as plug:
        yield plug


def all_of(plug: socket.socket) -> bytes:
    """Until the node closes."""
    found = b""
    while data := plug.recv(65536):
        found += data
    return found


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def ask(node: Any, method: str = "POST", path: str = "/v1/chat/completions", body: bytes = b"") -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", node.ports[0], timeout=WAIT_S)) as connection:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()


def test_a_plain_answer_has_the_nonce_and_is_a_completion(serve: Any) -> None:
    node = serve(model="tiny")
    status, body = ask(node, body=prompt())
    answer = json.loads(body)
    assert status == 200 and len(body) == PLAIN_BYTES
    assert answer["id"] == f"chatcmpl-{NONCE}" and answer["model"] == "tiny"
    assert answer["choices"][0]["message"]["content"].startswith(f"bench:{NONCE}: simulated")
    assert answer["system_fingerprint"] == "simulated"
    assert json.loads(ask(node, body=b"{}")[1])["id"] == "chatcmpl-" + "0" * 16  # no mark: still an answer
    assert node.counts()["plain"] == 2


def test_models_health_and_what_there_is_not(serve: Any) -> None:
    node = serve(model="tiny")
    status, body = ask(node, "GET", "/v1/models")
    assert (status, json.loads(body)["data"][0]["id"], json.loads(body)["data"][0]["owned_by"]) == (200, "tiny", OWNER)
    assert ask(node, "GET", "/health") == (200, b'{"status":"ok"}')
    assert ask(node, "GET", "/metrics")[0] == 404
    assert node.counts()["other"] == 3


def events(body: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("pace_us", [0, 5000])
def test_a_stream_has_all_its_chunks_in_order(serve: Any, pace_us: int) -> None:
    node = serve()

    async def main() -> bytes:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{node.ports[0]}/v1/chat/completions"
            async with session.post(url, data=prompt(300, pace_us)) as response:
                assert response.content_type == "text/event-stream"
                return await response.read()

    before = time.monotonic_ns()
    found = events(asyncio.run(main()))
    after = time.monotonic_ns()
    texts = [event["choices"][0]["delta"]["content"] for event in found]
    numbers = [re.fullmatch(rf"bench:{NONCE}:(\d{{6}}):(\d{{18}}): ", text) for text in texts]
    assert [int(match[1]) for match in numbers if match] == list(range(300))
    times = [int(match[2]) for match in numbers if match]
    assert times == sorted(times) and before <= times[0] and times[-1] <= after
    assert times[-1] - times[1] >= 298 * pace_us * 1000 * 0.99
    if pace_us:  # each at its own time, not many at once
        assert statistics.median(later - sooner for sooner, later in pairwise(times)) > 1_000_000
    assert [event["choices"][0]["finish_reason"] for event in found] == [None] * 299 + ["length"]
    assert node.counts()["streams"] == 1 and node.counts()["chunks"] == 300


def test_streams_that_begin_together_do_not_stay_in_step(serve: Any) -> None:
    node = serve()
    with connected(node) as one, connected(node) as four, connected(node) as eight:
        for plug, last in ((one, "1"), (four, "4"), (eight, "8")):
            plug.sendall(wire(prompt(2, 1_000_000, NONCE[:-1] + last), "Connection: close\r\n"))
        second = [int(re.findall(rb":000001:(\d{18}): ", all_of(plug))[0]) for plug in (one, four, eight)]
    # 117, 417 and 817 ms after the first chunk; the node may be late.
    assert second[1] - second[0] > 100_000_000 and second[2] - second[1] > 100_000_000


def test_streams_in_step_have_their_chunks_together(serve: Any) -> None:
    node, pace_ns = serve(), 200_000_000
    with connected(node) as one, connected(node) as two:
        one.sendall(wire(prompt(3, pace_ns // 1000, step=1), "Connection: close\r\n"))
        time.sleep(0.05)
        two.sendall(wire(prompt(3, pace_ns // 1000, step=1), "Connection: close\r\n"))
        found = [list(map(int, re.findall(rb":\d{6}:(\d{18}): ", all_of(plug)))) for plug in (one, two)]
    steps = [[time_ns // pace_ns for time_ns in times[1:]] for times in found]
    assert all(later - sooner == 1 for sooner, later in steps)
    for times in found:  # soon after a multiple of the pace; the node may be late
        assert statistics.median(time_ns % pace_ns for time_ns in times[1:]) < pace_ns // 2


def test_slots_bound_what_runs(serve: Any) -> None:
    node = serve(slots=2, service_ns=150_000_000)
    with connected(node) as one, connected(node) as two, connected(node) as three:
        begun = time.monotonic()
        for plug in (one, two, three):
            plug.sendall(wire(prompt(), "Connection: close\r\n"))
        until(lambda: node.counts()["waiting"] == 1)
        assert node.counts()["running"] == 2
        all_of(one), all_of(two)
        assert time.monotonic() - begun >= 0.15
        all_of(three)
        assert time.monotonic() - begun >= 0.3
    assert node.counts()["running"] == node.counts()["waiting"] == 0
    assert node.counts()["plain"] == 3 and node.counts()["aborted"] == 0


def test_what_waits_for_a_slot_gets_it_in_order(serve: Any) -> None:
    node = serve(slots=1)
    plugs = [socket.create_connection(("127.0.0.1", node.ports[0]), timeout=WAIT_S) for _ in range(5)]
    for number, plug in enumerate(plugs):
        plug.sendall(wire(prompt(2, 1_500_000), "Connection: close\r\n"))
        until(
            lambda number=number: (
                node.counts()["running"] + node.counts()["waiting"] + node.counts()["streams"] > number
            )
        )
    begun = [int(re.findall(rb":000000:(\d{18}): ", all_of(plug))[0]) for plug in plugs]
    assert begun == sorted(begun)
    for plug in plugs:
        plug.close()


def test_a_client_that_leaves_frees_its_slot_or_its_place(serve: Any) -> None:
    node = serve(slots=1, connections_max=3)
    with connected(node) as streaming:
        streaming.sendall(wire(prompt(1000, 1_000_000)))
        until(lambda: node.counts()["running"] == 1)
        with connected(node) as leaver:
            leaver.sendall(wire(prompt()))
            until(lambda: node.counts()["waiting"] == 1)
        with connected(node) as stayer:
            stayer.sendall(wire(prompt(), "Connection: close\r\n"))
            until(lambda: node.counts()["waiting"] == 2)
            streaming.close()
            assert all_of(stayer).startswith(b"HTTP/1.1 200")
    until(lambda: node.counts()["running"] == node.counts()["waiting"] == 0)
    assert node.counts()["aborted"] == 2 and node.counts()["plain"] == 1
    with connected(node) as one, connected(node) as two, connected(node) as three:
        for plug in (one, two, three):
            plug.sendall(wire(prompt()))
            assert plug.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_request_that_comes_during_a_stream_waits_for_its_end(serve: Any) -> None:
    node = serve()
    with connected(node) as plug:
        plug.sendall(wire(prompt(5, 50_000)))
        found = plug.recv(65536)
        plug.sendall(wire(prompt(nonce="1" * 16), "Connection: close\r\n"))
        found += all_of(plug)
    assert re.findall(rb":(00000\d):\d{18}:|(simulated\.)", found) == [(b"%06d" % i, b"") for i in range(5)] + [
        (b"", b"simulated.")
    ]


def test_requests_behind_each_other_are_answered_in_order(serve: Any) -> None:
    node = serve()
    requests = [wire(prompt(nonce=f"{i:016}")) for i in range(20)]
    requests.append(wire(prompt(3, 1000, nonce=f"{20:016}"), "Connection: close\r\n"))
    with connected(node) as plug:
        plug.sendall(b"".join(requests))
        answers = re.findall(rb"chatcmpl-(\d+)", all_of(plug))
    assert [int(each) for each in answers] == [*range(20), 20, 20, 20]


def test_a_request_may_come_in_any_pieces_and_of_any_size(serve: Any) -> None:
    node = serve()
    with connected(node) as plug:
        for byte in wire(prompt()):
            plug.sendall(bytes([byte]))
        assert NONCE.encode() in plug.recv(65536)
        plug.sendall(wire(prompt(padding=1_000_000)))
        assert NONCE.encode() in plug.recv(65536)
        plug.sendall(wire(prompt(nonce="1" * 16), "connection: close\r\n"))
        assert b"1" * 16 in all_of(plug)
    assert node.counts()["plain"] == 3 and node.counts()["bad"] == 0


def test_a_client_that_reads_slowly_gets_everything(serve: Any) -> None:
    node = serve()
    with connected(node) as plug:
        plug.sendall(wire(prompt(60_000, 0), "Connection: close\r\n"))
        sent = -1
        while sent != (sent := node.counts()["chunks"]):  # until the sockets are full
            time.sleep(0.3)
        assert node.counts()["streams"] == 0 and node.counts()["running"] == 1  # 15 MB do not fit into sockets
        numbers = [int(each) for each in re.findall(rb":(\d{6}):\d{18}:", all_of(plug))]
    assert numbers == list(range(60_000))
    assert node.counts()["streams"] == 1 and node.counts()["aborted"] == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000,
    ],
    ids=["chunked", "too long", "head too long"],
)
def test_what_it_can_t_read_is_400_and_the_end(serve: Any, request_bytes: bytes) -> None:
    node = serve()
    with connected(node) as plug:
        plug.sendall(request_bytes)
        assert plug.recv(65536).startswith(b"HTTP/1.1 400 ")
        try:
            assert plug.recv(65536) == b""
        except ConnectionResetError:
            assert len(request_bytes) > 16_384  # what it did not read resets the connection
    assert node.counts()["bad"] == 1


def test_all_ports_are_one_server_and_connections_have_a_limit(serve: Any) -> None:
    node = serve((0, 0), connections_max=2)
    assert len(set(node.ports)) == 2
    plugs = [socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) for port in node.ports]
    for plug in plugs:
        plug.sendall(wire(prompt()))
        assert plug.recv(65536)
    with connected(node) as third:
        assert third.recv(1) == b""
    assert node.counts()["full"] == 1
    for plug in plugs:
        plug.close()
    until(lambda: ask_quietly(node))


def ask_quietly(node: Any) -> bool:
    try:
        return ask(node, body=prompt())[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ports": []}, "ports"),
        ({"ports": [70_000]}, "ports"),
        ({"ports": [0] * 65}, "ports"),
        ({"slots": -1}, "slots"),
        ({"service_ns": -1}, "service_ns"),
        ({"connections_max": 0}, "connections_max"),
        ({"model": ""}, "model"),
        ({"model": 'a"b'}, "model"),
        ({"model": "x" * 65}, "model"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Node(**({"ports": [0]} | options))


def test_a_port_that_is_taken_a_limit_that_is_too_low_and_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError, match="port"):
        Node([server.getsockname()[1]])
    with pytest.raises(OSError, match="ulimit"):
        Node([0], connections_max=1 << 20)
    node = Node([0])
    node.run(0.0)
    with pytest.raises(ValueError, match="seconds"):
        node.run(-1.0)
    node.close()
    node.close()
    with pytest.raises(ValueError, match="closed"):
        node.run(0.0)
