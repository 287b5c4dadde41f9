"""The generator against our node, and against servers that come and go."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from typing import Any

import pytest
from generator_runs import NONCE_AT, REQUEST, WAIT_S, ended, make, run_until
from load_servers import Peer, scripted

from fairlead.bench import Latencies
from fairlead.load.generator import FAULT_NAMES, Generator

# With a node -----------------------------------------------------------------------------------------


def test_the_books_of_both_sides_agree(serve: Any, loads: Any) -> None:
    node = serve()
    load = loads(node.ports[0], connections=32, users=5)
    window = load.run(0.3)
    rest = load.finish(WAIT_S)
    assert window.good > 0 and not window.faults and rest == 0
    assert load._generator.counts()["good"] == node.counts()["plain"] == load._generator.counts()["statuses"][200]
    assert window.latencies("latency").count == window.good
    assert window.counts["connects"] == 32 and window.counts["stale"] == 0
    assert load._generator.counts()["busy"] == 0


@pytest.mark.parametrize("pace_us", [0, 3000])
def test_streams_are_counted_chunk_by_chunk(serve: Any, loads: Any, pace_us: int) -> None:
    node = serve()
    load = loads(node.ports[0], connections=8, stream=True, tokens=20, pace_us=pace_us)
    window = load.run(0.4)
    assert load.finish(WAIT_S) == 0
    counts = load._generator.counts()
    assert window.good > 0 and not counts["faults"] and counts["flowing"] == 0
    assert counts["good"] == node.counts()["streams"]
    assert counts["chunks"] == node.counts()["chunks"] == 20 * counts["good"]
    kinds = {kind: Latencies(counts[kind]).count for kind in ("latency", "first", "gap", "transit")}
    assert kinds == {
        "latency": counts["good"],
        "first": counts["good"],
        "gap": 19 * counts["good"],
        "transit": counts["chunks"],
    }
    if pace_us:
        assert Latencies(counts["latency"]).percentile(1) >= 18 * pace_us / 1000  # ms


def test_a_reset_counts_from_zero_and_keeps_what_runs(serve: Any, loads: Any) -> None:
    node = serve()
    load = loads(node.ports[0], connections=4, stream=True, tokens=100_000, pace_us=1_000_000)
    load.settle(WAIT_S, 4)
    window = load.run(0.0)
    assert (window.counts["chunks"], window.counts["flowing"], window.counts["busy"]) == (0, 4, 4)
    load.close()
    end = time.monotonic() + WAIT_S
    while node.counts()["running"]:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert node.counts()["aborted"] == 4


def test_the_rate_of_an_open_loop_is_kept(serve: Any, loads: Any) -> None:
    node = serve()
    load = loads(node.ports[0], connections=16, rate=500.0)
    window = load.run(2.0)
    # Of 1,000 arrivals at exponential intervals the standard deviation is 32.
    assert abs(window.counts["arrivals"] - 500 * window.seconds) < 200
    assert load.finish(WAIT_S) == 0
    counts = load._generator.counts()
    assert counts["good"] == counts["arrivals"] and not counts["faults"]
    assert Latencies(counts["lag"]).count <= counts["arrivals"]


def test_arrivals_that_find_no_connection_wait_and_their_wait_counts(serve: Any, loads: Any) -> None:
    """Coordinated omission: 100 requests/s, one connection, and a node that takes 50 ms make the 30th wait for long."""
    node = serve(slots=1, service_ns=50_000_000)
    load = loads(node.ports[0], connections=1, rate=100.0)
    window = load.run(1.5)
    assert window.counts["unsent"] > 30
    found = window.latencies("latency")
    assert found.count <= 30
    assert found.percentile(100) > 400  # ms; a closed loop would see 50 for each
    assert found.percentile(1) >= 50


def test_users_go_round_and_every_nonce_is_new() -> None:
    seen: list[tuple[bytes, bytes]] = []

    def script(peer: Peer) -> None:
        while True:
            nonce = peer.request()
            seen.append((re.findall(rb"X: u(\d{7})", peer.head)[0], nonce))
            peer.good(nonce)

    with scripted(script) as port:
        generator = make(port, users=3)
        run_until(generator, lambda counts: counts["good"] >= 30)
        generator.close()
    assert [int(user) for user, _ in seen[:6]] == [0, 1, 2, 0, 1, 2]
    assert len({nonce for _, nonce in seen}) == len(seen)


def test_a_request_that_the_socket_takes_in_pieces_arrives_whole(loads: Any) -> None:
    bodies: list[bytes] = []

    def script(peer: Peer) -> None:
        time.sleep(0.2)  # until both sockets are full
        while True:
            nonce = peer.request()
            bodies.append(peer.body)
            peer.good(nonce)

    with scripted(script) as port:
        load = loads(port, connections=1, body=8_000_000)
        run_until(load._generator, lambda counts: counts["good"] >= 1)
        load.close()
    assert len(bodies[0]) == 8_000_000 and bodies[0].endswith(b"}")


def test_a_server_that_resets_a_long_request_cuts_it(loads: Any) -> None:
    def script(peer: Peer) -> None:
        peer.socket.recv(1000)
        peer.reset()

    with scripted(script) as port:
        load = loads(port, connections=1, body=8_000_000)
        counts = run_until(load._generator, lambda counts: ended(counts) >= 2)
        load.close()
    assert set(counts["faults"]) == {"cut"} and counts["good"] == 0


def test_a_server_may_refuse_a_long_request_before_it_is_sent(loads: Any) -> None:
    def script(peer: Peer) -> None:
        peer.socket.recv(1000)
        peer.answer(b"{}", 413, "Connection: close\r\n")
        time.sleep(0.5)

    with scripted(script) as port:
        load = loads(port, connections=1, body=8_000_000)
        counts = run_until(load._generator, lambda counts: ended(counts) >= 1)
        load.close()
    assert set(counts["faults"]) == {"status"} and set(counts["statuses"]) == {413}


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_addresses_may_be_of_ipv6() -> None:
    try:
        with scripted(lambda peer: peer.good(peer.request()), socket.AF_INET6) as port:
            generator = make(port, "::1")
            run_until(generator, lambda counts: counts["good"] >= 1)
            generator.close()
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")


# Connections that come and go -------------------------------------------------------------------------


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    generator = make(port, connections=3)
    counts = run_until(generator, lambda counts: ended(counts) >= 6)
    assert set(counts["faults"]) == {"refused"} and counts["connects"] == 0
    assert generator.finish(1.0) == 0
    with scripted(lambda peer: peer.good(peer.request())) as other:
        assert other != port
    generator.close()


def test_nobody_accepts_and_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        before, most = len(os.listdir("/proc/self/fd")), 0
        generator = make(server.getsockname()[1], connections=400, timeout_ns=60_000_000)

        def enough(counts: dict[str, Any]) -> bool:
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/fd")) - before)
            return bool(counts["faults"].get("refused", 0) > 400)

        assert run_until(generator, enough)["good"] == 0
        assert most < 300  # no more than 256 try at once
        generator.close()
    generator = make(9, "255.255.255.255")
    assert set(run_until(generator, lambda counts: ended(counts) >= 2)["faults"]) == {"refused"}
    generator.close()


def test_arrivals_beyond_all_bounds_are_counted_and_forgotten() -> None:
    with scripted(lambda peer: peer.socket.recv(1) and time.sleep(0.1)) as port:
        generator = make(port, rate=1e7)
        counts = run_until(generator, lambda counts: counts["missed"] > 0)
        generator.close()
    assert counts["unsent"] == 1 << 20


def test_who_is_full_is_asked_again_when_there_is_room(serve: Any, loads: Any) -> None:
    """The node closes surplus connections at once: those requests are cut, the others are good, nobody hangs."""
    node = serve(connections_max=2)
    load = loads(node.ports[0], connections=4)
    window = load.run(0.3)
    assert window.good > 0 and set(window.faults) <= {"cut", "refused"}
    assert load.finish(WAIT_S) == 0


def test_a_connection_that_was_closed_meanwhile_is_no_fault() -> None:
    """As llama.cpp does after a stream: no announcement, the next request on it is lost, and asked again once."""
    connections: list[int] = []

    def script(peer: Peer) -> None:
        connections.append(peer.number)
        peer.good(peer.request())
        peer.request()

    with scripted(script) as port:
        generator = make(port)
        counts = run_until(generator, lambda counts: counts["good"] >= 5)
        generator.finish(WAIT_S)
        generator.close()
    assert not counts["faults"]
    assert counts["stale"] >= 4 and counts["connects"] >= 5
    assert len(connections) >= 5


def test_an_answer_that_had_begun_is_not_asked_for_again() -> None:
    def script(peer: Peer) -> None:
        peer.good(peer.request())
        peer.request()
        peer.send(b"HTTP/1.1 2")

    with scripted(script) as port:
        generator = make(port)
        counts = run_until(generator, lambda counts: counts["good"] >= 3)
        generator.close()
    assert set(counts["faults"]) == {"cut"} and counts["stale"] == 0


def test_what_was_asked_twice_in_vain_is_a_fault() -> None:
    def script(peer: Peer) -> None:
        if peer.number == 0:
            peer.good(peer.request())
        peer.request()

    with scripted(script) as port:
        generator = make(port)
        counts = run_until(generator, lambda counts: ended(counts) >= 3)
        generator.close()
    assert counts["good"] == 1 and set(counts["faults"]) == {"cut"}
    assert counts["stale"] == 1


def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    def script(peer: Peer) -> None:
        nonce = peer.request()
        peer.answer(b"bench:" + nonce, more="Connection: close\r\n")
        with pytest.raises(EOFError):
            peer.request()

    with scripted(script) as port:
        generator = make(port)
        counts = run_until(generator, lambda counts: counts["good"] >= 3)
        generator.close()
    assert not counts["faults"] and not counts["stale"] and counts["connects"] >= 3


def test_an_idle_connection_that_closes_is_replaced() -> None:
    def script(peer: Peer) -> None:
        if peer.number < 3:
            time.sleep(0.05 * peer.number)
            return
        while True:
            peer.good(peer.request())

    with scripted(script) as port:
        generator = make(port, connections=3, rate=1e-6)
        counts = run_until(generator, lambda counts: counts["connects"] >= 6)
        generator.close()
    assert set(counts["faults"]) <= {"cut"} and counts["busy"] <= 1


def test_work_goes_on_while_idle_connections_come_and_go() -> None:
    def script(peer: Peer) -> None:
        peer.socket.settimeout(0.03)
        while True:
            peer.good(peer.request())

    with scripted(script) as port:
        generator = make(port, connections=4, rate=50.0)
        counts = run_until(generator, lambda counts: counts["connects"] >= 40)
        generator.finish(WAIT_S)
        generator.close()
    assert not counts["faults"] and counts["good"] >= counts["arrivals"] - 4 > 0


def test_the_end_waits_for_what_is_asked_again() -> None:
    asked, close = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.good(peer.request())
        if peer.number == 0:
            peer.request()
            asked.set()
            close.wait(WAIT_S)

    with scripted(script) as port:
        generator = make(port)
        run_until(generator, lambda counts: asked.is_set())
        later = threading.Timer(0.1, close.set)
        later.start()
        assert generator.finish(WAIT_S) == 0
        later.join()
        assert generator.counts()["good"] == 2 and generator.counts()["stale"] == 1
        generator.close()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"address": "localhost"}, "address"),
        ({"address": "127.0.0.1" + "0" * 60}, "address"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"connections": 0}, "connections"),
        ({"users": 0}, "users"),
        ({"users": 10**7 + 1}, "users"),
        ({"rate": -1.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"nonce_at": len(REQUEST) - 15}, "nonce_at"),
        ({"user_at": len(REQUEST) - 6}, "user_at"),
        ({"length": -1}, "length"),
        ({"timeout_ns": 0}, "timeout_ns"),
        ({"request": REQUEST + b"x" * (1 << 20), "connections": 1025}, "connections x size"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], told: str) -> None:
    given = {"address": "127.0.0.1", "port": 9, "request": REQUEST, "nonce_at": NONCE_AT} | options
    with pytest.raises(ValueError, match=told):
        Generator(given.pop("address"), given.pop("port"), given.pop("request"), **given)


def test_limits_of_the_process_and_the_end() -> None:
    with pytest.raises(OSError, match="ulimit"):
        make(9, connections=1 << 20)
    generator = make(9)
    with pytest.raises(ValueError, match="seconds"):
        generator.run(-1.0)
    generator.close()
    generator.close()
    with pytest.raises(ValueError, match="closed"):
        generator.run(0.0)
    with pytest.raises(ValueError, match="closed"):
        generator.finish(0.0)
    assert len(FAULT_NAMES) == 8
