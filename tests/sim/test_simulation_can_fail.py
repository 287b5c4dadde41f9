"""The simulation notices what it is there for: each of these faults, planted into the driver, breaks a seed.

A fault is a change of the driver's text, so whoever rewrites the driver may have to rewrite it too. What is expected is
part of the message.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fairlead.driver
from sim.plan import LARGE_EVERY
from sim.simulation import Fault, simulate

SEEDS = [seed for seed in range(60) if seed % LARGE_EVERY]  # small worlds: a fault is soon there


class Planted(NamedTuple):
    name: str
    old: str
    new: str
    message: str


FORGET = """\
        self._timers.remove(slot)
        self._due.discard(slot)
        ticket.handle = 0
"""
REQUEUE = """\
        self._timers.remove(slot)
        self._due.discard(slot)
        self._rates[ticket.pool].ended(now_ns, 0)
"""
FINISH = """\
        self._forget(ticket)
        self._pump(now_ns)
        return True

    def requeue"""
GONE = "self._tickets.pop(handle & SLOT_MASK) for kind"
REST = "        for _, handle, node in decisions:\n"
CALL = "                    dispatched.on_dispatch(self._places.node_of(node), now_ns)\n"
PLANTED = [
    Planted("finish does not pump", FINISH, FINISH.replace("self._pump(now_ns)", "pass"), "could go"),
    Planted(
        "a change of a node does not pump",
        "        self._pump(self.now_ns())\n        return known",
        "        return known",
        "could go|armed for",
    ),
    Planted("a pump within a pump is forgotten", "            self._again = True\n", "", "could go"),
    Planted("a full list of decisions is the last", "len(decisions) < self._decisions_max and ", "", "could go"),
    Planted(
        "the last decision is not told",
        REST,
        REST.replace("decisions:", "decisions[: self._decisions_max - 1]:"),
        "were not told",
    ),
    Planted("a dispatch is told twice", CALL, CALL * 2, "told of node|dispatched, but it is"),
    Planted(
        "who was taken out is told nevertheless",
        "                if ticket.handle == handle:\n",
        "                if True:\n",
        "sent away, but it is over",
    ),
    Planted("who is sent away stays among the tickets", GONE, GONE.replace("pop(", "__getitem__("), "tickets"),
    Planted("who ends keeps its timer", FORGET, "        ticket.handle = 0\n", "timers, "),
    Planted("who is put back keeps its timer", REQUEUE, REQUEUE[REQUEUE.index("        self._rates") :], "timers, "),
    Planted(
        "a timer that is due comes though it was taken back",
        "                if slot not in self._due:\n",
        "                if slot not in self._tickets:\n",
        "its timer came",
    ),
    Planted(
        "a timer comes too early", "self._timers.pop_due(now_ns)", "self._timers.pop_due(now_ns + 10**6)", "too early"
    ),
    Planted(
        "a timer does not come again",
        "                    self._timers.push(again_ns, slot)\n",
        "                    pass\n",
        "armed for|late|no timer is armed",
    ),
    Planted("the loop's timer is armed late", "+ 2) / 1000", "+ 5) / 1000", "armed for"),
    Planted(
        "the loop's timer stays when something comes before",
        "        if at_ns < self._armed_ns:\n",
        "        if self._timer is None:\n",
        "armed for",
    ),
    Planted(
        "a request's timer does not arm the loop's",
        "if at_ns < self._armed_ns and not self._pumping:",
        "if self._timer is None:",
        "armed for",
    ),
    Planted(
        "the loop's timer is not armed again",
        "        self._armed_ns = NEVER\n        now_ns",
        "        now_ns",
        "no timer is armed",
    ),
    Planted(
        "the loop's timer is not taken back",
        "            self._timer.cancel()\n        delay_ns",
        "            pass\n        delay_ns",
        "2 timers",
    ),
    Planted(
        "a start is not counted in the rate",
        "                rate.started(now_ns)\n",
        "",
        "the rate counts",
    ),
    Planted(
        "a return is not counted in the rate",
        "        self._rates[ticket.pool].ended(now_ns, 0)\n",
        "",
        "the rate counts",
    ),
    Planted(
        "a move is forgotten",
        "            return False\n        ticket.pool, ticket.place = pool, place\n",
        "            return False\n",
        "by the ledger it is",
    ),
    Planted(
        "who is put back stays in its pool",
        "if where is not None and where",
        "if where is None and where",
        "does not list|for want of a node",
    ),
    Planted(
        "a broken request runs on",
        "        if not self.finish(ticket, FAILED, 0):\n",
        "        if False:\n",
        "broken, but it is",
    ),
    Planted(
        "a broken request that was put back waits on",
        "            self.cancel(ticket)  #",
        "            pass  #",
        "broken, but it is",
    ),
    Planted(
        "a start that was not told can't be cancelled",
        "or self._scheduler.finish(now_ns, handle, CANCELLED, 0)",
        "or False",
        "were not told|cancel answered",
    ),
    Planted(
        "a cancelled lease is kept",
        "            ticket.handle = 0  # it may",
        "            return False  # it may",
        "cancel answered False",
    ),
]


def planted(fault: Planted) -> Any:
    """The driver's class with that fault."""
    source = Path(fairlead.driver.__file__).with_name("driver.py").read_text(encoding="utf-8")
    assert source.count(fault.old) == 1, f"the driver has been rewritten; rewrite the fault {fault.name!r} too"
    module = types.ModuleType("driver_with_a_fault")
    exec(compile(source.replace(fault.old, fault.new), f"driver.py, {fault.name}", "exec"), module.__dict__)
    return module.Driver


def simulate_all(base: Any) -> None:
    for seed in SEEDS:
        simulate(seed, base)


@pytest.mark.parametrize("fault", PLANTED, ids=[fault.name for fault in PLANTED])
def test_a_planted_fault_is_noticed(fault: Planted) -> None:
    with pytest.raises(Fault, match=fault.message):
        simulate_all(planted(fault))
