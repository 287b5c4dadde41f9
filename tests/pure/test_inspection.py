"""What is read from a body, and what is refused; each refusal names the field and the limit."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.errors import ApiError
from fairlead.inspection import INFERENCE_PATHS, JSON_PATHS, Facts, check_content_encoding, inspect

CHAT = "/v1/chat/completions"
FORM = "/v1/audio/transcriptions"
FORM_TYPE = "multipart/form-data; boundary=b0"
WIDTH_MAX = 16


def read(body: bytes | dict[str, Any], path: str = CHAT, content_type: str = "application/json") -> Facts:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return inspect(path, content_type, data, WIDTH_MAX)


def refused(body: bytes | dict[str, Any], path: str = CHAT, content_type: str = "application/json") -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body, path, content_type)
    assert caught.value.status == 400
    assert caught.value.message.isprintable()
    return caught.value


# JSON ----------------------------------------------------------------------------------------------


def test_facts_of_a_full_request() -> None:
    body = b'{"model":"m","stream":true,"n":2,"best_of":3,"max_tokens":7,"user":"alice","messages":[]}'
    assert read(body) == Facts(CHAT, "m", True, 3, 7, "alice", len(body))


def test_facts_of_a_bare_request() -> None:
    assert read(b'{"model":"m"}') == Facts(CHAT, "m", False, 1, None, None, 13)


def test_null_is_as_good_as_absent() -> None:
    body = {"model": "m"} | dict.fromkeys(("stream", "n", "best_of", "max_tokens", "max_completion_tokens", "user"))
    facts = read(body)
    assert (facts.stream, facts.width, facts.max_tokens, facts.body_user) == (False, 1, None, None)


def test_max_completion_tokens_is_the_newer_word() -> None:
    assert read({"model": "m", "max_tokens": 7, "max_completion_tokens": 9}).max_tokens == 9
    assert read({"model": "m", "max_completion_tokens": 0, "max_tokens": 7}).max_tokens == 0


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "A" * 5000, "format": "wav"}}


@pytest.mark.parametrize(
    ("fields", "text_bytes"),
    [
        ({}, 0),
        ({"messages": [{"role": "system", "content": "abcd"}, {"role": "user", "content": "ef"}]}, 6),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "abc"}, IMAGE, AUDIO]}]}, 3),
        ({"messages": [{"role": "user", "content": None}, 7.5, None]}, 0),
        ({"messages": [{"content": [{"type": "tool_result", "content": [{"type": "text", "text": "abc"}]}]}]}, 3),
        ({"system": [{"type": "text", "text": "abc"}], "messages": [{"content": "de"}]}, 5),
        ({"prompt": "\u00e9\u00e9a"}, 5),
        ({"prompt": ["ab", "c"]}, 3),
        ({"prompt": [1, 2, 3]}, 12),
        ({"prompt": [[1, 2], [3]]}, 12),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "abc"}]}], "instructions": "d"}, 4),
        ({"query": "ab", "documents": ["c", {"text": "d"}]}, 4),
        ({"text_1": "a", "text_2": ["b", "c"]}, 3),
        ({"input": [[[[[[["deep"]]]]]]]}, 0),
        ({"metadata": "abc", "tools": [{"name": "abc"}]}, 0),
    ],
)
def test_only_text_is_counted(fields: dict[str, Any], text_bytes: int) -> None:
    body = json.dumps({"model": "m"} | fields).encode()
    assert inspect("/v1/completions", "", body, WIDTH_MAX, count_text=True).text_bytes == text_bytes
    assert inspect("/v1/completions", "", body, WIDTH_MAX).text_bytes == 0


def test_the_limit_of_responses_has_a_name_of_its_own() -> None:
    for value, found in ((9, 9), (-1, None), ("9", None), (True, None)):
        body = json.dumps({"model": "m", "max_output_tokens": value}).encode()
        assert inspect("/v1/responses", "", body, WIDTH_MAX, count_text=True).max_tokens == found
        assert inspect("/v1/responses", "", body, WIDTH_MAX).max_tokens is None
    both = b'{"model":"m","max_output_tokens":9,"max_tokens":5}'
    assert inspect("/v1/responses", "", both, WIDTH_MAX, count_text=True).max_tokens == 5


def test_all_paths_of_the_contract_are_known() -> None:
    assert len(INFERENCE_PATHS) == 13
    for path in JSON_PATHS:
        assert read({"model": "m"}, path).path == path


@pytest.mark.parametrize(
    ("path", "fields", "width"),
    [
        ("/v1/completions", {"prompt": "a"}, 1),
        ("/v1/completions", {"prompt": []}, 1),
        ("/v1/completions", {"prompt": ["a", "b", "c"]}, 3),
        ("/v1/completions", {"prompt": [1, 2, 3]}, 1),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}, 2),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "best_of": 8}, 16),
        ("/v1/chat/completions", {"prompt": ["a", "b"]}, 1),
        ("/v1/embeddings", {"input": ["a"] * 1000}, 1),
        ("/v1/images/generations", {"n": 4}, 4),
    ],
)
def test_width(path: str, fields: dict[str, Any], width: int) -> None:
    assert read({"model": "m"} | fields, path).width == width


@pytest.mark.parametrize("fields", [{"prompt": ["a"] * 17}, {"prompt": ["a"] * 9, "n": 2}, {"prompt": [[1]] * 99}])
def test_too_many_sequences_name_the_limit(fields: dict[str, Any]) -> None:
    error = refused({"model": "m"} | fields, "/v1/completions")
    assert (error.code, error.param) == ("invalid_value", "prompt")
    assert "16 sequences (limits.width)" in error.message


@pytest.mark.parametrize("name", ["n", "best_of"])
def test_a_million_sequences_name_the_limit(name: str) -> None:
    error = refused({"model": "m", name: 1_000_000})
    assert (error.code, error.param) == ("invalid_value", name)
    assert error.message == f"`{name}` is 1000000: it must be an integer 1..16 (limits.width)"


@pytest.mark.parametrize("name", ["n", "best_of", "max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", ["-1", "true", "false", '"2"', "1.0", "1e5", str(2**63), str(2**64), "[]", "{}"])
def test_numbers_of_the_wrong_kind(name: str, value: str) -> None:
    error = refused(f'{{"model":"m","{name}":{value}}}'.encode())
    assert (error.code, error.param) == ("invalid_value", name)


def test_no_sequences_at_all_is_refused() -> None:
    assert refused({"model": "m", "n": 0}).param == "n"


@pytest.mark.parametrize("value", ["true", 1, 0, [], {}, ""])
def test_stream_must_be_a_boolean(value: object) -> None:
    error = refused({"model": "m", "stream": value})
    assert (error.code, error.param) == ("invalid_value", "stream")


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": ""}, {"model": 1}, {"model": ["m"]}, {"Model": "m"}])
def test_missing_model(body: dict[str, Any]) -> None:
    assert refused(body).code == "missing_model"


@pytest.mark.parametrize("model", ["a\r\nb", "\x00", "a\x7f", "\x85", "\u2028", "m" * 257, "m" * 10_000])
def test_a_model_that_no_line_can_hold(model: str) -> None:
    error = refused({"model": model})
    assert (error.code, error.param) == ("invalid_value", "model")
    assert len(error.message) < 200


@pytest.mark.parametrize("model", ["m" * 256, "org/model:tag", "../m", "модель", "m 1"])
def test_a_model_may_have_any_printable_name(model: str) -> None:
    assert read({"model": model}).model == model


@pytest.mark.parametrize("user", [1, True, [], {}, None])
def test_a_user_that_is_no_string_is_nobody(user: object) -> None:
    assert read({"model": "m", "user": user}).body_user is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nope",
        b"[]",
        b'"model"',
        b"1",
        b"null",
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"model":"\xff"}',
        b'{"model":"\xed\xa0\x80"}',
        rb'{"model":"\ud800"}',
        b'{"model":"m","t":NaN}',
        b'{"model":"m","t":Infinity}',
        b'{"model":"m","t":1e999}',
        b'{"model":"m"} x',
        b'{"model":"m"}\x00',
        b'{"model":"m",}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"model":"m","a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    ],
    ids=range(20),
)
def test_no_json_object(body: bytes) -> None:
    assert refused(body).code == "invalid_json"


def test_a_number_of_ten_megabytes_stalls_nobody() -> None:
    body = b'{"model":"m","n":' + b"9" * 10_000_000 + b"}"
    began = time.perf_counter()
    refused(body)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"cheap","model":"dear"}',
        rb'{"model":"cheap","mod\u0065l":"dear"}',
        rb'{"\u006dodel":"cheap","a":[{"model":"x"}],"model":"cheap"}',
    ],
)
def test_a_second_model_is_refused(body: bytes) -> None:
    error = refused(body)
    assert (error.code, error.param) == ("duplicate_key", "model")


@pytest.mark.parametrize("name", ["stream", "n", "best_of", "max_tokens", "max_completion_tokens", "prompt", "user"])
def test_a_second_one_of_whatever_is_read_is_refused(name: str) -> None:
    assert refused(f'{{"model":"m","{name}":null,"{name}":null}}'.encode()).param == name


def test_what_is_not_read_may_stand_there_twice() -> None:
    assert read(b'{"model":"m","top_p":1,"top_p":2,"tools":{"model":1,"model":2}}').model == "m"


@given(st.lists(st.tuples(st.sampled_from(["model", "user", "top_p", "mod\\u0065l"]), st.integers()), max_size=5))
def test_duplicates_are_those_that_pythons_parser_reports(members: list[tuple[str, int]]) -> None:
    body = "{" + ",".join(['"model":"m"', *(f'"{key}":{value}' for key, value in members)]) + "}"
    seen = json.loads(body, object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    if any(seen.count(key) > 1 for key in ("model", "user")):
        assert refused(body.encode()).code == "duplicate_key"
    else:
        assert read(body.encode()).model == "m"


@given(st.binary(max_size=64) | st.recursive(st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_any_body_is_facts_or_a_refusal(body: bytes) -> None:
    for path in (CHAT, FORM, "/api/chat"):
        try:
            facts = read(body, path, FORM_TYPE)
        except ApiError as refusal:
            assert refusal.status == 400, refusal.code  # noqa: PT017 - it may be facts as well
        else:
            assert facts.model


@pytest.mark.parametrize("value", [None, "", "identity", " Identity "])
def test_a_body_as_it_is_is_taken(value: str | None) -> None:
    check_content_encoding(value)


@pytest.mark.parametrize("value", ["gzip", "br", "identity, gzip", "x" * 1000])
def test_a_compressed_body_is_refused(value: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_content_encoding(value)
    assert caught.value.status == 415
    assert len(caught.value.message) < 200


# Forms ---------------------------------------------------------------------------------------------


def part(name: str, value: bytes, headers: str = "", disposition: str = "") -> bytes:
    disposition = disposition or f'form-data; name="{name}"'
    return f"Content-Disposition: {disposition}\r\n{headers}\r\n".encode() + value


def form(*parts: bytes, end: bytes = b"--b0--\r\n") -> bytes:
    return b"".join(b"--b0\r\n" + each + b"\r\n" for each in parts) + end


AUDIO = part(
    "file", b"RIFF\r\n--b\r\n\r\n\x00\xff", "Content-Type: audio/wav\r\n", 'form-data; name="file"; filename="a.wav"'
)
MODEL = part("model", b"whisper")


def test_facts_of_a_form() -> None:
    body = form(AUDIO, MODEL, part("stream", b"true"), part("prompt", b""))
    assert read(body, FORM, FORM_TYPE) == Facts(FORM, "whisper", True, 1, None, None, len(body))


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/form-data; boundary="b0"',
        "Multipart/Form-Data;boundary=b0",
        'multipart/form-data; charset=utf-8 ; BOUNDARY="b0" ',
    ],
)
def test_spellings_of_the_content_type(content_type: str) -> None:
    assert read(form(MODEL), FORM, content_type).model == "whisper"


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=b0; boundary=b1",
        'multipart/form-data; x="; boundary=b0"',
        "multipart/form-data; boundary=" + "b" * 71,
        'multipart/form-data; boundary="b\\0"',
        "multipart/mixed; boundary=b0",
        "multipart/form-data" + ";a=b" * 5000 + ";",
        "multipart/form-data;" + " " * 8000 + "!",
    ],
    ids=range(11),
)
def test_a_content_type_without_one_boundary(content_type: str) -> None:
    assert refused(form(MODEL), FORM, content_type).code == "invalid_header"


def test_a_real_clients_form_is_read() -> None:
    async def written() -> tuple[str, bytes]:
        fields = aiohttp.FormData({"model": "whisper", "stream": "true"})
        fields.add_field("file", b"\r\n--\x00" * 5000, filename="ä.wav", content_type="audio/wav")
        writer = fields()
        return writer.headers["Content-Type"], await writer.as_bytes()

    content_type, body = asyncio.run(written())
    facts = read(body, FORM, content_type)
    assert (facts.model, facts.stream) == ("whisper", True)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (form(MODEL, MODEL), "duplicate_key"),
        (form(MODEL, AUDIO, part("stream", b"true"), part("stream", b"false")), "duplicate_key"),
        (form(AUDIO), "missing_model"),
        (form(part("model", b"")), "missing_model"),
        (form(part("model", b"\xff")), "invalid_value"),
        (form(part("model", b"a\r\nb")), "invalid_value"),
        (form(part("model", b"m" * 257)), "invalid_value"),
        (form(part("model", b"m" * 2000)), "invalid_value"),
        (form(MODEL, part("stream", b"perhaps")), "invalid_value"),
        (b"", "invalid_value"),
        (b"--b0--", "missing_model"),
        (b"preamble\r\n" + form(MODEL), "invalid_value"),
        (b"xxxx" + form(MODEL)[4:], "invalid_value"),
        (form(MODEL, end=b""), "invalid_value"),
        (form(MODEL, end=b"--b0"), "invalid_value"),
        (form(MODEL).replace(b"\r\n", b"\n"), "invalid_value"),
        (form(part("a", b"x\r\n--b0x")), "invalid_value"),
        (form(b"\r\nwhisper"), "invalid_value"),
        (form(b"Content-Type: text/plain\r\n\r\nwhisper"), "invalid_value"),
        (form(part("model", b"m", "Content-Disposition: form-data; name=a\r\n")), "invalid_value"),
        (form(part("model", b"m", " folded: 1\r\n")), "invalid_value"),
        (form(part("model", b"bQ==", "Content-Transfer-Encoding: base64\r\n")), "invalid_value"),
        (form(part("", b"m", disposition='form-data; name="a"; name="model"')), "invalid_value"),
        (form(part("", b"m", disposition="form-data; name=\"a\"; name*=utf-8''model")), "invalid_value"),
        (form(part("", b"m", disposition='form-data; name="mod\\el"')), "invalid_value"),
        (form(part("", b"m", disposition='attachment; name="model"')), "invalid_value"),
        (form(part("a", b"m", "X: " + "y" * 9000 + "\r\n")), "invalid_value"),
        (form(part("a", b"m", "X:" + " " * 8000 + "y\r\n")), "missing_model"),
        (form(*[part("a", b"")] * 65), "invalid_value"),
        (form(*[part("a", b"")] * 63, MODEL), None),
        (form(MODEL, part("", b"", disposition="form-data; name=file; filename=a; filename*=utf-8''a")), None),
    ],
    ids=range(31),
)
def test_forms(body: bytes, code: str | None) -> None:
    if code is None:
        assert read(body, FORM, FORM_TYPE).model == "whisper"
    else:
        assert refused(body, FORM, FORM_TYPE).code == code


def test_a_known_json_path_is_never_read_as_a_form() -> None:
    assert refused(form(MODEL), CHAT, FORM_TYPE).code == "invalid_json"


def test_an_extra_path_is_read_by_its_content_type() -> None:
    assert read(form(MODEL), "/v1/audio/translations", FORM_TYPE).model == "whisper"
    assert read(b'{"model":"m"}', "/api/chat").model == "m"
