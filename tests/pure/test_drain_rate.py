"""The drain rate and what a client is told of it, by hand-worked numbers and by a second method."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.clock import MILLISECOND_NS, SECOND_NS
from fairlead.policy import DrainRate, whole_seconds

NOW = 1_000_000_000_000


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
