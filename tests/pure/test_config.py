"""The configuration: what loads, and the table of its keys."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network
from pathlib import Path

import pytest

from fairlead.clock import SECOND_NS
from fairlead.config import IdentitySource, LogConfig, NodeConfig, UserConfig, config_keys, load
from fairlead.config_schema import NODE, SECTIONS, TEAM, TOP, USER
from fairlead.errors import ConfigError
from pure.config_text import NODES, fault, read

EXAMPLE = """\
listen: 127.0.0.1:8080            # public
admin: 127.0.0.1:8081             # off: admin: none
trusted_proxies: [127.0.0.0/8, "::1"]
nodes:
  - {name: gpu-a, url: "http://10.0.0.11:8000", slots: auto, engine: auto, api_key: "${GPU_A_KEY:-}"}
queue: {policy: wfq, max_waiting: 1000, max_waiting_per_user: 500, max_bytes: 256MiB, timeout: 60s, no_node_wait: 10s}
routing: {policy: score, gpu_weight: 0.3, queue_weight: 0.7}
identity: [{header: X-User-Id}, client_address]
users:
  alice: {weight: 3, max_in_flight: 8}
timeouts: {body: 30s, connect: 1s, first_byte: 120s, idle: 30s, total: 1h, keep_alive: 60s, drain: 300s}
limits: {body: 32MiB, connections: 20000, width: 16}
health: {period: 2s, timeout: 2s, unhealthy_after: 2, healthy_after: 1}
log: {level: info}
"""


# What loads ----------------------------------------------------------------------------------------


def test_the_example_is_the_defaults_with_a_node_and_a_user(file: Path) -> None:
    config = read(file, EXAMPLE)
    assert config.nodes == (NodeConfig("gpu-a", "http://10.0.0.11:8000"),)
    assert dict(config.users) == {"alice": UserConfig(3, 8, "normal", None)}
    assert dataclasses.replace(config, nodes=(), users={}) == dataclasses.replace(load(None, env={}), users={})


def test_defaults() -> None:
    config = load(None, env={})
    assert (config.listen, config.admin) == (("127.0.0.1", 8080), ("127.0.0.1", 8081))
    assert config.trusted_proxies == (ip_network("127.0.0.0/8"), ip_network("::1"))
    assert config.identity == (IdentitySource("header", "X-User-Id"), IdentitySource("client_address", ""))
    assert (config.queue.max_bytes, config.queue.timeout_ns) == (256 * 1024**2, 60 * SECOND_NS)
    assert (config.timeouts.total_ns, config.limits.body) == (3600 * SECOND_NS, 32 * 1024**2)
    assert (config.routing.gpu_weight, config.health.period_ns) == (0.3, 2 * SECOND_NS)
    assert config.log == LogConfig("info", "stdout")
    assert (config.nodes, config.default_user) == ((), UserConfig(1, 0, "normal", None))


def test_a_configuration_is_frozen(file: Path) -> None:
    config = read(file, EXAMPLE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.queue.max_waiting = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.users["bob"] = config.default_user  # type: ignore[index]


def test_nodes_may_be_plain_urls_and_flags_come_behind(file: Path) -> None:
    text = "nodes: [http://a:1, {url: https://B/base/}]"
    config = read(file, text, nodes=["http://[::1]:3"])
    assert [(node.name, node.url) for node in config.nodes] == [
        ("a:1", "http://a:1"),
        ("b:443-base", "https://b/base"),
        ("[::1]:3", "http://[::1]:3"),
    ]
    assert load(None, nodes=["http://a:1", "http://a:2"], env={}).nodes[1] == NodeConfig("a:2", "http://a:2")


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTP://Host:80/", "http://host"),
        ("https://h:443", "https://h"),
        ("http://h:443/a/b//", "http://h:443/a/b"),
        ("http://[::0001]:8000", "http://[::1]:8000"),
        ("http://my_host.local:65535", "http://my_host.local:65535"),
    ],
)
def test_a_url_has_one_spelling(url: str, canonical: str) -> None:
    assert load(None, nodes=[url], env={}).nodes[0].url == canonical


def test_a_full_node(file: Path) -> None:
    (file.parent / "key.txt").write_text("s3cret\n")
    text = """\
nodes:
  - {name: a, url: http://a:1, slots: 4, engine: vllm, api_key: abc, paths: [/api/chat, /generate]}
  - {name: b, url: http://b:1, api_key_file: key.txt}
  - {name: c, url: http://c:1, api_key: ""}
"""
    a, b, c = read(file, text).nodes
    assert a == NodeConfig("a", "http://a:1", 4, "vllm", "abc", ("/api/chat", "/generate"))
    assert (b.api_key, c.api_key) == ("s3cret", None)
    assert "abc" not in repr(a)


def test_a_user_takes_from_default_what_its_entry_leaves_out(file: Path) -> None:
    config = read(
        file, NODES + "users: {alice: {weight: 5}, default: {max_in_flight: 4}, bob: {max_in_flight: 0}, carol: }"
    )
    assert dict(config.users) == {
        "alice": UserConfig(5, 4, "normal", None),
        "bob": UserConfig(1, 0, "normal", None),
        "carol": UserConfig(1, 4, "normal", None),
    }
    assert config.default_user == UserConfig(1, 4, "normal", None)


def test_empty_sections_are_sections_without_keys(file: Path) -> None:
    assert read(file, NODES + "queue:\nusers: {}\nlimits: ~\n").queue == load(None, env={}).queue


def test_other_forms(file: Path) -> None:
    text = 'listen: "[::]:0"\nadmin: none\ntrusted_proxies: ["::ffff:10.0.0.0/104"]\nidentity: [{body: user}]\n'
    config = read(file, NODES + text)
    assert (config.listen, config.admin) == (("::", 0), None)
    assert config.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert config.identity == (IdentitySource("body", "user"),)


def test_a_byte_order_mark_and_line_ends_of_windows_are_fine(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfnodes:\r\n- http://a:1\r\n")
    assert load(file, env={}).nodes[0].name == "a:1"


@pytest.mark.parametrize(
    ("text", "nanoseconds"), [("250ms", 250 * 10**6), ("30s", 30 * 10**9), ("1m", 60 * 10**9), ("24h", 86400 * 10**9)]
)
def test_durations(file: Path, text: str, nanoseconds: int) -> None:
    assert read(file, f"{NODES}timeouts: {{total: {text}}}").timeouts.total_ns == nanoseconds


@pytest.mark.parametrize(("text", "size"), [("1024", 1024), ("64KiB", 65536), ("32MiB", 2**25), ("1GiB", 2**30)])
def test_sizes(file: Path, text: str, size: int) -> None:
    assert read(file, f"{NODES}limits: {{body: {text}}}").limits.body == size


@pytest.mark.parametrize("target", ["stdout", "stderr", "none", "/var/log/requests.jsonl", "./requests.jsonl", "../r"])
def test_where_requests_are_logged(file: Path, target: str) -> None:
    assert read(file, f"{NODES}log: {{requests: {target}}}").log == LogConfig("info", target)


# Variables -----------------------------------------------------------------------------------------


def test_variables(file: Path) -> None:
    text = "nodes: ['http://${HOST}:${PORT:-8000}', {url: 'http://b:1', slots: '${SLOTS:-auto}', api_key: '${KEY}'}]"
    a, b = read(file, text, HOST="a", SLOTS="", KEY="x${HOST}").nodes
    assert (a.url, b.slots, b.api_key) == ("http://a:8000", None, "x${HOST}")


def test_a_missing_variable_is_named(file: Path) -> None:
    assert fault(file, "nodes:\n- {url: 'http://a:1', api_key: '${KEY_A}'}\n") == (
        "f.yaml:2: nodes[0].api_key: the environment variable KEY_A is not set: set it or write ${KEY_A:-default}"
    )


@pytest.mark.parametrize("text", ["${", "${}", "${1X}", "${A-b}", "${A:=b}", "${A:-b"])
def test_a_broken_variable_is_no_text(file: Path, text: str) -> None:
    assert "f.yaml:2: log.level: has a ${ that names no variable" in fault(
        file, f"{NODES}log: {{level: '{text}'}}", A="info"
    )


def test_an_unquoted_variable_in_braces_is_explained(file: Path) -> None:
    message = fault(file, "nodes:\n- {url: http://a:1, api_key: ${KEY}}\n")
    assert message.startswith("f.yaml:2: not valid YAML: ")
    assert message.endswith("put quotes around ${...} inside {} and []")


def test_flags_are_taken_as_they_are() -> None:
    with pytest.raises(ConfigError, match=r"^--node: nodes\[0\]: 'http://\$\{HOST\}:1' is not allowed"):
        load(None, nodes=["http://${HOST}:1"], env={"HOST": "a"})


# The table -----------------------------------------------------------------------------------------


def test_the_table_has_every_key_once() -> None:
    names = [name for name, _, _ in config_keys()]
    assert (
        len(names)
        == len(set(names))
        == len(TOP) + 2 + len(NODE) + len(USER) + len(TEAM) + sum(map(len, SECTIONS.values()))
    )
    assert {"listen", "nodes[].url", "users.NAME.weight", "queue.policy", "identity", "log.level"} <= set(names)
    for _, default, meaning in config_keys():
        assert default
        assert meaning.isprintable()


def test_defaults_of_the_table_are_what_an_empty_file_means(file: Path) -> None:
    """Written out, they load to the same configuration."""
    text = NODES
    for section, keys in SECTIONS.items():
        text += f"{section}: {{" + ", ".join(f"{name}: {key.default}" for name, key in keys.items()) + "}\n"
    for name, default, _ in config_keys():
        if "." not in name:
            text += f"{name}: {default}\n"
    assert dataclasses.replace(read(file, text), users={}) == dataclasses.replace(read(file, NODES), users={})
