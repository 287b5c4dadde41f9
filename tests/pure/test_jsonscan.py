"""top_level_keys against Python's own parser, which can be made to show duplicates, and against any bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fairlead.wire.jsonscan import count_keys, top_level_keys

text = st.text(st.characters(codec="utf-8"), max_size=8)
keys = st.sampled_from(["model", "n", "", '"', "\\", '\\"', "é", "😀", "{", "}", "[", "]", ",", ":"]) | text


class Pairs(list):
    """A JSON object as the list of its members, so that it may have one key twice."""


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(keys, inner), max_size=4).map(Pairs),
    max_leaves=12,
)
objects = st.lists(st.tuples(keys, values), max_size=6).map(Pairs)
blank = st.text(" \t\r\n", max_size=2)


def written(value: object, ascii_only: bool, gap: str) -> str:
    if isinstance(value, Pairs):
        members = (
            f"{gap}{json.dumps(key, ensure_ascii=ascii_only)}{gap}:{gap}{written(member, ascii_only, gap)}{gap}"
            for key, member in value
        )
        return "{" + (",".join(members) or gap) + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{gap}{written(member, ascii_only, gap)}{gap}" for member in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


@given(objects, st.booleans(), blank)
def test_keys_are_those_that_pythons_parser_reports(value: Pairs, ascii_only: bool, gap: str) -> None:
    body = gap + written(value, ascii_only, gap) + gap
    expected = [key for key, _ in json.loads(body, object_pairs_hook=Pairs)]
    assert [json.loads(b'"' + key + b'"') for key in top_level_keys(body.encode())] == expected


@given(st.lists(values, max_size=4) | text | st.integers())
def test_a_value_that_is_no_object_has_no_keys(value: object) -> None:
    assert top_level_keys(written(value, False, "").encode()) == []


@given(st.binary(max_size=64) | st.lists(st.sampled_from(list(b'{}[]",:\\a ')), max_size=64).map(bytes))
@example(b"")
@example(b'{"')
@example(b'{"\\')
@example(b'{"a\\"')
@example(b'"\\"')
@example(b"{" + b'\\"' * 30)
def test_any_bytes_are_scanned_without_reading_outside(body: bytes) -> None:
    # Slices found in a copy of the bytes are the proof that can be had here; the asan build sees the reads.
    assert count_keys(body) == len(top_level_keys(body))
    for key in top_level_keys(body):
        assert b'"' + key + b'"' in body


def test_keys_stay_escaped() -> None:
    assert top_level_keys(rb'{"mod\u0065l": 1, "model": {"model": 2}, "a\"b": [{"c": "\\"}]}') == [
        rb"mod\u0065l",
        b"model",
        rb"a\"b",
    ]


def test_a_string_of_quotes_and_backslashes_is_one_string() -> None:
    body = json.dumps({'\\"' * 50: '"\\' * 50, "b": "\\\\"}).encode()
    assert [json.loads(b'"' + key + b'"') for key in top_level_keys(body)] == ['\\"' * 50, "b"]


def test_nesting_costs_no_stack() -> None:
    depth = 1_000_000
    assert top_level_keys(b'{"a":' + b"[" * depth + b"]" * depth + b',"b":1}') == [b"a", b"b"]


@pytest.mark.parametrize("body", [None, "{}", bytearray(b"{}"), memoryview(b"{}")])
def test_only_bytes_are_taken(body: object) -> None:
    with pytest.raises(TypeError):
        top_level_keys(body)  # type: ignore[arg-type]
