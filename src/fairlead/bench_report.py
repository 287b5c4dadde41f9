"""What a comparison of routers says: Markdown tables (of one router: a list), and a picture.

Cost is the median of the rounds with least and greatest; ratios are taken within each round. Added latency is a
router's minus that of the same load directly: of the medians (p50), or of the least of the rounds (p99), because one
time slice of another process decides a p99 otherwise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

# What makes a figure doubtful.
FULL: Final = 0.95
STRANGERS: Final = 0.05
STOLEN: Final = 0.02
LAG_MS: Final = 1.0
CUT_AT: Final = 20.0  # times the least: longer bars are cut off in the picture
COLOURS: Final = ("#1f77b4", "#ff7f0e")
COLUMNS: Final = {"one_user": "1 user", "many_users": "1,000 users", "queue": "64 waiting, 100 users"}
STREAMS: Final = {"in_step": "in step", "scattered": "one by one"}
KINDS: Final = COLUMNS | STREAMS | {"low": "200/s", "high": "70 % load"}


def figures(turns: list[dict[str, Any]], name: str) -> list[float]:
    return [turn[name] for turn in turns if turn[name] is not None]


def spread(values: list[float], digits: int = 1) -> str:
    """``median (least-greatest)``."""
    if not values:
        return "-"
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"


def ratio(turns: list[dict[str, Any]], base: list[dict[str, Any]], name: str) -> str:
    """Median of the ratios within the rounds."""
    pairs = zip(turns, base, strict=False)
    found = [one[name] / other[name] for one, other in pairs if one[name] and other[name]]
    return f"{statistics.median(found):.2f}" if found else "-"


def added(turns: list[dict[str, Any]], direct: list[dict[str, Any]], percent: str) -> str:
    """In ms, from turns' latencies and those of the same load directly."""
    ours = [turn["latency_ms"][percent] for turn in turns if "latency_ms" in turn]
    theirs = [latency[percent] for latency in direct]
    if not ours or not theirs:
        return "-"
    pick: Callable[[Iterable[float]], float] = statistics.median if percent == "p50" else min
    return f"{pick(ours) - pick(theirs):.2f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    if len(rows) == 1:  # nothing beside it to compare with: a figure a line, which fits a terminal
        figure_of = [pair for pair in zip(head, rows[0], strict=True) if not pair[0].startswith("x ")]
        return "\n".join(f"    {label:<40}{value}" for label, value in figure_of)
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cost_table(document: dict[str, Any], base: str) -> str:
    """CPU of each router per request and per chunk."""
    routers = served(document)
    head = ["router", *(f"CPU µs/request, {each}" for each in COLUMNS.values()), f"x {base}"]
    head += ["requests/s per core (1e6 / CPU)", "seen"]
    head += [title for label in STREAMS.values() for title in (f"CPU µs/chunk, {label}", f"x {base}")]
    rows = []
    for name, router in routers.items():
        turns, of_base = router["turns"], routers[base]["turns"]
        cost = {kind: figures(turns[kind], "cpu_us_per_request") for kind in COLUMNS}
        one = cost["one_user"]
        rows.append(
            [
                f"{name} {router['version']}",
                *(spread(cost[kind]) for kind in COLUMNS),
                ratio(turns["one_user"], of_base["one_user"], "cpu_us_per_request"),
                f"{1e6 / statistics.median(one):,.0f}" if one else "-",
                f"{statistics.median(figures(turns['one_user'], 'requests_per_s')):,.0f}",
            ]
        )
        for kind in STREAMS:
            rows[-1].append(spread(figures(turns[kind], "cpu_us_per_chunk")))
            rows[-1].append(ratio(turns[kind], of_base[kind], "cpu_us_per_chunk"))
    return table(head, rows)


def latency_table(document: dict[str, Any]) -> str:
    """What each router adds, and what it holds."""
    direct = [turn["latency_ms"] for turn in document["direct"]["low"]]
    counts = sorted({each["streams"] for router in served(document).values() for each in router["memory"]})
    head = ["router", *(f"added {part} ms, {KINDS[kind]}" for kind in ("low", "high") for part in ("p50", "p99"))]
    head.append("MiB idle")
    head += [f"KiB/stream, {count:,}" for count in counts]
    rows = []
    for name, router in served(document).items():
        high = router["turns"].get("high", [])
        same = [turn["direct_latency_ms"] for turn in high]
        held = {each["streams"]: each for each in router["memory"]}
        row = [name, *(added(router["turns"]["low"], direct, percent) for percent in ("p50", "p99"))]
        row += [added(high, same, percent) for percent in ("p50", "p99")]
        row.append(f"{min(each['idle_bytes'] for each in held.values()) / 2**20:.0f}" if held else "-")
        rows.append(row + [per_stream(held.get(count)) for count in counts])
    return table(head, rows)


def per_stream(held: dict[str, Any] | None) -> str:
    if held is None or held["bytes_per_stream"] is None:
        return "-"
    return f"{held['bytes_per_stream'] / 1024:.1f}"


def served(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: router for name, router in document["routers"].items() if router["failed"] is None}


def doubts(document: dict[str, Any]) -> list[str]:
    """A line for everything that a reader has to know before believing a figure."""
    lines = [router["failed"] for router in document["routers"].values() if router["failed"]]
    everyone = {"direct": {"turns": document["direct"], "memory": [], "unheld": []}, **served(document)}
    lines += strangers([turn for router in everyone.values() for turns in router["turns"].values() for turn in turns])
    for name, router in everyone.items():
        for kind, turns in router["turns"].items():
            lines += [f"{name}, {KINDS[kind]}: {line}" for line in doubts_of(kind, turns, name == "direct")]
        lines += [f"{name}, {line}" for line in router["unheld"]]
        for held in router["memory"]:
            if held["flowing"] < held["streams"] or held["faults"]:
                told = f": {held['faults']}" if held["faults"] else ""
                lines.append(f"{name}: only {held['flowing']:,} of {held['streams']:,} streams flowed{told}")
    return lines


def strangers(turns: list[dict[str, Any]]) -> list[str]:
    """Who else ran, and what that did to the load."""
    lines = []
    for name, whose, limit in (
        ("others_on_router_core", "other processes took {} of the router's core", STRANGERS),
        ("others_on_load_core", "other processes took {} of the load's core", STRANGERS),
        ("stolen", "the hypervisor took {} of the router's core", STOLEN),
    ):
        parts = figures(turns, name)
        if parts and max(parts) > limit:
            lines.append(whose.format(f"{statistics.median(parts):.0%} (median), {max(parts):.0%} (at most)"))
    late = [turn["lag_ms"]["p99"] for turn in turns if "lag_ms" in turn]
    if late and max(late) > LAG_MS:
        middle = f"{statistics.median(late):.1f} ms (median), {max(late):.1f} ms (at most)"
        lines.append(f"the generator sent late itself, p99 {middle}: no added latency is known better than that")
    return lines


def doubts_of(kind: str, turns: list[dict[str, Any]], direct: bool) -> list[str]:
    lines = [f"faults: {turn['faults']}" for turn in turns if turn["faults"]]
    never = max(turn["missed"] for turn in turns)
    if never:
        full = any(turn["load_part"] + turn["others_on_load_core"] > FULL for turn in turns if turn["missed"])
        who = "the load's core was full" if full else "it did not keep up with the rate"
        lines.append(f"{never:,} requests were due and not sent: {who}")
    idle = [turn for turn in turns if turn["router_part"] < 0.9 and turn["load_part"] > FULL]
    if idle and kind in COLUMNS and not direct:
        lines.append("node and generator were at the limit of their core, so the requests/s seen are theirs")
    return lines


def markdown(document: dict[str, Any]) -> str:
    """The tables, what they were measured on, and the doubts."""
    found, chosen = document["machine"], document["settings"]
    text = (
        f"{found['cpu']}, {found['cores']} cores, Linux {found['kernel']}, CPython {found['python']}, {found['date']}. "
        f"One core for the router, one for node and generator; median (least-greatest) of {chosen['rounds']} rounds "
        f"of {chosen['seconds']:g} s; 64 connections, 1 KiB requests, 550-byte answers; streams: 64 of 64 chunks, "
        f"one per 20 ms. Load average at the end {found['load_average']:.1f}."
    )
    parts = [text]
    if served(document):
        names = list(served(document))
        parts += [cost_table(document, "nginx" if "nginx" in names else names[0]), latency_table(document)]
    lines = doubts(document)
    parts.append("Doubts:\n\n" + "\n".join(f"- {line}" for line in lines) if lines else "No doubts.")
    return "\n\n".join(parts) + "\n"


def plot(path: Path, document: dict[str, Any]) -> None:
    """Bars of CPU per request and per chunk; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fairlead"
    from matplotlib import pyplot

    routers = served(document)
    names = sorted(routers, key=lambda name: middle(routers[name], "one_user", "request") or float("inf"))
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.6 * len(names) + 1.4), sharey=True)
    requests = (("one_user", COLUMNS["one_user"], "request"), ("queue", COLUMNS["queue"], "request"))
    draw(axes[0], "CPU µs per request", requests, [routers[name] for name in names])
    chunks = tuple((kind, label, "chunk") for kind, label in STREAMS.items())
    draw(axes[1], "CPU µs per streamed chunk", chunks, [routers[name] for name in names])
    axes[0].set_yticks(range(len(names)), [f"{name} {routers[name]['version']}" for name in names])
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw(axis: Any, title: str, bars: tuple[tuple[str, str, str], ...], routers: list[dict[str, Any]]) -> None:
    """One panel. A bar that would make all others invisible is cut off at the edge; its number stands there."""
    found = [[middle(router, kind, unit) for router in routers] for kind, _, unit in bars]
    values = sorted(value for each in found for value in each if value)
    edge = 1.25 * max((value for value in values if value <= CUT_AT * values[0]), default=1.0)
    height = 0.8 / len(bars)
    for place, ((_, label, _), each) in enumerate(zip(bars, found, strict=True)):
        at = [index - 0.4 + height * (place + 0.5) for index in range(len(routers))]
        drawn = axis.barh(at, [min(value, edge) for value in each], height, label=label, color=COLOURS[place])
        inside = [value > 0.8 * edge for value in each]
        axis.bar_label(
            drawn, ["" if cut else f" {v:,.1f}" if v else " -" for v, cut in zip(each, inside, strict=True)], fontsize=8
        )
        for y, value, cut in zip(at, each, inside, strict=True):
            if cut:
                axis.text(min(value, edge), y, f"{value:,.1f} ", ha="right", va="center", color="white", fontsize=8)
    axis.set_xlim(0, edge)
    axis.set_title(title)
    axis.legend(fontsize=8, loc="upper right")


def middle(router: dict[str, Any], kind: str, unit: str) -> float:
    """0 if nothing was measured."""
    values = figures(router["turns"][kind], f"cpu_us_per_{unit}")
    return statistics.median(values) if values else 0.0
