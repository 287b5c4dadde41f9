"""The error contract: what a client that is wrong is told, in which shape, with an id on every answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from rig import Answer, Client, RawNode, answering, chat_body, raw_answer, routed

from fairlead.mocknode import MockSettings

Run = Callable[[Any], Any]
QUICK = MockSettings(name="quick", slots=4, ttft_ms=1, token_ms=0, tokens=1)
CHAT = "/v1/chat/completions"
FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ndemo\r\n--b--\r\n'


def check(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code), answer.body
    assert answer.headers["Content-Type".lower()].startswith("application/json")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answer.headers["x-request-id"])
    assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}


# (id, method, path, headers, body, status, code)
ROWS: list[tuple[str, str, str, list[str], bytes, int, str]] = [
    ("no JSON", "POST", CHAT, [], b"{", 400, "invalid_json"),
    ("no object", "POST", CHAT, [], b"[]", 400, "invalid_json"),
    ("empty", "POST", CHAT, [], b"", 400, "invalid_json"),
    ("no model", "POST", CHAT, [], b"{}", 400, "missing_model"),
    ("model no string", "POST", CHAT, [], b'{"model": 1}', 400, "missing_model"),
    ("model twice", "POST", CHAT, [], b'{"model": "demo", "model": "x"}', 400, "duplicate_key"),
    ("stream a string", "POST", CHAT, [], b'{"model": "demo", "stream": "true"}', 400, "invalid_value"),
    ("n too large", "POST", CHAT, [], b'{"model": "demo", "n": 17}', 400, "invalid_value"),
    ("bad timeout", "POST", CHAT, ["X-Request-Timeout-Ms: -1"], chat_body(), 400, "invalid_header"),
    ("bad queue timeout", "POST", CHAT, ["X-Queue-Timeout-Ms: 1e3"], chat_body(), 400, "invalid_header"),
    (
        "timeout twice",
        "POST",
        CHAT,
        ["X-Queue-Timeout-Ms: 1", "X-Queue-Timeout-Ms: 2"],
        chat_body(),
        400,
        "invalid_header",
    ),
    ("bad user", "POST", CHAT, ["X-User-Id: " + "x" * 129], chat_body(), 400, "invalid_header"),
    ("unknown model", "POST", CHAT, [], b'{"model": "other"}', 404, "model_not_found"),
    ("compressed", "POST", CHAT, ["Content-Encoding: gzip"], chat_body(), 415, "unsupported_encoding"),
    ("too large", "POST", CHAT, [], chat_body("x" * 5000), 413, "request_too_large"),
    ("unknown path", "GET", "/nope", [], b"", 404, "not_found"),
    ("root", "GET", "/", [], b"", 404, "not_found"),
    ("admin path", "GET", "/api/invariants", [], b"", 404, "not_found"),
    ("decoded path", "POST", "/v1/chat%2Fcompletions", [], chat_body(), 404, "not_found"),
    ("dotted path", "POST", "/v1/./chat/completions", [], chat_body(), 404, "not_found"),
    ("double slash", "POST", "//v1/chat/completions", [], chat_body(), 404, "not_found"),
    ("trailing slash", "POST", "/v1/chat/completions/", [], chat_body(), 404, "not_found"),
    ("path with parameters", "POST", "/v1/chat/completions;x", [], chat_body(), 404, "not_found"),
    ("absolute target", "POST", "http://other/v1/chat/completions", [], chat_body(), 404, "not_found"),
    ("GET of an inference path", "GET", CHAT, [], b"", 405, "method_not_allowed"),
    ("DELETE of models", "DELETE", "/v1/models", [], b"", 405, "method_not_allowed"),
    ("unknown model's card", "GET", "/v1/models/other", [], b"", 404, "model_not_found"),
]


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "code"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_what_is_wrong_is_named(
    no_leaks: Run, method: str, path: str, headers: list[str], body: bytes, status: int, code: str
) -> None:
    async def main() -> None:
        async with routed([QUICK], limits={"body": "4KiB"}) as rig:
            client = await Client.connect(rig)
            lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
            client.writer.write("\r\n".join(lines).encode() + body)
            check(await client.answer(), status, code)
            assert rig.started() == []
            if code != "request_too_large":  # the connection is good for another
                client.send_post(chat_body())
                assert (await client.answer()).status == 200
            client.leave("close")

    no_leaks(main)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/chat/completions", "the nearest path is /v1/chat/completions"),  # a base URL without /v1
        ("/v1/v1/chat/completions", "the nearest path is /v1/chat/completions"),
        ("/v1/chat/completions/", "the nearest path is /v1/chat/completions"),
        ("/models", "the nearest path is /v1/models"),
        ("/healthz", "the nearest path is /health"),
        ("/", "see GET /v1/models"),
        ("/v1/models/demi", "see GET /v1/models"),
    ],
)
def test_a_path_that_is_not_there_is_told_what_is(no_leaks: Run, path: str, told: str) -> None:
    async def main() -> None:
        async with routed([QUICK]) as rig:
            answer = await rig.request("GET", path)
            assert answer.status == 404
            error = answer.json()["error"]
            assert told in error["message"]
            assert error["param"] == ("model" if error["code"] == "model_not_found" else None)

    no_leaks(main)


def test_anthropics_clients_get_their_own_shape(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK]) as rig:
            answer = await rig.request("POST", "/v1/messages", data=b"{}")
            assert answer.status == 400
            assert answer.json()["type"] == "error"
            assert answer.json()["error"]["type"] == "invalid_request_error"

    no_leaks(main)


BROKEN = [
    b"garbage\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /v1/chat/completions?\xc3\xbc HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
]


@pytest.mark.parametrize("request_bytes", BROKEN)
def test_broken_http_is_answered_in_the_same_shape_and_closed(no_leaks: Run, request_bytes: bytes) -> None:
    async def main() -> None:
        async with routed([QUICK]) as rig:
            client = await Client.connect(rig)
            client.writer.write(request_bytes)
            check(await client.answer(), 400, "bad_request")
            assert await client.rest() == b""
            client.leave("close")

    no_leaks(main)


def test_a_body_too_large_is_refused_before_it_is_read(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK], limits={"body": "4KiB"}) as rig:
            announced = await Client.connect(rig)
            announced.writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
            )
            check(await announced.answer(), 413, "request_too_large")
            counted = await Client.connect(rig)
            counted.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            counted.writer.write(b"800\r\n" + b"x" * 2048 + b"\r\n")
            counted.writer.write(b"801\r\n" + b"x" * 2049 + b"\r\n")
            check(await counted.answer(), 413, "request_too_large")
            for client in (announced, counted):
                assert await client.rest() == b""
                client.leave("close")

    no_leaks(main)


def test_a_body_that_does_not_come_times_out(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK], timeouts={"body": "200ms"}) as rig:
            client = await Client.connect(rig)
            client.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            check(await client.answer(), 408, "request_timeout")
            assert await client.rest() == b""
            client.leave("close")

    no_leaks(main)


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK]) as rig:
            client = await Client.connect(rig)
            body = chat_body()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
            client.writer.write(head.encode())
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.writer.write(body)
            assert (await client.answer()).status == 200
            client.leave("close")

    no_leaks(main)


def test_request_ids_are_kept_if_sane_and_made_otherwise(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b"{}"))) as node, routed(raw=[node.entry]) as rig:
            for sent, kept in (
                ("a-b_C.9", True),
                ("x" * 128, True),
                ("x" * 129, False),
                ("a b", False),
                ("a/b", False),
            ):
                for path in (CHAT, "/v1/models", "/health", "/nope"):
                    method = "POST" if path == CHAT else "GET"
                    answer = await rig.request(method, path, data=chat_body(), headers={"X-Request-Id": sent})
                    assert (answer.headers["X-Request-Id"] == sent) is kept
                assert (f"X-Request-Id: {sent}\r\n".encode() in node.requests[-1]) is kept

    no_leaks(main)


def test_models_are_listed_and_shown_also_with_slashes(no_leaks: Run) -> None:
    async def main() -> None:
        settings = MockSettings(name="m", models=("demo", "org/model:7b"), slots=1, ttft_ms=1)
        async with routed([settings]) as rig:
            listed = (await rig.request("GET", "/v1/models")).json()
            assert [model["id"] for model in listed["data"]] == ["demo", "org/model:7b"]
            for path in ("/v1/models/org/model:7b", "/v1/models/org%2Fmodel%3A7b"):
                client = await Client.connect(rig)
                client.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = await client.answer()
                assert (answer.status, answer.json()["id"]) == (200, "org/model:7b")
                client.leave("close")

    no_leaks(main)


def test_a_model_is_loading_while_a_node_has_never_answered(no_leaks: Run) -> None:
    async def main() -> None:
        nowhere = {"name": "later", "url": "http://127.0.0.1:9", "slots": 1}
        async with routed([QUICK], raw=[nowhere]) as rig:
            answer = await rig.request("POST", CHAT, data=b'{"model": "other"}')
            check(answer, 503, "model_loading")
            assert 1 <= int(answer.headers["Retry-After"]) <= 59
            card = await rig.request("GET", "/v1/models/other")
            check(card, 503, "model_loading")
            assert 1 <= int(card.headers["Retry-After"]) <= 59
            assert (await rig.chat()).status == 200

    no_leaks(main)


def test_a_form_is_routed_by_its_model(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(answering(raw_answer(b'{"text": ""}'))) as node, routed(raw=[node.entry]) as rig:
            kind = {"Content-Type": "multipart/form-data; boundary=b"}
            answer = await rig.request("POST", "/v1/audio/transcriptions", data=FORM, headers=kind)
            assert answer.status == 200
            assert node.requests[0].endswith(b"\r\n\r\n" + FORM)
            assert b"Content-Type: multipart/form-data; boundary=b\r\n" in node.requests[0]

    no_leaks(main)


def test_a_connection_too_many_is_answered_and_closed(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK], limits={"connections": 2}) as rig:
            clients = [await Client.connect(rig) for _ in range(2)]
            await asyncio.sleep(0.02)
            third = await Client.connect(rig)
            answer = await third.answer()
            assert (answer.status, answer.code) == (503, "overloaded")
            assert orjson.loads(answer.body)["error"]["message"].startswith("2 connections")
            assert await third.rest() == b""
            third.leave("close")
            clients[0].leave("close")
            await asyncio.sleep(0.02)
            assert (await rig.chat()).status == 200
            clients[1].leave("close")

    no_leaks(main)
