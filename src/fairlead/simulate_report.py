"""What a simulation says: per user, per policy, side by side, as a table, JSON or picture.

Waits are those of requests that were dispatched, from arrival to the (last) dispatch, in seconds; percentiles are
nearest rank; where nothing was dispatched there are none (null, -). Service is price-weighted tokens, under every
policy. Jain's index is (sum x)^2 / (n sum x^2) over the users with demand, x = W / min(demand, fair share): W what was
dispatched of a user's work up to the last arrival, demand what had arrived by then, and min(demand, fair share) the
user's part when the sum of all W is dealt out by weight and nobody gets more than its demand (max-min).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fairlead.fairness import fair_shares, jain_index
from fairlead.simulate import COMPLETED, EXPIRED, FAILED, OUTCOMES, PUSHED_OUT, REFUSED, Result
from fairlead.workload import Trace

HEAVY_COLOURS: Final = ("#d62728", "#ff7f0e", "#9467bd")
BINS: Final = 60


def heavy_users(trace: Trace) -> list[int]:
    """The 3 users with the most requests; of six users or fewer, the one."""
    requests = Counter(trace.user)
    ranked = sorted(requests, key=lambda user: (-requests[user], user))
    return ranked[: 3 if len(ranked) > 6 else 1]


def waits(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, p50 and p99 in seconds."""
    if not values:
        return {"mean": None, "p50": None, "p99": None}
    ordered = sorted(values)
    rank = {name: ordered[max(0, math.ceil(part * len(ordered)) - 1)] for name, part in (("p50", 0.5), ("p99", 0.99))}
    return {name: round(value, 6) for name, value in ({"mean": math.fsum(ordered) / len(ordered)} | rank).items()}


def jain(trace: Trace, result: Result) -> float:
    """1 is fair, 1 / users is one user that has it all."""
    settings = result.settings
    demand = [0] * len(trace.users)
    for user, size, output in zip(trace.user, trace.input_tokens, trace.output_tokens, strict=True):
        demand[user] += settings.price_input * size + settings.price_output * output
    weight = [settings.weights.get(name, 1) for name in trace.users]
    share = fair_shares(sum(result.dispatched_in_load), demand, weight)
    parts = [got / part for got, part in zip(result.dispatched_in_load, share, strict=True) if part > 0]
    return round(jain_index(parts), 6)


def summary(trace: Trace, result: Result) -> dict[str, Any]:
    """One policy, as it stands in the JSON."""
    times: list[list[float]] = [[] for _ in trace.users]
    service, outcomes = [0] * len(trace.users), [Counter[int]() for _ in trace.users]
    for index, user in enumerate(trace.user):
        outcomes[user][result.outcome[index]] += 1
        if result.outcome[index] in (COMPLETED, FAILED):
            times[user].append((result.start_ns[index] - trace.arrival_ns[index]) / 1e9)
            service[user] += result.service[index]
    total = sum(service)
    order = sorted(range(len(trace.users)), key=lambda user: (-outcomes[user].total(), user))
    rows = [
        {
            "user": trace.users[user],
            "requests": outcomes[user].total(),
            "service": service[user],
            "share": round(service[user] / total, 6) if total else 0.0,
            "wait_s": waits(times[user]),
            "refused": outcomes[user][REFUSED],
            "pushed_out": outcomes[user][PUSHED_OUT],
            "expired": outcomes[user][EXPIRED],
            "failed": outcomes[user][FAILED],
        }
        for user in order
        if outcomes[user]
    ]
    heavy = set(heavy_users(trace))
    makespan = max(result.end_ns) / 1e9
    gap, one, other = result.gap.worst()
    names = [trace.users[user] for user in result.gap.user]
    fifo = result.policy == "fifo"
    return {
        "users": rows,
        "outcomes": {name: result.outcome.count(number) for number, name in enumerate(OUTCOMES) if number},
        "requeued": result.requeued,
        "service": total,
        "light_wait_s": waits([wait for user, found in enumerate(times) if user not in heavy for wait in found]),
        "heavy_wait_s": waits([wait for user in heavy for wait in times[user]]),
        "jain": jain(trace, result),
        "largest_gap": {
            "unit": "priced tokens / weight" if result.policy == "token_wfq" else "requests / weight",
            "value": round(gap, 6),
            "users": [names[one], names[other]] if gap else [],
            "bound": None if fifo else round(result.gap.bound(one, other, result.slots), 6),
            "part_of_bound": None if fifo else round(result.gap.ratio(result.slots), 6),
            "users_compared": len(names),
        },
        "output_tokens_per_s": round(result.output_tokens / makespan, 3) if makespan else 0.0,
        "makespan_s": round(makespan, 6),
    }


def document(trace: Trace, results: Sequence[Result]) -> dict[str, Any]:
    """All of it, for JSON: the same input gives the same bytes."""
    settings = asdict(results[0].settings)
    return {
        "trace": {
            "source": trace.source,
            "reader": trace.reader,
            "requests": len(trace),
            "users": len(set(trace.user)),
            "models": len(trace.models),
            "notes": trace.notes,
            "heavy_users": [trace.users[user] for user in heavy_users(trace)],
        },
        "settings": settings,
        "policies": {result.policy: summary(trace, result) for result in results},
    }


LEGEND: Final = """\
service: tokens of prompts and answers at --prices.
wait: from arrival to a slot, of requests that got one.
Jain: 1 is fair, 1 / users is one that has it all.
largest gap: how far the service of two users, divided by weight, drew apart
while both had requests waiting; a fair policy keeps it within the bound."""
LEGEND_OF_LOSSES: Final = "refused: also those pushed out of a full queue. expired: waited for --timeout-s."


def _seconds(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.2f}"


def _line(label: str, row: dict[str, Any], losses: bool) -> str:
    wait, refused = row["wait_s"], row["refused"] + row["pushed_out"]
    waited = _seconds(wait["mean"], 10) + _seconds(wait["p50"], 9) + _seconds(wait["p99"], 9)
    share = f"{row['share']:>8.1%}"
    lost = f"{refused:>9}{row['expired']:>9}" if losses else ""
    return f"  {label[:18]:<18}{row['requests']:>9}{row['service']:>13}{share}{waited}{lost}"


def table(found: dict[str, Any], top: int = 5) -> str:
    """For people: per policy its users, the rest together (waits: mean of the means, worst p99); then compared.
    80 columns, and 18 more where requests were refused or expired."""
    trace = found["trace"]
    users = "1 user" if trace["users"] == 1 else f"{trace['users']} users"
    lines = [f"{trace['source']} ({trace['reader']}): {trace['requests']} requests of {users}"]
    lines += [f"note: {note}" for note in trace["notes"]]
    outcomes = [policy["outcomes"] for policy in found["policies"].values()]
    losses = any(each[kind] for each in outcomes for kind in ("refused", "pushed_out", "expired"))
    for name, policy in found["policies"].items():
        heading = f"{'requests':>9}{'service':>13}{'share':>8}{'wait mean':>10}{'p50':>9}{'p99 s':>9}"
        lines += ["", f"{name:<20}{heading}" + (f"{'refused':>9}{'expired':>9}" if losses else "")]
        lines += [_line(row["user"], row, losses) for row in policy["users"][:top]]
        rest = policy["users"][top:]
        if rest:
            lines.append(_line(f"{len(rest)} others", _together(rest), losses))
        lines += _below(policy)
    lines += ["", _comparison(found), "", LEGEND, *([LEGEND_OF_LOSSES] if losses else [])]
    return "\n".join(lines)


def _below(policy: dict[str, Any]) -> list[str]:
    gap = policy["largest_gap"]
    bound = "no bound" if gap["bound"] is None else f"bound {gap['bound']:.1f}"
    between = f" between {' and '.join(gap['users'])}" if gap["users"] else ""
    lines = [
        f"  Jain {policy['jain']:.3f}   {policy['output_tokens_per_s']:.1f} output tokens/s   "
        f"all done after {policy['makespan_s']:.1f} s",
        f"  largest gap {gap['value']:.1f} {gap['unit']}{between} ({bound})",
    ]
    if policy["requeued"] or policy["outcomes"]["failed"]:
        failed = policy["outcomes"]["failed"]
        lines.append(
            f"  failed nodes sent {policy['requeued']} requests back to the queue and cut {failed} answers short"
        )
    return lines


def _comparison(found: dict[str, Any]) -> str:
    """The waits of the heavy users and of the light ones, under each policy."""
    heavy = found["trace"]["heavy_users"]
    who = f"with the most requests ({', '.join(heavy)})"
    lines = [
        f"heavy: the {len(heavy)} users {who}; light: all others"
        if len(heavy) > 1
        else f"heavy: the user {who}; light: all others",
        f"{'wait in s':<14}{'light mean':>12}{'light p99':>12}{'heavy mean':>12}{'heavy p99':>12}",
    ]
    for name, policy in found["policies"].items():
        waited = [policy[which][what] for which in ("light_wait_s", "heavy_wait_s") for what in ("mean", "p99")]
        lines.append(f"{name:<14}" + "".join(_seconds(value, 12) for value in waited))
    return "\n".join(lines)


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    summed = {
        key: sum(row[key] for row in rows)
        for key in ("requests", "service", "share", "refused", "pushed_out", "expired")
    }
    waited = [row for row in rows if row["wait_s"]["mean"] is not None]
    if not waited:
        return summed | {"wait_s": waits([])}
    count = sum(row["requests"] for row in waited)
    mean = {key: sum(row["wait_s"][key] * row["requests"] for row in waited) / count for key in ("mean", "p50")}
    return summed | {"wait_s": mean | {"p99": max(row["wait_s"]["p99"] for row in waited)}}


def plot(path: Path, trace: Trace, results: Sequence[Result]) -> None:
    """Cumulative service per user and waiting over time, one row per policy."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fairlead"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(results), 2, figsize=(12, 2.9 * len(results) + 0.8), sharex="col", sharey="col", squeeze=False
    )
    heavy = heavy_users(trace)
    for (left, right), result in zip(axes, results, strict=True):
        _service_panel(left, trace, result, heavy)
        _wait_panel(right, trace, result, heavy)
    axes[0][0].legend(loc="upper left", fontsize=8)
    axes[0][1].legend(loc="upper left", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("time since the first arrival (s)")
    figure.suptitle(f"{len(trace)} requests of {len(set(trace.user))} users, heavy users in red, orange and purple")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _service_panel(axis: Any, trace: Trace, result: Result, heavy: list[int]) -> None:
    ends: list[list[tuple[int, int]]] = [[] for _ in trace.users]
    for index, user in enumerate(trace.user):
        if result.outcome[index] in (COMPLETED, FAILED):
            ends[user].append((result.end_ns[index], result.service[index]))
    labelled = False
    for user in sorted(range(len(ends)), key=lambda user: user in heavy):
        total, xs, ys = 0, [0.0], [0]
        for end, service in sorted(ends[user]):
            total += service
            xs.append(end / 1e9)
            ys.append(total)
        if user in heavy:
            colour = HEAVY_COLOURS[heavy.index(user)]
            axis.plot(xs, ys, color=colour, linewidth=2, label=f"heavy: {trace.users[user]}")
        else:
            label = None if labelled else "light users, one line each"
            axis.plot(xs, ys, color="#7f9fbf", linewidth=0.8, alpha=0.7, label=label)
            labelled = True
    axis.set_title(f"{result.policy}: service received by each user")
    axis.set_ylabel("priced tokens")


def _wait_panel(axis: Any, trace: Trace, result: Result, heavy: list[int]) -> None:
    points: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for index, user in enumerate(trace.user):
        if result.outcome[index] in (COMPLETED, FAILED):
            arrival = trace.arrival_ns[index]
            points[user in heavy].append((arrival / 1e9, (result.start_ns[index] - arrival) / 1e9))
    width = max(trace.arrival_ns[-1] / 1e9, 1e-9) / BINS
    for kind, colour, label in ((True, HEAVY_COLOURS[0], "heavy users"), (False, "#1f77b4", "light users")):
        bins: list[list[float]] = [[] for _ in range(BINS)]
        for at, wait in points[kind]:
            bins[min(BINS - 1, int(at / width))].append(wait)
        filled = [(place, found) for place, found in enumerate(bins) if found]
        axis.plot(
            [(place + 0.5) * width for place, _ in filled],
            [sum(found) / len(found) for _, found in filled],
            color=colour,
            linewidth=2,
            label=f"{label}, mean",
        )
    mean = waits([wait for _, wait in points[False]])["mean"]
    told = "" if mean is None else f" (light users' mean {mean:.1f} s)"
    axis.set_title(f"{result.policy}: waiting by time of arrival{told}")
    axis.set_ylabel("wait for a slot (s)")
