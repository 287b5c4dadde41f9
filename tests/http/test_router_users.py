"""The live figures of users, as an operator and as Prometheus see them."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rig import CHAT, Client, RawNode, Rig, chat_body, routed, silence

from fairlead.accounts import OUTCOMES
from fairlead.core.scheduler import NEVER
from fairlead.identity import Identity
from fairlead.metrics import Exposition
from fairlead.mocknode import MockSettings
from fairlead.ticket import Ticket
from fairlead.user_list import MODELS_MAX, UserList
from fairlead.user_metrics import TOP_USERS
from fairlead.users import USERS_MAX
from fairlead.wire.headers import Headers

Run = Callable[[Any], Any]
QUICK = MockSettings(name="quick", slots=1, ttft_ms=4, token_ms=0, batch_ms=0, tokens=5)
STUCK = MockSettings(name="stuck", slots=1, ttft_ms=60_000)
BY_TOKEN = {"policy": "token_wfq"}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def users(rig: Rig, query: str = "") -> dict[str, Any]:
    answer = await rig.request("GET", f"{rig.admin_url}/api/users{query}")
    assert answer.status == 200, answer.body
    return dict(answer.json())


async def samples(rig: Rig) -> Samples:
    """Every sample of /metrics; none is there twice."""
    text = (await rig.request("GET", rig.admin_url + "/metrics")).body.decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def names(found: Samples, family: str) -> set[str]:
    return {dict(labels)["user"] for name, labels in found if name == family}


def test_users_are_told_what_they_have_and_what_was_due_to_them(no_leaks: Run) -> None:
    async def main() -> None:
        config = {"alice": {"weight": 3}}
        async with routed([QUICK], users=config) as rig:
            for user, count in (("alice", 6), ("bob", 2)):
                assert {answer.status for answer in [await rig.chat(user=user) for _ in range(count)]} == {200}
            found = await users(rig)
            assert (found["unit"], found["window_s"], found["users_known"]) == ("requests", 60, 2)
            (pool,) = found["pools"]
            assert (pool["pool"], pool["models"], pool["service"], pool["waiting"]) == ("0", ["demo"], 8, 0)
            assert pool["jain_index"] == pytest.approx(1)  # nobody ever waited for another
            alice, bob = found["users"]
            assert (alice["user"], alice["share"], alice["fair_share"]) == ("alice", 0.75, 0.75)
            assert (bob["user"], bob["share"], bob["service_total"]) == ("bob", 0.25, 2)
            assert alice["requests"] == dict.fromkeys(OUTCOMES, 0) | {"completed": 6}
            assert alice["pools"][0]["weight"] == 3 and bob["pools"][0]["weight"] == 1
            assert alice["dispatched"] == 6 and 0 <= alice["wait_mean_ms"] <= alice["wait_max_ms"] < 1000
            told = await samples(rig)
            assert of(told, "fairlead_user_share", pool="0", user="alice") == 0.75
            assert of(told, "fairlead_user_share", pool="0", user="other") == 0
            assert of(told, "fairlead_jain_index", pool="0") == pytest.approx(1)
            assert of(told, "fairlead_user_requests_total", user="alice", outcome="completed") == 6
            assert of(told, "fairlead_user_requests_total", user="other", outcome="completed") == 2
            assert of(told, "fairlead_user_service_total", user="alice") == 6
            assert of(told, "fairlead_log_lines_lost_total") == 0

    no_leaks(main)


def test_who_waits_and_runs_is_what_the_core_says(no_leaks: Run) -> None:
    async def main() -> None:
        async with RawNode(silence, slots=2) as node, routed(raw=[node.entry]) as rig:
            clients = []
            for user in ("a", "a", "a", "a", "b"):
                clients.append(await Client.post(rig, chat_body(), f"X-User-Id: {user}"))
                await rig.until(lambda: rig.running() + rig.waiting() == len(clients))
            await asyncio.sleep(0.02)
            found = await users(rig, "?sort=waiting")
            core = rig.router.driver
            a, b = found["users"]
            assert [(each["user"], each["waiting"], each["in_flight"]) for each in (a, b)] == [("a", 2, 2), ("b", 1, 0)]
            assert [each["user"] for each in (await users(rig, "?sort=in_flight"))["users"]] == ["a", "b"]
            keys = {account.name: account.key for account in rig.router.meter.users.accounts.values()}
            place = core.find_place(0, 1, None, False)[1]
            virtual = {name: core.place_user(0, place, key) for name, key in keys.items()}
            assert found["pools"][0]["virtual_time"] == core.pool_numbers(0)["virtual_time"] / 720720
            for each in (a, b):
                (pool,) = each["pools"]
                start, time = (virtual[each["user"]][name] / 720720 for name in ("virtual_start", "virtual_time"))
                assert (pool["virtual_start"], pool["lag"], pool["tier"]) == (start, time - start, "normal")
            assert (a["pools"][0]["lag"], b["pools"][0]["lag"]) == (-1, 0)  # a has had its next turn already
            told = await samples(rig)
            assert of(told, "fairlead_user_waiting", pool="0", user="a") == 2
            assert of(told, "fairlead_user_in_flight", pool="0", user="a") == 2
            assert of(told, "fairlead_user_lag", pool="0", user="a") == -1
            assert of(told, "fairlead_user_waiting", pool="0", user="other") == 0
            for client in clients:
                client.leave("close")

    no_leaks(main)


def test_a_user_of_two_tiers_and_of_a_team(no_leaks: Run) -> None:
    async def main() -> None:
        names = {"a": {"priority": "high"}, "b": {"team": "t"}}
        async with routed([QUICK], users=names, teams={"t": {}}) as rig:
            for priority in ("high", "low", "low"):
                assert (await rig.chat(user="a", headers={"X-Priority": priority})).status == 200
            assert (await rig.chat(user="b")).status == 200
            assert (await rig.request("POST", "/tokenize", data=chat_body(), headers={"X-User-Id": "b"})).status == 200
            a, b = (await users(rig))["users"]
            assert [(each["tier"], each["team"], each["service"]) for each in a["pools"]] == [
                ("high", None, 1),
                ("low", None, 2),
            ]
            assert [(each["pool"], each["tier"], each["team"]) for each in b["pools"]] == [
                ("0", "normal", "t"),
                ("0-cheap", None, "t"),
            ]
            assert (a["share"], b["share"]) == (3 / 5, 2 / 5)
            told = await samples(rig)
            assert of(told, "fairlead_user_share", pool="0", user="a") == 0.75
            assert of(told, "fairlead_user_share", pool="0-cheap", user="b") == 1

    no_leaks(main)


async def closed_loop(rig: Rig, user: str, until: asyncio.Event) -> None:
    while not until.is_set():
        await rig.chat(user=user)


@pytest.mark.parametrize("policy", ["fifo", "wfq"])
def test_the_index_tells_a_fair_queue_from_one_that_is_not(no_leaks: Run, policy: str) -> None:
    """One client beside twelve, each with a request at a time, on one slot."""

    async def main() -> None:
        async with routed([QUICK], queue={"policy": policy}) as rig:
            over = asyncio.Event()
            tasks = [asyncio.ensure_future(closed_loop(rig, user, over)) for user in ["solo"] + ["flood"] * 12]
            await rig.until(lambda: rig.router.driver.counters()["completed"] >= 150)
            found = await users(rig)
            over.set()
            await asyncio.gather(*tasks)
            by_name = {user["user"]: user for user in found["users"]}
            solo, flood, index = by_name["solo"], by_name["flood"], found["pools"][0]["jain_index"]
            assert solo["share"] + flood["share"] == pytest.approx(1)
            assert solo["fair_share"] == pytest.approx(0.5, abs=0.1)
            if policy == "fifo":
                assert solo["share"] < 0.2 and index < 0.75, found
            else:
                assert solo["share"] > 0.4 and index > 0.95, found
                assert solo["wait_mean_ms"] < flood["wait_mean_ms"] / 3

    no_leaks(main)


def test_under_token_wfq_people_read_tokens(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK], queue=BY_TOKEN) as rig:
            assert (await rig.chat("x" * 40, user="a")).status == 200
            found = await users(rig)
            (a,) = found["users"]
            assert found["unit"] == "tokens"
            assert a["tokens"] == {"input": 10, "cached": 0, "output": 5}
            assert a["service_total"] == a["pools"][0]["service"] == 10 + 2 * 5
            told = await samples(rig)
            assert of(told, "fairlead_user_service_total", user="other") == 20
            assert of(told, "fairlead_user_tokens_total", user="other", kind="output") == 5

    no_leaks(main)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("?limit=0", ["limit", "'0'", "1..1000"]),
        ("?limit=1001", ["1..1000"]),
        ("?limit=", ["''"]),
        ("?limit=1&limit=2", ["limit", "2 times"]),
        ("?sort=name", ["sort", "'name'", "service", "waiting"]),
        ("?user=a", ["'user'", "limit or sort"]),
        ("?" + "a=1&" * 20, ["16 parameters"]),
    ],
)
def test_a_question_that_is_not_understood_is_refused(no_leaks: Run, query: str, told: list[str]) -> None:
    async def main() -> None:
        async with routed([QUICK]) as rig:
            answer = await rig.request("GET", f"{rig.admin_url}/api/users{query}")
            assert (answer.status, answer.code) == (400, "invalid_value")
            message = answer.json()["error"]["message"]
            assert all(word in message for word in told), message

    no_leaks(main)


@pytest.mark.parametrize("sort", ["service", "total", "waiting", "in_flight", "wait"])
def test_the_list_is_sorted_and_cut(no_leaks: Run, sort: str) -> None:
    async def main() -> None:
        async with routed([QUICK]) as rig:
            await asyncio.gather(*(rig.chat(user=user) for user in "abbccc"))
            found = await users(rig, f"?sort={sort}&limit=2")
            assert found["users_known"] == 3 and len(found["users"]) == 2
            if sort in ("service", "total"):
                assert [user["user"] for user in found["users"]] == ["c", "b"]
            longest, second = (user["wait_max_ms"] for user in found["users"])
            if sort == "wait":  # five of six had to wait for at least 4 ms
                assert 4 <= second <= longest < 5000
            means = [user["wait_mean_ms"] for user in (await users(rig))["users"]]
            assert 2 <= max(means) < 5000

    no_leaks(main)


def test_names_are_labels_whatever_stands_in_them(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK]) as rig:
            odd = 'q"uo\\te {a="b"} \N{DROMEDARY CAMEL}'
            for user in (odd, "other", "127.0.0.1"):
                client = await Client.post(rig, chat_body(), f"X-User-Id: {user}")
                assert (await client.answer()).status == 200
                client.leave("close")
            plain = await rig.request("POST", CHAT, data=chat_body())  # of the address 127.0.0.1, which is another user
            assert plain.status == 200
            assert [user["user"] for user in (await users(rig))["users"]].count("127.0.0.1") == 2
            told = await samples(rig)
            assert names(told, "fairlead_user_share") == {odd, "127.0.0.1", "other"}
            assert of(told, "fairlead_user_share", pool="0", user="127.0.0.1") == 0.5
            assert of(told, "fairlead_user_share", pool="0", user="other") == 0.25

    no_leaks(main)


def test_of_many_models_a_hundred_are_named(no_leaks: Run) -> None:
    async def main() -> None:
        node = MockSettings(name="many", models=tuple(f"m{number}" for number in range(MODELS_MAX + 5)))
        async with routed([node]) as rig:
            found = (await users(rig))["pools"]
            assert (len(found[0]["models"]), found[0]["models_count"]) == (MODELS_MAX, MODELS_MAX + 5)

    no_leaks(main)


class Waiter(Ticket):
    """A request without a client, for want of 10,000 sockets; driver, core and meter have it as any other."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.handle = 0
        self.tier, self.team, self.running_max, self.waiting_max = 1, None, 0, 0
        pool = rig.router.registry.pool_of("demo")
        assert pool is not None
        self.pool, self.place = rig.router.driver.find_place(pool, self.tier, None, False)
        self.user = Identity(rig.router._config).user(Headers([("X-User-Id", name)]), "127.0.0.1", None).key
        self.user_name = name
        self.weight = self.cost = self.width = 1
        self.size_bytes = self.requeues = self.waited_ns = 0
        self.deadline_ns = NEVER
        self.bill = self.flow = self.tally = None
        rig.router.meter.entered(self, rig.router.driver.now_ns())
        assert rig.router.driver.submit(self) == 0

    def on_dispatch(self, node: int, now_ns: int) -> None:
        raise AssertionError("the only slot is taken")

    def leave(self) -> None:
        self.rig.router.meter.ended(self, "cancelled", 0, self.rig.router.driver.now_ns())
        assert self.rig.router.driver.cancel(self)


def longest_step(work: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    """Of the turns that it takes of the loop: its part of the CPU time of all of them. The best of three, as what the
    machine does beside only adds to it."""
    found: list[float] = []
    for _ in range(3):
        coroutine, spent_ns, over = work(), list[int](), False
        gc.disable()
        try:
            while not over:
                start_ns = time.thread_time_ns()
                try:
                    coroutine.send(None)
                except StopIteration:
                    over = True
                spent_ns.append(time.thread_time_ns() - start_ns)
        finally:
            gc.enable()
        found.append(max(spent_ns) / sum(spent_ns))
    return min(found)


@pytest.mark.measures
def test_who_looks_at_ten_thousand_users_holds_nobody_up(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([STUCK], queue={"max_waiting": 20_000}) as rig:
            busy = await Client.post(rig, chat_body(), "X-User-Id: u0")
            await rig.until(lambda: rig.running() == 1)
            calls = [Waiter(rig, f"u{number}") for number in range(USERS_MAX)]
            router = rig.router
            metrics = Exposition(router.meter, router.driver, router.registry)
            listing = UserList(router.meter.users, router.meter.unit, router.driver, router.registry)
            assert longest_step(metrics.text) < 0.2
            assert longest_step(lambda: listing.document("limit=1000&sort=waiting")) < 0.2
            for call in calls:
                call.leave()
            busy.leave("close")

    no_leaks(main)


def test_ten_thousand_users_are_few_labels_and_a_short_list(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([STUCK], queue={"max_waiting": 20_000}, users={"u7": {}}) as rig:
            busy = await Client.post(rig, chat_body(), "X-User-Id: u0")
            await rig.until(lambda: rig.running() == 1)
            count = USERS_MAX + 50
            calls = [Waiter(rig, f"u{number}") for number in range(count)]
            calls += [Waiter(rig, "heavy") for _ in range(5)]  # there is no room for a name of its own
            told = await samples(rig)
            for name in {name for name, _ in told if name.startswith("fairlead_user_")}:
                assert len(names(told, name)) <= TOP_USERS + 1
            assert names(told, "fairlead_user_requests_total") == {"u7", "other"}
            waiting = [value for (name, _), value in told.items() if name == "fairlead_user_waiting"]
            assert sum(waiting) == len(calls)
            found = await users(rig)
            assert (found["users_known"], len(found["users"])) == (USERS_MAX, 100)
            assert len((await users(rig, "?limit=1000&sort=waiting"))["users"]) == 1000
            for call in calls:
                call.leave()
            told = await samples(rig)
            cancelled = [
                of(told, "fairlead_user_requests_total", user=user, outcome="cancelled") for user in ("u7", "other")
            ]
            assert cancelled == [1, len(calls) - 1]
            for number in range(count, count + 100):  # those who had left are forgotten first
                Waiter(rig, f"u{number}").leave()
            other = (await users(rig))["other"]
            assert other["users_forgotten"] == 100
            assert other["requests"]["cancelled"] == 100 + 55
            busy.leave("close")

    no_leaks(main)


def test_counters_never_go_back_and_gauges_follow_the_window(no_leaks: Run) -> None:
    async def main() -> None:
        async with routed([QUICK], users={"alice": {}}) as rig:
            before: Samples = {}
            for turn in range(4):
                crowd = [f"t{turn}-{number}" for number in range(15)]
                await asyncio.gather(*(rig.chat(user=user) for user in [*crowd, "alice", f"big{turn}", f"big{turn}"]))
                now = await samples(rig)
                counters = {key: value for key, value in now.items() if key[0].endswith("_total")}
                for key, value in before.items():
                    assert counters[key] >= value, key
                before = counters
                shown = names(now, "fairlead_user_share")
                assert f"big{turn}" in shown and len(shown) <= TOP_USERS + 1
            shares = [value for (name, _), value in now.items() if name == "fairlead_user_share"]
            assert sum(shares) == pytest.approx(1)

    no_leaks(main)
