"""Headers by name, and request ids."""

from __future__ import annotations

import os

from fairlead.wire.headers import Headers, key_of
from fairlead.wire.ids import make_request_id


def test_a_name_is_found_in_whatever_case_it_was_sent_and_asked_for() -> None:
    headers = Headers([("X-One", "1"), ("x-TWO", "2"), ("X-ONE", "3")])
    assert headers.pairs == [("X-One", "1"), ("x-TWO", "2"), ("X-ONE", "3")]
    assert headers.value(key_of("x-one")) == "1"
    assert headers.value(key_of("X-Two")) == "2"
    assert headers.value(key_of("X-Three")) is None
    assert (headers.is_repeated(key_of("x-one")), headers.is_repeated(key_of("x-two"))) == (True, False)


def test_more_names_than_are_remembered_stay_apart() -> None:
    names = [f"X-{number}" for number in range(5000)]
    for _ in range(2):  # the second time some are remembered, and some have lost their place
        for name in names:
            headers = Headers([(name, name)])
            assert headers.pairs == [(name, name)]
            assert headers.value(key_of(name)) == name


def test_whether_a_name_passes_is_asked_again_for_other_lists() -> None:
    headers = Headers([("Accept", "a"), ("Cookie", "b")])
    for _ in range(2):
        assert headers.lines(frozenset(("accept",)), "openai-", "") == b"Accept: a\r\n"
        assert headers.lines(frozenset(("cookie",)), "openai-", "X: y\r\n") == b"Cookie: b\r\nX: y\r\n"
        assert headers.lines(frozenset(), "acc", "") == b"Accept: a\r\n"


def test_a_copy_of_the_process_makes_other_ids() -> None:
    make_request_id()  # random bytes are left over for the next ones
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, make_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 32).decode() != make_request_id()
    os.close(reading)
    os.close(writing)
