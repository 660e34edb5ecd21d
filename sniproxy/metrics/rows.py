"""What processes tell one another of their routes, and how that is scraped. Pure.

A thousand routes with a handful of series each would be most of every scrape. So they travel as rows of numbers, and are
written out as text here, at a tenth of what the library takes for it.
"""

from collections.abc import Mapping
from typing import Any

from sniproxy.metrics.catalogue import ROUTES, Kind
from sniproxy.tallies import Tallies

FAMILY = "sniproxy_routes"  # as it travels; it is never scraped under that name
# opened, active, bytes to the upstream, bytes to the client, sessions closed by reason
Row = list[Any]
Rows = dict[str, Row]
CLOSED = 4  # where these are


def rows_of(tallies: Tallies) -> Rows:
    """All of one worker's routes that any session has come to."""
    rows: Rows = {}
    for route, tally in tallies.by_route.items():
        opened = tally.opened + tally.meter.begun
        if opened:
            closed = {reason.value: count for reason, count in tally.closed.items()}
            rows[route] = [opened, opened - sum(closed.values()), *tally.meter.moved, closed]
    return rows


def add_rows(rows: Rows, more: Rows) -> None:
    """Counts other rows in, which stay as they are."""
    for route, row in more.items():
        sums = rows.get(route)
        if sums is None:
            rows[route] = [*row[:CLOSED], dict(row[CLOSED])]
            continue
        for place in range(CLOSED):
            sums[place] += row[place]
        closed = sums[CLOSED]
        for reason, count in row[CLOSED].items():
            closed[reason] = closed.get(reason, 0) + count


def without_sessions(rows: Rows) -> Rows:
    """The same of a process that has ended, and its sessions with it."""
    return {route: [row[0], 0, *row[2:]] for route, row in rows.items()}


def exposed(rows: Mapping[str, Row]) -> str:
    """As /metrics shows them."""
    ids = {route: _escaped(route) for route in sorted(rows)}
    parts: list[str] = []
    for told, place in zip(ROUTES, (0, 1, CLOSED, 2, 3), strict=True):
        name = f"{told.name}_total" if told.kind is Kind.COUNTER else told.name
        parts.append(f"# HELP {name} {told.help}\n# TYPE {name} {told.kind}\n")
        if place != CLOSED:
            parts += [f'{name}{{route="{ids[one]}"}} {rows[one][place]}\n' for one in ids]
            continue
        parts += [
            f'{name}{{route="{ids[one]}",reason="{reason}"}} {count}\n'
            for one in ids
            for reason, count in sorted(rows[one][CLOSED].items())
        ]
    return "".join(parts)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
