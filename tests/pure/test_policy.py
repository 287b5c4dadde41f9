"""Deadlines, request ids and the drain rate, by hand-worked numbers and by a second method."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.clock import MILLISECOND_NS, SECOND_NS
from fairlead.config import Config, load
from fairlead.config_schema import TIERS
from fairlead.errors import ApiError
from fairlead.identity import User
from fairlead.inspection import Facts
from fairlead.policy import (
    COST_MAX,
    INPUT_MAX,
    USERS_MAX,
    Bill,
    DrainRate,
    Terms,
    TokenPrices,
    whole_seconds,
)
from fairlead.usage import Events, Habits
from fairlead.wire.headers import Headers
from fairlead.wire.ids import make_request_id, sane_request_id

NOW = 1_000_000_000_000
ALICE = User("alice", 1, 3, 0, 0, 1, None)


@pytest.fixture(scope="module")
def config() -> Config:
    return load(None, env={})


def times(config: Config, **headers: str) -> tuple[float, bool, float]:
    """(queue s, never wait, total s) from now."""
    names = {"request": "x-request-timeout-ms", "queue": "x-queue-timeout-ms"}
    queue_ns, never_wait, total_ns = Terms(config).deadlines(Headers((names[k], v) for k, v in headers.items()), NOW)
    return (queue_ns - NOW) / SECOND_NS, never_wait, (total_ns - NOW) / SECOND_NS


# Numbers for the core ------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "weight"), [("wfq", 3), ("token_wfq", 3), ("round_robin", 1), ("fifo", 1)])
def test_only_fair_queueing_weighs_users(tmp_path: Path, policy: str, weight: int) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(f"nodes: [http://127.0.0.1:1]\nqueue: {{policy: {policy}}}\n")
    assert Terms(load(path, env={})).weight(ALICE) == weight


@pytest.mark.parametrize(
    ("own", "asked", "tier"),
    [
        ("normal", None, 1),
        ("normal", "high", 1),
        ("normal", "low", 2),
        ("high", None, 0),
        ("high", "high", 0),
        ("high", "normal", 1),
        ("low", "high", 2),
    ],
)
def test_a_tier_is_what_is_asked_for_and_no_higher_than_the_user_s(
    config: Config, own: str, asked: str | None, tier: int
) -> None:
    user = User("alice", 1, 3, 0, 0, TIERS.index(own), None)
    headers = Headers([] if asked is None else [("x-priority", asked)])
    assert Terms(config).tier(headers, user) == tier


def test_a_word_that_is_no_priority_is_named(config: Config) -> None:
    with pytest.raises(ApiError) as caught:
        Terms(config).tier(Headers([("X-Priority", "urgent")]), ALICE)
    assert (caught.value.code, caught.value.param) == ("invalid_header", "X-Priority")
    assert caught.value.message == "the header X-Priority is 'urgent': it must be high, normal or low"


# Tokens --------------------------------------------------------------------------------------------

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


# Deadlines -----------------------------------------------------------------------------------------


def test_without_headers_the_configuration_decides(config: Config) -> None:
    assert times(config) == (60, False, 3600)


def test_the_whole_budget_bounds_the_wait_too(config: Config) -> None:
    assert times(config, request="1500") == (1.5, False, 1.5)
    assert times(config, request="120000") == (60, False, 120)


def test_a_client_can_shorten_only(config: Config) -> None:
    assert times(config, request="86400000", queue="86400000") == (60, False, 3600)
    assert times(config, queue="250") == (0.25, False, 3600)
    assert times(config, queue="250", request="100") == (0.1, False, 0.1)


def test_zero_means_never_wait_and_leaves_the_deadline(config: Config) -> None:
    assert times(config, queue="0") == (60, True, 3600)
    assert times(config, queue="0", request="100") == (0.1, True, 0.1)


@pytest.mark.parametrize("name", ["X-Request-Timeout-Ms", "X-Queue-Timeout-Ms"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "1_000",
        " 1",
        "\u0661",
        "\u00b2",
        "0x10",
        "01",
        "86400001",
        "9" * 20,
        "9" * 5000,
        "NaN",
        "a\nb",
    ],
)
def test_anything_but_a_bounded_integer_is_refused(config: Config, name: str, value: str) -> None:
    with pytest.raises(ApiError) as caught:
        Terms(config).deadlines(Headers([(name, value)]), NOW)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_header", name)
    assert name in error.message
    assert "86400000" in error.message
    assert error.message.isprintable()
    assert len(error.message) < 250


def test_no_budget_at_all_is_refused(config: Config) -> None:
    with pytest.raises(ApiError, match=r"X-Request-Timeout-Ms is '0': it must be an integer 1\.\.86400000"):
        Terms(config).deadlines(Headers([("X-Request-Timeout-Ms", "0")]), NOW)


def test_a_header_given_twice_is_refused(config: Config) -> None:
    twice = Headers([("X-Queue-Timeout-Ms", "5"), ("x-queue-timeout-ms", "5")])
    with pytest.raises(ApiError) as caught:
        Terms(config).deadlines(twice, NOW)
    assert caught.value.code == "invalid_header"


def test_a_short_total_of_the_configuration_bounds_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("nodes: [http://127.0.0.1:1]\ntimeouts: {total: 5s}\n")
    assert times(load(path, env={})) == (5, False, 5)


# Request ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "A-b_c.9", "x" * 128])
def test_a_sane_id_is_taken(value: str) -> None:
    assert sane_request_id(value) == value


@pytest.mark.parametrize("value", [None, "", "x" * 129, "a b", "a\n", "a\r\nb", "é", "a/b", "\uff11"])
def test_any_other_id_is_not(value: str | None) -> None:
    assert sane_request_id(value) is None


def test_made_ids_are_sane_and_differ() -> None:
    ids = {make_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(sane_request_id(each) for each in ids)


# Drain rate ----------------------------------------------------------------------------------------


def at(seconds: float) -> int:
    return NOW + int(seconds * SECOND_NS)


def test_before_any_measure_there_is_no_estimate() -> None:
    rate = DrainRate(NOW)
    rate.started(at(0))
    rng = random.Random(1)
    assert rate.per_second(at(10)) is None
    assert rate.estimated_wait_s(at(10), 5) is None
    waits = [rate.retry_after_ms(at(10), 5, rng) for _ in range(200)]
    assert 1000 <= min(waits) < 1100
    assert 1900 < max(waits) <= 2000


def test_four_requests_of_two_seconds_on_four_slots_are_two_a_second() -> None:
    rate = DrainRate(NOW)
    for turn in range(10):
        for _ in range(4):
            rate.started(at(2 * turn))
        for _ in range(4):
            rate.ended(at(2 * turn + 2))
    assert rate.per_second(at(20)) == pytest.approx(2)
    assert rate.estimated_wait_s(at(20), 1) == 1
    assert rate.estimated_wait_s(at(20), 7) == 4
    assert rate.estimated_wait_s(at(20), 100) == 50


def test_a_quiet_night_does_not_count() -> None:
    rate = DrainRate(NOW)
    for second in range(4):
        rate.started(at(second))
        rate.ended(at(second + 1))
    assert rate.per_second(at(4)) == pytest.approx(1)
    for later in (20, 33.9, 40, 100_000):
        assert rate.per_second(at(later)) == pytest.approx(1)
    rate.started(at(100_000))
    rate.ended(at(100_000.5))
    assert rate.per_second(at(100_001)) == pytest.approx(5 / 4.5)


def test_a_pool_that_hangs_is_no_faster_than_one_in_the_time_it_hung() -> None:
    rate = DrainRate(NOW)
    rate.started(at(0))
    rate.ended(at(1))
    rate.started(at(1))
    assert rate.per_second(at(1)) == pytest.approx(1)
    assert rate.per_second(at(100)) == pytest.approx(1 / 30, rel=0.05)
    assert rate.estimated_wait_s(at(100), 1) in (29, 30)


@pytest.mark.parametrize("later", range(30, 95))
def test_what_ended_before_the_window_is_forgotten_after_any_leap(later: int) -> None:
    rate = DrainRate(NOW)
    rate.started(at(0))
    rate.started(at(0))
    rate.ended(at(0.5), count=50)
    measured = rate.per_second(at(later))
    assert measured is not None
    assert measured <= 1 / 29


def test_a_request_that_went_back_to_the_queue_drained_nothing() -> None:
    rate = DrainRate(NOW)
    rate.started(at(0))
    rate.ended(at(1), count=0)
    assert rate.per_second(at(1)) is None
    rate.started(at(1))
    rate.ended(at(2))
    assert rate.per_second(at(2)) == pytest.approx(0.5)


def test_requests_that_take_no_time_divide_by_nothing() -> None:
    rate = DrainRate(NOW)
    rate.started(NOW)
    rate.ended(NOW)
    assert rate.estimated_wait_s(NOW, 1) == 1


@given(st.lists(st.tuples(st.sampled_from(["started", "ended", "look"]), st.integers(0, 40_000)), max_size=60))
def test_the_rate_is_that_of_a_plain_count_over_the_window(steps: list[tuple[str, int]]) -> None:
    """The second method keeps the working time of every end and counts those within the window."""
    rate, now_ms, worked_ms, running = DrainRate(0), 0, 0, 0
    ends: list[int] = []
    for step, wait_ms in steps:
        now_ms += wait_ms
        worked_ms += wait_ms if running else 0
        if step == "started":
            rate.started(now_ms * MILLISECOND_NS)
            running += 1
        elif step == "ended" and running:
            rate.ended(now_ms * MILLISECOND_NS)
            running -= 1
            ends.append(worked_ms)
        origin_ms = max(0, (worked_ms // 1000 - 29) * 1000)
        window_s = max(worked_ms - origin_ms, 1) / 1000
        ended = sum(end >= origin_ms for end in ends)
        measured = rate.per_second(now_ms * MILLISECOND_NS)
        if not ends:
            assert measured is None
        elif ended:
            assert measured == pytest.approx(ended / window_s)
        else:
            assert measured is not None
            assert 0 < measured <= 1 / window_s


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.integers(0, 2**32))
def test_retry_after_is_always_within_what_clients_obey(position: int, ended: int, seed: int) -> None:
    rate = DrainRate(NOW)
    rate.started(NOW)
    rate.ended(at(1), count=ended)
    wait_ms = rate.retry_after_ms(at(1), position, random.Random(seed))
    assert 1000 <= wait_ms <= 59_000
    assert 1 <= whole_seconds(wait_ms) <= 59
    assert whole_seconds(wait_ms) * 1000 >= wait_ms
    wanted_ms = position / ended * 1000
    if 1250 < wanted_ms < 49_000:
        assert 0.8 * wanted_ms - 1 <= wait_ms <= 1.2 * wanted_ms + 1


def test_one_seed_one_answer() -> None:
    rate = DrainRate(NOW)
    assert rate.retry_after_ms(NOW, 1, random.Random(7)) == rate.retry_after_ms(NOW, 1, random.Random(7))
