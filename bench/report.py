"""The page of a run: tables, plots and configurations, between two marks. What was measured comes in, text goes out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.plots import Series, line_plot, number_text
from bench.works import AT_ONCE, COST, LATENCY, MEMORY, PLAYERS, SIZE, STREAMS, WINDOW, Unit

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- side by side: begin -->", "<!-- side by side: end -->"
JSON = "side_by_side.json"
MICRO = 1e6


class Unmarked(Exception):
    """The page has no place for the report."""


def replace_between(text: str, begin: str, end: str, new: str) -> str:
    """The text with what stands between the marks replaced. Unmarked if they do not stand there once each, in order."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise Unmarked(f"expected {begin} and then {end}, once each")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n\n{new.strip()}\n\n{end}{tail}"


def write_report(result: dict[str, Any], docs: Path = DOCS) -> None:
    """The JSON file, the plots, and their part of the page."""
    folder = docs / "benchmarks"
    folder.mkdir(exist_ok=True)
    (folder / JSON).write_text(json.dumps(rounded(result), indent=1) + "\n")
    for name, plot in plots(result):
        (folder / f"{name}.svg").write_text(plot)
    page = docs / "benchmarks.md"
    page.write_text(replace_between(page.read_text(), BEGIN, END, report(result)))


def rounded(value: Any) -> Any:
    """The same with six significant digits: the rest is noise."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return value


def best_of_ours(result: dict[str, Any]) -> str | None:
    """The contestant of ours that is held against the peers: the first, which is the native relay where it is built."""
    return next((name for name, one in result["contestants"].items() if one["ours"]), None)


def ratio(result: dict[str, Any], unit: Unit) -> float | None:
    """Ours over the best peer; below 1 is better. None where either is missing."""
    found = result["units"][unit.key]
    ours = best_of_ours(result)
    peers = [
        one[unit.field]
        for name, one in found.items()
        if not result["contestants"][name]["ours"] and one[unit.field] > 0
    ]
    if ours not in found or not peers:
        return None
    return float(found[ours][unit.field] / min(peers))


def figure(value: float) -> str:
    """Three digits."""
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.{3 if value < 1 else 2 if value < 10 else 1}f}"
    )


def report(result: dict[str, Any]) -> str:
    """The part of the page."""
    parts = [*_heading(result), *_costs(result), *_memory(result), *_latencies(result)]
    return "\n".join([*parts, *_curves(result), *_configs(result)])


def _heading(result: dict[str, Any]) -> Iterator[str]:
    cores, rounds = result["cores"], result["plan"]["rounds"]
    minutes = result["seconds"] / 60
    command = f"python -m bench.side_by_side --rounds {rounds}"
    yield f"`{command}` (`make bench` runs 5), {result['date']}, {minutes:.0f} minutes."
    yield f"{result['machine']}. Other programs used {result['others']:.2f} of its cores meanwhile."
    yield f"""
One worker thread per proxy, all its processes on core {cores["proxy"]}; the load generator (Rust, one thread) and the game
server on core {cores["load"]}. Rounds are interleaved, each proxy once, then each again: {rounds} rounds, whose medians are
the figures. CPU seconds are the kernel's, of a proxy's whole process tree. Every proxy writes a line per session into a
file, as sniproxy does. Every byte that comes back is compared with what was sent."""
    for name, why in result["absent"].items():
        yield f"\n**{name}** was absent from this run: {why}."
    for failure in result["failures"]:
        yield f"\nFailed: {failure}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(result: dict[str, Any], first: str, *more: str) -> Iterator[str]:
    names = [_named(name, one["version"]) for name, one in result["contestants"].items()]
    yield _row([first, *names, *more])
    yield "|---" * (1 + len(names) + len(more)) + "|"


def _named(name: str, version: str) -> str:
    return name if name.startswith("sniproxy") else f"{name} {version}"


def _table(result: dict[str, Any], units: tuple[Unit, ...], first: str) -> Iterator[str]:
    present = [unit for unit in units if unit.key in result["units"]]
    if not present:
        return
    yield from ("", *_head(result, first, "ours / best peer", "bar"))
    for unit in present:
        found = result["units"][unit.key]
        cells = [
            figure(found[name][unit.field]) if name in found else "failed"
            for name in result["contestants"]
        ]
        over = ratio(result, unit)
        bar = f"≤ {unit.bar}" if unit.bar else f"≤ {unit.most} KiB" if unit.most else "-"
        yield _row([unit.label, *cells, "-" if over is None else f"{over:.2f}", bar])


def _costs(result: dict[str, Any]) -> Iterator[str]:
    if not any(unit.key in result["units"] for unit in COST):
        return
    yield from ("", "### CPU seconds of the proxy")
    yield from _table(result, COST, "work")
    yield f"""
New connections: {AT_ONCE} at a time, each a ClientHello of OpenSSL, its echo, and both ends. Handshakes: the same with
TLS 1.3, AES-128-GCM and X25519 for everybody, no resumption, a message of 30 B and its echo; resumed:
each with the ticket of an earlier session. Round trips: each connection
sends its next message when the last one is back. Bulk: {STREAMS} streams, each with {WINDOW // 1024} KiB on the way."""


def _memory(result: dict[str, Any]) -> Iterator[str]:
    if not any(unit.key in result["units"] for unit in MEMORY):
        return
    passed, terminated = result["plan"]["idle"], result["plan"]["idle_tls"]
    yield from ("", "### Memory per idle session")
    yield from _table(result, MEMORY, "growth of PSS")
    yield f"""
{passed} sessions passed through, {terminated} terminated, one message on each, in a fresh process each time that has
served some hundred sessions. The kernel's memory for sockets is not in it; it is the same for all."""


def _latencies(result: dict[str, Any]) -> Iterator[str]:
    present = [unit for unit in LATENCY if unit.key in result["units"]]
    if not present:
        return
    yield from ("", "### Latency", "", "Milliseconds, p50 / p99, with the generator's own.", "")
    yield from _head(result, "what")
    for unit in present:
        found = result["units"][unit.key]
        yield _row(
            [
                unit.label,
                *(
                    f"{figure(found[name]['p50'])} / {figure(found[name]['p99'])}"
                    if name in found
                    else "failed"
                    for name in result["contestants"]
                ),
            ]
        )


def _size_text(size: float) -> str:
    return f"{size / 1024:.0f} KiB" if size >= 1024 else f"{size:.0f} B"


def _series(result: dict[str, Any], curve: str, factor: float) -> list[Series]:
    points = result["curves"][curve]
    lines = []
    for name in result["contestants"]:
        found = tuple(
            (float(x), one[name]["cpu"] * factor) for x, one in points.items() if name in one
        )
        if found:
            lines.append(Series(name, found))
    return lines


def plots(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and SVG documents."""
    curves = result["curves"]
    if "sessions" in curves:
        yield (
            "sessions",
            line_plot(
                f"A round trip of {SIZE} B beside other sessions",
                "sessions, all of them busy",
                "µs of the proxy's CPU per round trip",
                _series(result, "sessions", MICRO / 1e5),
            ),
        )
    if "sizes" in curves:
        yield (
            "sizes",
            line_plot(
                "A round trip by the size of its message",
                f"size of a message, {PLAYERS} sessions",
                "µs of the proxy's CPU per round trip",
                _series(result, "sizes", MICRO / 1e5),
                log_y=True,
                x_text=_size_text,
            ),
        )
    if "routes" in curves:
        yield (
            "routes",
            line_plot(
                "A new passthrough connection beside many routes",
                "routes",
                "µs of the proxy's CPU per connection",
                _series(result, "routes", MICRO / 1e3),
            ),
        )


def _curves(result: dict[str, Any]) -> Iterator[str]:
    if not result["curves"]:
        return
    yield from ("", "### Cost against work", "")
    said = {
        "sessions": "Sessions: up to what this machine's limit of "
        f"{number_text(result['descriptors'])} descriptors per process allows, two for each.",
        "sizes": "Size of a message: both axes are logarithmic.",
        "routes": "Routes: each with a name of its own, all to one game server; "
        "players ask for 256 names from all over them.",
    }
    for name in result["curves"]:
        yield f"![Cost by {name}](benchmarks/{name}.svg)"
        yield from ("", said[name], "")
    yield f"All figures and samples: [benchmarks/{JSON}](benchmarks/{JSON})."


def _configs(result: dict[str, Any]) -> Iterator[str]:
    yield from ("", "### Configurations", "", "As they ran, with one route.")
    for name, text in result["configs"].items():
        version = result["contestants"][name]["version"]
        yield from ("", "<details>", f"<summary>{name} {version}</summary>", "")
        yield from ("```", text.strip(), "```", "", "</details>")
