"""One user per request, and no second share for made-up names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.config import Config, load
from fairlead.errors import ApiError
from fairlead.identity import CACHED_MAX, Identity
from fairlead.wire.headers import Headers

LOCAL = "127.0.0.1"
STRANGER = "203.0.113.9"


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(pairs)


ALICE = headers(("x-user-id", "alice"))
NOBODY = headers()


def configured(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "fairlead.yaml"
    path.write_text("nodes: [http://127.0.0.1:1]\n" + text)
    return load(path, env={})


@pytest.fixture
def identity() -> Identity:
    return Identity(load(None, env={}))


def test_a_trusted_proxy_names_the_user(identity: Identity) -> None:
    assert identity.user(ALICE, LOCAL, None).name == "alice"
    assert identity.user(ALICE, "::1", None).name == "alice"
    assert identity.user(ALICE, "::ffff:127.0.0.1", None).name == "alice"


def test_strangers_are_their_address_whatever_they_claim(identity: Identity) -> None:
    users = {identity.user(headers(("X-User-Id", f"name-{i}")), STRANGER, f"body-{i}") for i in range(50)}
    assert [user.name for user in users] == [STRANGER]


def test_a_strangers_bad_name_is_not_even_read(identity: Identity) -> None:
    assert identity.user(headers(("X-User-Id", "a\tb"), ("X-User-Id", "c")), STRANGER, None).name == STRANGER


def test_one_address_in_two_spellings_is_one_user(identity: Identity) -> None:
    assert identity.user(NOBODY, f"::ffff:{STRANGER}", None) == identity.user(NOBODY, STRANGER, None)
    assert identity.user(NOBODY, "2001:DB8:0::1", None) == identity.user(NOBODY, "2001:db8::1", None)


def test_without_a_name_it_is_the_address(identity: Identity) -> None:
    assert identity.user(NOBODY, LOCAL, None).name == LOCAL
    assert identity.user(headers(("X-User-Id", "")), LOCAL, None).name == LOCAL
    assert identity.user(ALICE, None, None).name == "unknown"


def test_an_address_and_a_name_that_look_the_same_are_two_users(identity: Identity) -> None:
    named = identity.user(headers(("X-User-Id", STRANGER)), LOCAL, None)
    assert named.key != identity.user(NOBODY, STRANGER, None).key


@pytest.mark.parametrize("name", ["a\tb", "\x7f", "x" * 129, "\udcff", "a\u2028b"])
def test_a_trusted_name_must_be_printable_and_short(identity: Identity, name: str) -> None:
    with pytest.raises(ApiError) as caught:
        identity.user(headers(("X-User-Id", name)), LOCAL, None)
    assert (caught.value.code, caught.value.param) == ("invalid_header", "X-User-Id")
    assert caught.value.message.isprintable()


def test_a_name_given_twice_is_refused(identity: Identity) -> None:
    with pytest.raises(ApiError) as caught:
        identity.user(headers(("X-User-Id", "alice"), ("x-user-id", "bob")), LOCAL, None)
    assert caught.value.code == "invalid_header"


def test_the_body_counts_only_where_configured(tmp_path: Path, identity: Identity) -> None:
    assert identity.user(NOBODY, LOCAL, "bob").name == LOCAL
    configured_one = Identity(configured(tmp_path, "identity: [{body: user}, {header: X-Team}]"))
    assert configured_one.user(NOBODY, LOCAL, "bob").name == "bob"
    assert configured_one.user(headers(("X-Team", "blue")), LOCAL, None).name == "blue"
    assert configured_one.user(NOBODY, STRANGER, "bob").name == STRANGER
    with pytest.raises(ApiError) as caught:
        configured_one.user(NOBODY, LOCAL, "x" * 129)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "user")


def test_first_match_wins(tmp_path: Path) -> None:
    chain = Identity(configured(tmp_path, "identity: [{header: X-A}, {header: X-B}]"))
    assert chain.user(headers(("X-B", "b"), ("X-A", "a")), LOCAL, None).name == "a"
    assert chain.user(headers(("X-B", "b")), LOCAL, None).name == "b"
    first = Identity(configured(tmp_path, "identity: [client_address, {header: X-A}]"))
    assert first.user(headers(("X-A", "a")), LOCAL, None).name == LOCAL


def test_a_header_and_a_body_of_one_name_are_one_user(tmp_path: Path) -> None:
    both = Identity(configured(tmp_path, "identity: [{header: X-User-Id}, {body: user}]"))
    assert both.user(ALICE, LOCAL, None) is both.user(NOBODY, LOCAL, "alice")


def test_trust_follows_the_configuration(tmp_path: Path) -> None:
    other = Identity(configured(tmp_path, 'trusted_proxies: [203.0.113.0/24, "::ffff:10.0.0.0/104"]'))
    assert other.user(ALICE, STRANGER, None).name == "alice"
    assert other.user(ALICE, "10.1.2.3", None).name == "alice"
    assert other.user(ALICE, LOCAL, None).name == LOCAL
    assert Identity(configured(tmp_path, "trusted_proxies: []")).user(ALICE, LOCAL, None).name == LOCAL


def test_numbers_come_from_the_users_entry(tmp_path: Path) -> None:
    text = """\
users: {default: {weight: 2}, alice: {weight: 3, max_in_flight: 8, priority: high, team: red}}
teams: {red: }
queue: {max_waiting_per_user: 7}
"""
    known = Identity(configured(tmp_path, text))
    alice = known.user(ALICE, LOCAL, None)
    assert (alice.weight, alice.running_max, alice.waiting_max, alice.tier, alice.team) == (3, 8, 7, 0, "red")
    other = known.user(NOBODY, STRANGER, None)
    assert (other.weight, other.running_max, other.waiting_max, other.tier, other.team) == (2, 0, 7, 1, None)


def test_keys_are_the_same_in_every_process_of_one_seed(identity: Identity) -> None:
    config = load(None, env={})
    key = identity.user(ALICE, LOCAL, None).key
    assert Identity(config).user(ALICE, LOCAL, None).key == key
    assert Identity(config, seed=1).user(ALICE, LOCAL, None).key != key
    # By the definition, with hashlib alone.
    digest = hashlib.blake2b(b"name\0alice", digest_size=8, key=bytes(8)).digest()
    assert key == int.from_bytes(digest, "little")


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=128), unique=True, max_size=20))
def test_keys_differ_and_fit(names: list[str]) -> None:
    identity = Identity(load(None, env={}))
    printable = [name for name in names if name.isprintable()]
    keys = {identity.user(headers(("X-User-Id", name)), LOCAL, None).key for name in printable}
    assert len(keys) == len(printable)
    assert all(0 <= key < 2**64 for key in keys)


def test_caches_are_bounded(identity: Identity) -> None:
    for number in range(CACHED_MAX + 10):
        identity.user(NOBODY, f"10.0.{number >> 8}.{number & 255}", None)
        identity.user(headers(("X-User-Id", f"u{number}")), LOCAL, None)
        assert len(identity._named) <= CACHED_MAX
        assert len(identity._peers) <= CACHED_MAX
