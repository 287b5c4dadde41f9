"""Numbers for the core, deadlines and request ids, by hand-worked numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.clock import SECOND_NS
from fairlead.config import Config, load
from fairlead.config_schema import TIERS
from fairlead.errors import ApiError
from fairlead.identity import User
from fairlead.policy import Terms
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
