"""What a request costs in tokens: estimated, told by its node, or counted."""

from __future__ import annotations

import pytest

from fairlead.inspection import Facts
from fairlead.policy import COST_MAX, INPUT_MAX, USERS_MAX, Bill, TokenPrices
from fairlead.usage import Events, Habits

CHAT = "/v1/chat/completions"
TOLD = b'{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":30,"prompt_tokens_details":{"cached_tokens":4}}}'
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'


def prices(**changed: float) -> TokenPrices:
    return TokenPrices({"input": 1, "output": 2, "cached_input": 1} | changed)


def asking(path: str, may_ask: bool = True) -> Habits:
    """Of a node that has sent a stream without usage."""
    habits = Habits(may_ask)
    stream = Events(strip=False)
    stream.feed(TOKEN)
    habits.of(path, "m").learn(stream, None, unasked=True)
    return habits


def bill(of: TokenPrices | None = None, path: str = CHAT, context: int | None = None, **changed: object) -> Bill:
    """Of a request of user 7 with 41 bytes of text: eleven tokens."""
    facts = Facts(path, "m", False, 1, None, None, 500, 41)
    for name, value in changed.items():
        setattr(facts, name, value)
    return (of or prices()).bill(7, facts, context)


@pytest.mark.parametrize(
    ("changed", "estimate"),
    [
        ({}, 11 + 2 * 16),
        ({"max_tokens": 9}, 11 + 2 * 9),
        ({"max_tokens": 4096}, 11 + 2 * 16),
        ({"max_tokens": 0}, 11),
        ({"max_tokens": 9, "width": 3}, 11 + 3 * 2 * 9),
        ({"text_bytes": 1 << 40, "max_tokens": 0}, INPUT_MAX),
        ({"path": "/v1/embeddings"}, 11),
        ({"path": "/v1/responses"}, 11 + 2 * 16),
    ],
)
def test_an_estimate_is_the_input_and_what_the_user_is_wont_to_get(changed: dict[str, object], estimate: int) -> None:
    assert bill(**changed).estimate == 1000 * estimate


def test_prices_are_exact_to_the_thousandth_and_stop_at_the_core_s_limit() -> None:
    cheap = prices(input=0.1, output=0.125, cached_input=0.001)
    assert cheap.price(3, 5, 8) == 300 + 5 + 1000
    assert prices(output=1000).price(0, 0, 1 << 30) == COST_MAX
    assert bill(prices(input=0, output=0)).estimate == 1


def test_the_mean_of_a_user_s_answers_follows_them_and_is_his_own() -> None:
    """The mean of the first five; from then on each new one counts a fifth."""
    of = prices()
    assert of.expected_output(7) == 16
    means = []
    for output in (200, 100, 0, 300, 400, 700, 300):
        of.learn(7, output)
        means.append(of.expected_output(7))
    assert means == pytest.approx([200, 150, 100, 150, 200, 300, 300])
    assert of.expected_output(8) == 16
    assert bill(of).estimate == 1000 * (11 + 2 * 300)


def test_no_more_users_are_remembered_than_fit_and_the_latest_are() -> None:
    of = prices()
    for user in range(USERS_MAX):
        of.learn(user, 0)
    of.learn(0, 0)
    of.learn(USERS_MAX, 0)
    assert of.expected_output(1) == 16
    assert of.expected_output(0) == of.expected_output(USERS_MAX) == 0


def answered(of: Bill, data: bytes, *, stream: bool, status: int = 200) -> Bill:
    of.on_head(status, stream, False)
    of.feed(data)
    return of


def test_a_whole_answer_costs_what_the_node_says() -> None:
    of = prices(cached_input=0.5)
    paid = answered(bill(of), TOLD, stream=False)
    assert (paid.settle(True), paid.by) == (1000 * 6 + 500 * 4 + 2000 * 30, "usage")
    assert of.expected_output(7) == 30
    wide = answered(bill(of, width=2), TOLD, stream=False)
    wide.settle(True)
    assert of.expected_output(7) == (30 + 15) / 2
    paid = answered(bill(of, path="/v1/embeddings"), b'{"usage":{"prompt_tokens":9,"total_tokens":9}}', stream=False)
    assert (paid.settle(True), paid.by) == (9000, "usage")
    paid = answered(bill(stream=True), TOKEN + b"data: " + TOLD + b"\n\n", stream=True)
    assert (paid.settle(True), paid.by) == (1000 * 10 + 2000 * 30, "usage")


def test_without_usage_a_stream_costs_its_events_and_a_plain_answer_the_estimate() -> None:
    paid = answered(bill(stream=True), 5 * TOKEN, stream=True)
    assert (paid.settle(True), paid.by) == (1000 * (11 + 2 * 5), "events")
    paid = answered(bill(), b"{}", stream=False)
    assert (paid.settle(True), paid.by) == (1000 * (11 + 2 * 16), "estimate")
    paid = answered(bill(path="/api/chat", stream=True), b"{}\n{}\n", stream=False)
    assert (paid.settle(True), paid.by) == (1000 * (11 + 2 * 16), "estimate")


def test_who_leaves_pays_for_what_came_or_the_estimate_where_that_can_t_be_seen() -> None:
    of = prices()
    unseen = bill(of, stream=True)
    assert (unseen.settle(False), unseen.by) == (11_000, "events")
    assert of.expected_output(7) == 16
    paid = answered(bill(of, stream=True), 99 * TOKEN, stream=True)
    assert (paid.settle(False), paid.by) == (1000 * (11 + 2 * 99), "events")
    assert of.expected_output(7) == 99
    told = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":10,"completion_tokens":4}}\n\n'
    paid = answered(bill(stream=True), told, stream=True)
    assert (paid.settle(False), paid.by) == (1000 * (10 + 2 * 4), "events")
    for plain in (bill(), answered(bill(), b'{"cho', stream=False)):
        assert (plain.settle(False), plain.by) == (plain.estimate, "estimate")


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_of_the_node_costs_the_input(status: int) -> None:
    paid = answered(bill(), TOLD, stream=False, status=status)
    assert (paid.settle(True), paid.by) == (11_000, "estimate")


@pytest.mark.parametrize(
    ("path", "stream", "asked"),
    [
        (CHAT, True, True),
        ("/v1/completions", True, True),
        (CHAT, False, False),
        ("/v1/messages", True, False),
        ("/v1/responses", True, False),
    ],
)
def test_usage_is_asked_for_where_it_can_be(path: str, stream: bool, asked: bool) -> None:
    body = b'{"model":"m"}'
    assert (bill(path=path, stream=stream).request_body(body, asking(path)) != body) is asked
    assert bill(path=path, stream=stream).request_body(body, asking(path, may_ask=False)) == body


def test_a_node_is_asked_only_where_it_did_not_tell_unasked_and_only_what_asking_brought_is_taken_out() -> None:
    body, null, last = b'{"model":"m"}', b'data: {"choices":[1],"usage":null}\n\n', b"data: " + TOLD + b"\n\n"
    for unasked, asked, left in (
        (2 * TOKEN, 2 * TOKEN + null + last, 2 * TOKEN + b'data: {"choices":[1]}\n\n'),
        (2 * TOKEN + null, 2 * TOKEN + null + last, 2 * TOKEN + null),
        (2 * TOKEN + null + last, None, None),
    ):
        habits = Habits()
        for whole in (False, True):  # half a stream teaches nothing
            first = bill(stream=True)
            assert first.request_body(body, habits) == body
            first.on_head(200, True, False)
            assert first.feed(unasked) + first.rest() == unasked
            first.settle(whole)
        second = bill(stream=True)
        assert (second.request_body(body, habits) == body) is (asked is None)
        if asked is not None:
            second.on_head(200, True, False)
            assert second.feed(asked) + second.rest() == left
        assert bill(stream=True, path="/v1/completions").request_body(body, habits) == body


def test_who_leaves_a_stream_of_events_with_several_tokens_pays_for_all_of_them() -> None:
    habits = Habits()
    for data, whole, output in (
        (5 * TOKEN, False, 5),  # nothing is known yet
        (10 * TOKEN + b"data: " + TOLD + b"\n\n", True, 30),
        (9 * TOKEN, False, 27),
        (b"data: " + TOLD + b"\n\n", True, 30),  # text that nobody saw
        (9 * TOKEN, False, 27),
    ):
        paid = bill(stream=True)
        paid.request_body(b'{"model":"m"}', habits)
        paid = answered(paid, data, stream=True)
        assert paid.settle(whole) == 1000 * ((10 if whole else 11) + 2 * output)


def test_of_several_choices_all_are_charged_although_the_engine_reports_one() -> None:
    """llama.cpp: of a plain answer the first's, of a stream one by one."""
    for stream, per_choice, output in ((False, True, 60), (False, False, 30), (True, True, 59), (True, False, 59)):
        paid = bill(stream=stream, width=2)
        paid.request_body(b'{"model":"m"}', Habits(per_choice=per_choice))
        paid = answered(paid, (59 * TOKEN + b"data: " + TOLD + b"\n\n") if stream else TOLD, stream=stream)
        assert paid.settle(True) == 1000 * (10 + 2 * output)


@pytest.mark.parametrize(
    ("changed", "estimate"),
    [
        ({}, 11 + 2 * 9),
        ({"max_tokens": 5}, 11 + 2 * 5),
        ({"text_bytes": 4 << 20}, 20),
        ({"width": 2}, 11 + 2 * 2 * 15),  # two prompts of five tokens, for all that is known
        ({"width": 2, "text_bytes": 4 << 20}, 40),
        ({"path": "/v1/embeddings", "text_bytes": 4000}, 1000),  # many inputs, each of which fits
    ],
)
def test_an_estimate_is_no_more_than_fits_into_the_model(changed: dict[str, object], estimate: int) -> None:
    assert bill(context=20, **changed).estimate == 1000 * estimate


def test_only_an_answer_without_a_promised_length_is_shortened() -> None:
    null = b'data: {"choices":[1],"usage":null}\n\n'
    for has_length in (True, False):
        paid = bill(stream=True)
        assert paid.feed(null) == null
        paid.request_body(b'{"model":"m"}', asking(CHAT))
        paid.on_head(200, True, has_length)
        assert (paid.feed(null) + paid.rest() == null) is has_length
