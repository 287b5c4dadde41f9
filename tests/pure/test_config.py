"""The configuration: what loads, and the one line that is said about what doesn't."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.clock import SECOND_NS
from fairlead.config import Config, IdentitySource, LogConfig, NodeConfig, TeamConfig, UserConfig, config_keys, load
from fairlead.config_schema import NODE, SECTIONS, TEAM, TEAMS_MAX, TOP, USER
from fairlead.errors import ConfigError

NODES = "nodes: [http://127.0.0.1:9000]\n"

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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "f.yaml"


def read(file: Path, text: str, *, nodes: list[str] | None = None, **env: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load(file, nodes=nodes or [], env=env)


def fault(file: Path, text: str, **options: Any) -> str:
    """The message without the directory; it is always one line."""
    with pytest.raises(ConfigError) as caught:
        read(file, text, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith((str(file), "--node: "))
    return message.replace(str(file), "f.yaml")


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


# Keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quue: {}", "f.yaml:2: quue: unknown key; nearest known key: queue"),
        ("queue:\n  max_wating: 1", "f.yaml:3: queue.max_wating: unknown key; nearest known key: max_waiting"),
        ("max_bytes: 1", "f.yaml:2: max_bytes: unknown key; nearest known key: queue.max_bytes"),
        ("zzz: 1", "f.yaml:2: zzz: unknown key; known keys: listen, admin, trusted_proxies, identity, nodes, users, "),
        ("queue: {tier: {}}", "f.yaml:2: queue.tier: unknown key; nearest known key: tiers"),
        ("retries: {max: 2}", "f.yaml:2: retries: unknown key; "),
        ("timeouts: {header: 1s}", "f.yaml:2: timeouts.header: unknown key; "),
        ("log: {request: stdout}", "f.yaml:2: log.request: unknown key; nearest known key: requests"),
        ("users: {a: {tier: high}}", "f.yaml:2: users.a.tier: unknown key; "),
        ('"a\\nb": 1', "f.yaml:2: 'a\\nb': unknown key; "),
        ("queue: {timeout: 1s}\nqueue: {}", "f.yaml:3: queue: is given twice, first at f.yaml:2: remove one"),
        ("log:\n  level: info\n  level: info", "f.yaml:4: log.level: is given twice, first at f.yaml:3: remove one"),
        ("<<: {a: 1}", "f.yaml:2: <<: unknown key; "),
        ("? [a]\n: 1", "f.yaml:1: has a key that is a list or a mapping"),
    ],
)
def test_keys_that_are_not_known(file: Path, text: str, message: str) -> None:
    assert fault(file, NODES + text).startswith(message)


# Values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queue: {max_waiting: 1000001}", "queue.max_waiting: '1000001' is not allowed: choose an integer 0..1000000"),
        ("queue: {max_waiting: -1}", "queue.max_waiting: '-1' is not allowed"),
        ("queue: {max_waiting: 1_000}", "queue.max_waiting: '1_000' is not allowed"),
        ("queue: {max_waiting: 010}", "queue.max_waiting: '010' is not allowed"),
        ("queue: {max_waiting: 1.0}", "queue.max_waiting: '1.0' is not allowed"),
        ("queue: {max_waiting: \u0661}", "queue.max_waiting: '\u0661' is not allowed"),
        ("queue: {max_waiting: [1]}", "queue.max_waiting: must be a single value"),
        ("queue: {max_waiting: }", "queue.max_waiting: has no value"),
        ("queue: {max_waiting: !!binary MQ==}", "queue.max_waiting: has the YAML tag"),
        ("queue: {max_waiting: !x 1}", "queue.max_waiting: has the YAML tag"),
        ("queue: {timeout: 60}", "queue.timeout: '60' is not allowed: choose a duration 1ms..24h (units ms, s, m, h)"),
        ("queue: {timeout: 0s}", "queue.timeout: '0s' is not allowed"),
        ("queue: {timeout: 1.5s}", "queue.timeout: '1.5s' is not allowed"),
        ("queue: {timeout: 25h}", "queue.timeout: '25h' is not allowed"),
        ("queue: {timeout: 99999999999999999999s}", "queue.timeout: '99999999999999999999s' is not allowed"),
        ("queue: {max_bytes: 1MB}", "queue.max_bytes: '1MB' is not allowed: choose a size 64KiB..1024GiB"),
        ("queue: {policy: lifo}", "queue.policy: 'lifo' is not allowed: choose fifo | round_robin | wfq"),
        ("queue: [a]", "queue: must be a mapping"),
        ("routing: {gpu_weight: 1.1}", "routing.gpu_weight: '1.1' is not allowed: choose a number 0..1"),
        ("routing: {gpu_weight: nan}", "routing.gpu_weight: 'nan' is not allowed"),
        ("users: {a: {weight: 0}}", "users.a.weight: '0' is not allowed: choose an integer 1..10000"),
        ("users: {'': {}}", "users.: a user's name must be 1..128 printable characters"),
        (
            "log: {requests: stdot}",
            "log.requests: 'stdot' is not allowed: choose stdout | stderr | none, or a file: /PATH",
        ),
        ("log: {requests: log.jsonl}", "log.requests: 'log.jsonl' is not allowed"),
        ('log: {requests: "/a\\nb"}', "log.requests: '/a\\nb' is not allowed"),
        ("listen: 8080", "listen: '8080' is not allowed: choose HOST:PORT"),
        ("listen: :8080", "listen: ':8080' is not allowed"),
        ("listen: ::1:8080", "listen: '::1:8080' is not allowed"),
        ("listen: a:65536", "listen: 'a:65536' is not allowed"),
        ("listen: 127.0.0.1:8081", "listen: listen and admin have one address"),
        ("admin: off", "admin: 'off' is not allowed"),
        ("admin: 0.0.0.0:8081", "admin: '0.0.0.0:8081' is not allowed (any other address would need a token"),
        (
            "trusted_proxies: [10.0.0.1/8]",
            "trusted_proxies[0]: '10.0.0.1/8' is not allowed (10.0.0.1/8 has host bits set)",
        ),
        ("trusted_proxies: ::1", "trusted_proxies: must be a list"),
        ("identity: [api_key]", "identity[0]: unknown source 'api_key': choose client_address, {header: NAME}"),
        ("identity: [" + "x" * 5000 + "]", "identity[0]: unknown source 'xxxxx"),
        ("identity: [{body: " + "x" * 5000 + "}]", "identity[0].body: 'xxxxx"),
        ("identity: [{header: a, body: user}]", "identity[0]: must be one source"),
        ("identity: [{body: name}]", "identity[0].body: 'name' is not read from bodies: choose user"),
        ("identity: [{header: 'a b'}]", "identity[0].header: 'a b' is not allowed: choose the name of a header"),
        ("identity: [{header: a}, {header: a}]", "identity[1]: is given twice"),
        ("log: {level: " + "x" * 5000 + "}", "log.level: 'xxxxx"),
    ],
)
def test_values_that_are_not_allowed(file: Path, text: str, message: str) -> None:
    said = fault(file, NODES + text)
    assert said.startswith("f.yaml:2: " + message)
    assert len(said) < 300


# Files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nodes:\n  - \xff\n", "f.yaml:2: byte 11 is not UTF-8: save the file as UTF-8"),
        (b"a: 1\nb: \x07\n", "f.yaml:2: has the control character 0x7: remove it"),
        (b"a: 1\n b: 2\n", "f.yaml:2: not valid YAML: mapping values are not allowed here"),
        (b"a: [1,\n", "f.yaml:2: not valid YAML: "),
        (b"a: 1\n---\nb: 2\n", "f.yaml:2: not valid YAML: but found another document"),
        (b"a: *x\n", "f.yaml:1: not valid YAML: found undefined alias 'x'"),
        (b"- a\n", "f.yaml:1: must be a mapping"),
        (b"nodes: &a [*a]\n", "f.yaml:1: nodes[0]: must be a mapping"),
        (b"[" * 50_000, "f.yaml: is nested too deeply to be a configuration"),
    ],
    ids=range(9),
)
def test_files_that_are_no_configuration(file: Path, data: bytes, message: str) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(file, env={})
    assert str(caught.value).replace(str(file), "f.yaml").startswith(message)


def test_files_that_cannot_be_read(file: Path) -> None:
    for path, reason in ((file, "No such file or directory"), (file.parent, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(path, env={})
        assert str(caught.value) == f"{path}: can't be read: {reason}"


@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.text("{}[]:,-&*!|>'\"#%@ \n\tab$", max_size=40))
def test_any_text_is_a_configuration_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    for wrapped in (text, f"nodes:\n- {text}", f"log: {{level: {text}}}"):
        file.write_bytes(wrapped.encode())
        try:
            message = repr(load(file, nodes=["http://a:1"], env={}))
        except ConfigError as error:
            message = str(error)
        assert message.isprintable()


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


# Tiers and teams -----------------------------------------------------------------------------------


def test_tiers_and_teams(file: Path) -> None:
    text = """\
teams: {red: {weight: 2, max_in_flight: 20}, blue: }
users: {alice: {team: red, priority: high}, bob: {team: none}, carol: , default: {team: blue, priority: low}}
queue: {tiers: {high: 8}, tier_policy: strict, promote_after: 1m, within_user: deadline, max_in_flight_per_pool: 9}
"""
    config = read(file, NODES + text)
    assert dict(config.teams) == {"red": TeamConfig(2, 20), "blue": TeamConfig(1, 0)}
    assert dict(config.users) == {
        "alice": UserConfig(1, 0, "high", "red"),
        "bob": UserConfig(1, 0, "low", None),
        "carol": UserConfig(1, 0, "low", "blue"),
    }
    queue = config.queue
    assert dict(queue.tiers) == {"high": 8, "normal": 4, "low": 1}
    assert (queue.tier_policy, queue.promote_after_ns, queue.within_user) == ("strict", 60 * SECOND_NS, "deadline")
    assert queue.max_in_flight_per_pool == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "users: {a: {team: reed}}",
            "users.a.team: unknown team 'reed': name it under teams; nearest known team: red",
        ),
        (
            "users: {default: {team: xyz}}",
            "users.default.team: unknown team 'xyz': name it under teams; known teams: red, blue",
        ),
        ("users: {a: {team: ''}}", "users.a.team: '' is not allowed: choose a name from teams, or none"),
        ("users: {a: {priority: High}}", "users.a.priority: 'High' is not allowed: choose high | normal | low"),
        ("queue: {tiers: {low: 0}}", "queue.tiers.low: '0' is not allowed: choose an integer 1..10000"),
        ("queue: {tiers: {lo: 1}}", "queue.tiers.lo: unknown key; nearest known key: low"),
        ("queue: {tiers: [1, 2, 3]}", "queue.tiers: must be a mapping"),
        ("queue: {tier_policy: fair}", "queue.tier_policy: 'fair' is not allowed: choose weighted | strict"),
        ("queue: {promote_after: 0s}", "queue.promote_after: '0s' is not allowed: choose a duration 1ms..24h"),
        ("queue: {within_user: edf}", "queue.within_user: 'edf' is not allowed: choose arrival | deadline"),
    ],
)
def test_tiers_and_teams_that_can_not_be(file: Path, text: str, message: str) -> None:
    assert fault(file, NODES + "teams: {red: , blue: }\n" + text).startswith("f.yaml:3: " + message)


@pytest.mark.parametrize(
    ("teams", "message"),
    [
        ("{none: {}}", "teams: no team can be called none: a user without a team has that"),
        ("{'': {}}", "teams.: a team's name must be 1..128 printable characters"),
        ("{a: {weigth: 1}}", "teams.a.weigth: unknown key; nearest known key: weight"),
        ("{a: {weight: 10001}}", "teams.a.weight: '10001' is not allowed: choose an integer 1..10000"),
        ("[a]", "teams: must be a mapping"),
    ],
)
def test_teams_that_can_not_be(file: Path, teams: str, message: str) -> None:
    assert fault(file, f"{NODES}teams: {teams}").startswith("f.yaml:2: " + message)


def test_there_may_be_so_many_teams_and_not_one_more(file: Path) -> None:
    teams = [f"t{number}" for number in range(TEAMS_MAX + 1)]
    assert len(read(file, f"{NODES}teams: {{{': , '.join(teams[1:])}: }}").teams) == TEAMS_MAX
    message = fault(file, f"{NODES}teams: {{{': , '.join(teams)}: }}")
    assert message == "f.yaml:2: teams: has 1001 teams, the most there may be is 1000: leave some out"


def test_without_teams_a_user_s_team_is_unknown(file: Path) -> None:
    message = fault(file, NODES + "users: {a: {team: red}}")
    assert message == "f.yaml:2: users.a.team: unknown team 'red': name it under teams; known teams: none"


# Prices --------------------------------------------------------------------------------------------


def test_prices_that_are_left_out_are_the_default_s(file: Path) -> None:
    given = read(file, NODES + "queue: {prices: {input: 0.1, cached_input: 0.01}}").queue.prices
    assert dict(given) == {"input": 0.1, "output": 2.0, "cached_input": 0.01}
    assert dict(load(None, env={}).queue.prices) == {"input": 1.0, "output": 2.0, "cached_input": 1.0}


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ("{input: -1}", "f.yaml:2: queue.prices.input: '-1' is not allowed: choose a number 0..1000"),
        ("{output: 1000.5}", "f.yaml:2: queue.prices.output: '1000.5' is not allowed: choose a number 0..1000"),
        ("{inputs: 1}", "f.yaml:2: queue.prices.inputs: unknown key; nearest known key: input"),
        ("[1]", "f.yaml:2: queue.prices: "),
    ],
)
def test_prices_that_can_not_be(file: Path, prices: str, message: str) -> None:
    assert fault(file, NODES + "queue: {prices: " + prices + "}").startswith(message)
