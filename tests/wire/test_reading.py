"""The lane's reading against aiohttp's: what one takes for a request must be the same request to the other."""

from __future__ import annotations

from random import Random

import pytest
from aiohttp.http_exceptions import HttpProcessingError
from lone_lane import AiohttpReader, LoneLane, Seen
from streams import cut, stream_of

EXAMPLES = {"dev": 5_000, "ci": 50_000}


def read_by_aiohttp(stream: bytes) -> tuple[list[Seen], str]:
    """Its requests, one parser for each, byte by byte, so that it is known where each of them ends."""
    seen: list[Seen] = []
    at = 0
    while at < len(stream):
        reader = AiohttpReader()
        try:
            while at < len(stream) and not reader.whole:
                reader.feed(stream[at : at + 1])
                at += 1
        except HttpProcessingError:
            return seen, "refused"
        if not reader.whole:
            return seen, "more"
        seen += reader.seen
        if not seen[-1].keep:
            return seen, "closed"
    return seen, "more"


def read_by_lane(pieces: list[bytes]) -> LoneLane:
    lane = LoneLane()
    lane.feed(*pieces)
    return lane


def compare(stream: bytes, pieces: list[bytes]) -> LoneLane:
    lane, (expected, end) = read_by_lane(pieces), read_by_aiohttp(stream)
    read = lane.read
    assert read == expected[: len(read)], "read differently"
    if lane.end == "more":
        assert len(read) == len(expected) and end != "closed", "a request was not seen to its end"
    if lane.end == "closed":
        assert end == "closed"
    if lane.end == "aiohttp":  # it is stricter about targets that are no paths
        assert end == "refused"
    return lane


@pytest.mark.parametrize("seed", range(10))
def test_what_the_lane_accepts_aiohttp_reads_the_same_way(request: pytest.FixtureRequest, seed: int) -> None:
    """Also however it is cut: the whole in one piece gives the same."""
    random = Random(seed)
    accepted = refused = right = 0
    for number in range(EXAMPLES[request.config.getoption("--profile")] // 10):
        wrong = random.choice((0, 1, 1, 1, 2, 3))
        stream = stream_of(random, wrong)
        pieces = cut(stream, random)
        try:
            lane = compare(stream, pieces)
            whole = read_by_lane([stream])
            assert wrong or lane.end in ("more", "closed"), "a right request is refused"
            assert (whole.read, whole.end) == (lane.read, lane.end), "cut, it is read differently"
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, example {number}: {error}: {pieces}") from error
        right += not wrong
        accepted += len(lane.read)
        refused += lane.end not in ("more", "closed")
    assert accepted > number / 2 and refused > number / 4 and right > number / 8
