"""Reading usage beside the relay: by-hand streams at every cut, and changes to bodies that leave all else alone."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.usage import EVENT_MAX, HABITS_MAX, PER_EVENT_MAX, TAIL_MAX, Events, Habit, Habits, Tail, Usage, ask

ROLE = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]%b}\n\n'
TOKEN = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"tok"}}]%b}\n\n'
LAST = b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]%b}\n\n'
TOLD = (
    b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
NULL = b',"usage":null'


def chat(member: bytes, told: bytes) -> bytes:
    return b"".join([ROLE % member, TOKEN % member, b": still here\n\n", TOKEN % member, LAST % member, told, DONE])


ASKED = chat(NULL, TOLD)
PLAIN = chat(b"", b"")
ANTHROPIC = (
    b'event: message_start\ndata: {"type":"message_start","message":{"content":[],"usage":{"input_tokens":5,'
    b'"cache_read_input_tokens":3,"cache_creation_input_tokens":2,"output_tokens":1}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}\n\n'
    b'event: ping\ndata: {"type":"ping"}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"!"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":15}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
RESPONSES = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","usage":null}}\n\n'
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"one"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r","usage":{"input_tokens":11,'
    b'"input_tokens_details":{"cached_tokens":8},"output_tokens":6}}}\n\n'
)


def through(reader: Events | Tail, *pieces: bytes) -> bytes:
    return b"".join([reader.feed(piece) for piece in pieces]) + reader.rest()


def lines_of(data: bytes, ending: bytes) -> bytes:
    return data.replace(b"\n", ending)


# Streams -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_what_the_router_asked_for_is_taken_out_at_every_cut(ending: bytes) -> None:
    asked, plain = lines_of(ASKED, ending), lines_of(PLAIN, ending)
    for cut in range(len(asked) + 1):
        reader = Events(strip=True)
        assert through(reader, asked[:cut], asked[cut:]) == plain
        assert (reader.usage, reader.events) == (Usage(7, 4, 2), 2)
    reader = Events(strip=True)
    assert through(reader, *(asked[i : i + 1] for i in range(len(asked)))) == plain
    assert (reader.usage, reader.events) == (Usage(7, 4, 2), 2)


@pytest.mark.parametrize(
    ("stream", "usage", "tokens"),
    [
        (ASKED, Usage(7, 4, 2), 2),
        (PLAIN, Usage(), 2),
        (ANTHROPIC, Usage(10, 3, 15), 2),
        (RESPONSES, Usage(11, 8, 6), 1),
    ],
)
def test_who_asked_himself_sees_everything_when_it_is_there(stream: bytes, usage: Usage, tokens: int) -> None:
    for cut in range(len(stream) + 1):
        reader = Events(strip=False)
        assert reader.feed(stream[:cut]) == stream[:cut]
        assert reader.feed(stream[cut:]) == stream[cut:]
        assert reader.rest() == b""
        assert (reader.usage, reader.events) == (usage, tokens)


@given(st.lists(st.integers(0, len(ASKED)), max_size=8))
def test_any_cuts_give_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ASKED)]
    reader = Events(strip=True)
    pieces = [ASKED[low:high] for low, high in pairwise(edges)]
    assert through(reader, *pieces) == PLAIN
    assert reader.events == 2


def test_a_whole_event_is_given_on_at_once_and_a_part_of_one_is_not() -> None:
    reader = Events(strip=True)
    assert reader.feed(TOKEN % b"") == TOKEN % b""
    assert reader.feed(b"data: {") == b""
    assert reader.feed(b"}\n\ndata: ") == b"data: {}\n\n"
    assert reader.rest() == b"data: "
    assert reader.rest() == b""


@pytest.mark.parametrize(
    ("event", "left"),
    [
        (b'data: {"usage":null,"choices":[1]}\n\n', b'data: {"choices":[1]}\n\n'),
        (b'data: {"a": 1, "usage": null, "b": 2}\n\n', b'data: {"a": 1, "b": 2}\n\n'),
        (b'data: {"a": 1 , "usage" : null}\n\n', b'data: {"a": 1 }\n\n'),
        (b'data:{"usage":null}\n\n', b"data:{}\n\n"),
        (b'data: {"a":{"b":1,"usage":null},"usage":null}\n\n', b'data: {"a":{"b":1,"usage":null}}\n\n'),
        (b'id: 4\ndata: {"a":1,"usage":null}\n\n', b'id: 4\ndata: {"a":1}\n\n'),
        (b'data: {"choices":[],"usage":null}\n\n', b'data: {"choices":[]}\n\n'),
    ],
)
def test_a_null_goes_with_one_comma(event: bytes, left: bytes) -> None:
    assert through(Events(strip=True), event) == left


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"delta":{"content":"she said \\"usage\\":null"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"completion_tokens":1}}\n\n',
        b'data: {"a":{"usage":null}}\n\n',
        b'data: {"a":1,\ndata: "usage":null}\n\n',
        b'data: {"usage":null,"usage":null}\n\n',
        b'data: "usage"\n\n',
        b'data: {"usage":nul\n\n',
        b'data: ["usage"]\n\n',
    ],
)
def test_whatever_else_has_the_word_in_it_is_left_alone(event: bytes) -> None:
    assert through(Events(strip=True), event) == event


def test_an_event_that_is_too_long_passes_unread_and_what_follows_is_read() -> None:
    long = b'data: {"content":"' + b"x" * EVENT_MAX + b'","usage":null}\n\n'
    stream, left = long + ASKED, long + PLAIN
    for step in (1 << 14, 1 << 19, len(long) - 1, len(long), len(long) + 1, len(stream)):
        reader = Events(strip=True)
        assert through(reader, *(stream[i : i + step] for i in range(0, len(stream), step))) == left
        assert (reader.usage, reader.events) == (Usage(7, 4, 2), 2)
    reader = Events(strip=True)
    for _ in range(40):
        reader.feed(b"y" * (1 << 18))
        assert len(reader._held) <= EVENT_MAX + (1 << 18)
    assert reader.rest() == b""


def test_bytes_one_by_one_cost_no_square() -> None:
    begun = time.perf_counter()
    through(Events(strip=True), *(b"z" for _ in range(300_000)))
    assert time.perf_counter() - begun < 3


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_come_through(data: bytes, cut: int) -> None:
    assert through(Events(strip=True), data[:cut], data[cut:]) == data


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (None, Usage()),
        ([], Usage()),
        ({"prompt_tokens": "7", "completion_tokens": -1}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 2**31}, Usage()),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(3, 3, None)),
        ({"prompt_tokens": 3, "prompt_tokens_details": None, "completion_tokens": 0}, Usage(3, 0, 0)),
        ({"prompt_tokens": 3, "prompt_tokens_details": 4}, Usage(3, 0, None)),
    ],
)
def test_only_sane_numbers_are_believed(reported: object, usage: Usage) -> None:
    found = Usage()
    found.read(reported)
    assert found == usage


# Plain answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100, TAIL_MAX - 200, TAIL_MAX, 3 * TAIL_MAX])
@pytest.mark.parametrize("step", [1000, TAIL_MAX - 1, 1 << 20])
def test_the_usage_at_the_end_of_a_plain_answer(size: int, step: int) -> None:
    text = 'a "usage":{"completion_tokens":99} é ' + "x" * size
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    answer = orjson.dumps({"choices": [{"message": {"content": text}}], "usage": usage})
    reader = Tail()
    for i in range(0, len(answer), step):
        assert reader.feed(answer[i : i + step]) == answer[i : i + step]
        assert len(reader._kept) < 3 * TAIL_MAX
    assert reader.usage == Usage(9, 2, 5)


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"usage":', b'"usage"', b"\x00\xff", b'{"usage":{"prompt_tokens":1}'])
def test_no_usage_is_none(answer: bytes) -> None:
    for padding in (0, TAIL_MAX):
        reader = Tail()
        assert reader.feed(b" " * padding + answer) == b" " * padding + answer
        assert reader.usage.output is None


def test_a_deep_object_in_the_tail_is_no_usage() -> None:
    reader = Tail()
    reader.feed(b" " * TAIL_MAX + b'"usage":' + b'{"a":' * 10_000)
    assert reader.usage == Usage()


# Asking --------------------------------------------------------------------------------------------

SET = b'"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"model":"m"}', b"{" + SET + b',"model":"m"}'),
        (b' \n{ "model" : "m" }\n', b" \n{" + SET + b', "model" : "m" }\n'),
        (b'{"model":"m","stream_options":null}', b'{"model":"m",' + SET + b"}"),
        (b'{"stream_options": {} ,"model":"m"}', b'{"stream_options": {"include_usage":true} ,"model":"m"}'),
        (b'{"m":1,"stream_options":{"a":2}}', b'{"m":1,"stream_options":{"include_usage":true,"a":2}}'),
        (
            b'{"m":1.50,"stream_options":{"a":2, "include_usage" : false}}',
            b'{"m":1.50,"stream_options":{"a":2, "include_usage":true}}',
        ),
        (b'{"m":1,"stream_options":{"include_usage":null}}', b'{"m":1,"stream_options":{"include_usage":true}}'),
        (
            b'{"x":{"stream_options":null},"stream_options":null}',
            b'{"x":{"stream_options":null},' + SET + b"}",
        ),
        (b'{"m":"\\u00e9"}', b"{" + SET + b',"m":"\\u00e9"}'),
        (b'{"m":"say \\"stream_options\\""}', b"{" + SET + b',"m":"say \\"stream_options\\""}'),
    ],
)
def test_usage_is_asked_for_and_all_else_stays(body: bytes, asked: bytes) -> None:
    assert ask(body) == asked
    before, after = orjson.loads(body), orjson.loads(asked)
    options = (before.get("stream_options") or {}) | {"include_usage": True}
    assert after == before | {"stream_options": options}


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream_options":{"include_usage":true}}',
        b'{"stream_options":{"continuous_usage_stats":true}}',
        b'{"stream_options":7}',
        b'{"stream\\u005foptions":{"a":1}}',
        b'{"stream_options":{"a":{"b":1}}}',
        b'{"stream_options":{"include_usage":false,"include_usage":false},"stream_options":null}',
        b'["stream_options"]',
        b'{"stream_options"',
    ],
)
def test_a_body_that_asks_already_or_is_odd_is_left_alone(body: bytes) -> None:
    changed = ask(body)
    assert changed is None or orjson.loads(changed)["stream_options"]["include_usage"] is True
    if b',"stream_options":null' not in body:
        assert changed is None


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), min_size=1), st.booleans())
def test_any_body_keeps_its_meaning(fields: dict[str, object], indent: bool) -> None:
    fields.pop("stream_options", None)
    fields["model"] = "m"
    fields = {name: value for name, value in fields.items() if not isinstance(value, int) or abs(value) < 2**63}
    changed = ask(orjson.dumps(fields, option=orjson.OPT_INDENT_2 if indent else 0))
    assert changed is not None
    assert orjson.loads(changed) == fields | {"stream_options": {"include_usage": True}}


def test_noise_never_raises() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        body = bytearray(b'{"model":"m","stream_options":{"include_usage":false,"a":[1]},"stream":true}')
        for _ in range(rng.randrange(4)):
            body[rng.randrange(1, len(body))] = rng.choice(b'{}[]",:\\ax1')
        ask(bytes(body))


# The engine ----------------------------------------------------------------------------------------

TIMED = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"timings":{"cache_n":4,"prompt_n":3,'
    b'"predicted_n":2,"predicted_ms":0.5}}\n\n'
)


def test_llama_cpp_s_timings_are_usage_that_nobody_asked_for() -> None:
    stream = ROLE % b"" + 2 * (TOKEN % b"") + TIMED + DONE
    for strip in (True, False):
        reader = Events(strip=strip)
        assert through(reader, stream) == stream
        assert reader.usage == Usage(7, 4, 2)
    for odd in (b'{"prompt_n":"x","predicted_n":-1}', b"[1]", b"null", b"{}"):
        reader = Events(strip=True)
        event = b'data: {"choices":[],"timings":%b}\n\n' % odd
        assert through(reader, event) == event
        assert reader.usage == Usage()


def stream_of(events: int, nulls: bool = False) -> Events:
    reader = Events(strip=False)
    reader.events, reader.nulls = events, nulls
    return reader


def test_tokens_of_an_event_are_the_mean_over_events_and_one_odd_answer_counts_little() -> None:
    habit = Habit()
    assert habit.tokens_in(100) == 100
    habit.learn(stream_of(0), 1000, unasked=False)  # what nobody saw teaches nothing
    assert habit.tokens_in(100) == 100
    for _ in range(10):
        habit.learn(stream_of(100), 250, unasked=False)
    assert habit.tokens_in(100) == 250
    habit.learn(stream_of(1), 1_000_000, unasked=False)
    assert habit.tokens_in(100) <= 250 + PER_EVENT_MAX / 10
    habit.learn(stream_of(100), None, unasked=False)
    assert habit.tokens_in(0) == 0


def test_an_engine_that_changes_is_believed_in_time() -> None:
    habit = Habit()
    for _ in range(1000):
        habit.learn(stream_of(1000), 1000, unasked=False)
    for _ in range(200):
        habit.learn(stream_of(1000), 4000, unasked=False)
    assert 390 <= habit.tokens_in(100) <= 400


def test_habits_are_bounded_and_kept_for_each_path_and_model() -> None:
    habits = Habits()
    first = habits.of("/a", "m")
    assert habits.of("/a", "m") is first
    assert habits.of("/b", "m") is not first
    for number in range(HABITS_MAX):
        habits.of("/a", f"m{number}")
        assert len(habits._kept) <= HABITS_MAX
    assert habits.of("/a", "m") is not first
