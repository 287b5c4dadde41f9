"""An independent reference scheduler: exact fractions, O(n), eighty lines.

Written apart from the project's core and from the project's own model (scheduler_model.py), before either. It must
stay so: nothing here may be changed to agree with them. One pool, one level, no time.
"""

from fractions import Fraction as F


class Flow:
    __slots__ = ("c", "cap", "inflight", "name", "q", "stamp", "w")

    def __init__(s, name, w=1, cap=10**9):
        s.name = name
        s.w = w
        s.q = []
        s.c = F(0)
        s.stamp = 0
        s.inflight = 0
        s.cap = cap


class Ref:
    def __init__(s, policy="wfq", lift="V", weights=None, caps=None, idle_reset=True):
        s.idle_reset = idle_reset
        s.policy = policy
        s.lift = lift
        s.fl = {}
        s.V = F(0)
        s.seq = 0
        s.ring = []
        s.fifo = []
        s.weights = weights or {}
        s.caps = caps or {}

    def flow(s, u):
        if u not in s.fl:
            s.fl[u] = Flow(u, s.weights.get(u, 1), s.caps.get(u, 10**9))
        return s.fl[u]

    def elig(s, f):
        return bool(f.q) and f.inflight < f.cap

    def _activate(s, f):
        if s.lift == "V":
            f.c = max(f.c, s.V)
        elif s.lift == "vtc":
            o = [g.c for g in s.fl.values() if g is not f and g.q]
            if o:
                f.c = max(f.c, min(o))
        s.seq += 1
        f.stamp = s.seq
        s.ring.append(f)

    def enqueue(s, u, r):  # r: dict(id, est)
        f = s.flow(u)
        was = s.elig(f)
        r["user"] = u
        s.seq += 1
        r["seq"] = s.seq
        f.q.append(r)
        if s.elig(f) and not was:
            s._activate(f)

    def cancel(s, u, rid):
        f = s.fl[u]
        f.q = [x for x in f.q if x["id"] != rid]
        if not f.q and f in s.ring:
            s.ring.remove(f)

    def pick(s):
        E = [f for f in s.fl.values() if s.elig(f)]
        if not E:
            return None
        if s.policy == "fifo":
            f = min(E, key=lambda f: f.q[0]["seq"])
        elif s.policy == "rr":
            f = next(g for g in s.ring if s.elig(g))
        else:
            f = min(E, key=lambda f: (f.c, f.stamp))
        r = f.q.pop(0)
        f.inflight += 1
        r["ctag"] = f.c
        s.V = max(s.V, f.c)
        f.c += F(r["est"]) / f.w
        s.seq += 1
        f.stamp = s.seq
        if f in s.ring:
            s.ring.remove(f)
        if s.elig(f):
            s.ring.append(f)
        return r

    def done(s, r, actual):
        f = s.fl[r["user"]]
        was = s.elig(f)
        f.inflight -= 1
        f.c += F(actual - r["est"]) / f.w
        if s.elig(f) and not was:
            s._activate(f)
        if s.idle_reset and not any(g.q or g.inflight for g in s.fl.values()):
            # wholly idle: SFQ ends its busy period
            s.V = F(0)
            for g in s.fl.values():
                g.c = F(0)
