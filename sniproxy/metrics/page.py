"""docs/metrics.md, made of the catalogue: `python -m sniproxy.metrics.page > docs/metrics.md`."""

from collections.abc import Iterable, Iterator

from sniproxy.client_hello import HelloClass
from sniproxy.errors import CloseReason, Limit
from sniproxy.metrics.apisix import CODES
from sniproxy.metrics.catalogue import SECTIONS, Kind, Told
from sniproxy.metrics.counts import SOUND
from sniproxy.metrics.objects import MOST_CERTIFICATES, MOST_NODES
from sniproxy.tallies import GRACE, OTHER

INTRO = f"""# Metrics

This page is made of the code (`make metrics-page`), and a test holds the two together.

One scrape of `/metrics` on the status port has the whole pod: counters and most gauges are the sum over all workers and
their parent, and no counter falls when a worker dies. Label values come from the configuration and from sniproxy's own
words, never from a client. So a scrape grows with the configuration alone:

- A route has series from its first session on. Deleted, it goes {GRACE:.0f} s after its last session. At most
  `status.metrics_routes` are told apart by a worker; the sessions of all others are counted under `route="{OTHER}"`.
- At most {MOST_CERTIFICATES} certificates are named, those that end first, and {MOST_NODES} game servers, those that are
  not well first.

Bytes and the times of set-up are counted when they move and when they are over, not when the session ends.
"""
APISIX = """## Under the names of APISIX

With `status.apisix_metrics: true` these are told too:

| metric | labels | is |
|---|---|---|
| `apisix_stream_connection_total` | `route` | `sniproxy_route_sessions_opened_total` |
| `apisix_etcd_reachable` | | `sniproxy_etcd_up` |
| `apisix_etcd_modify_indexes` | `key`: `max_modify_index` | `sniproxy_config_revision` |
| `apisix_node_info` | `hostname`, `version` | 1 |
| `apisix_upstream_status` | `name`, `ip`, `port` | `sniproxy_upstream_node_healthy` |
| `apisix_stream_active_connections` | `listen_addr` | `sniproxy_sessions_active` |
| `apisix_stream_bandwidth` | `listen_addr`, `type`, `side` | `sniproxy_bytes_to_upstream_total`, `..._to_client_total` |
| `apisix_stream_status` | `code`, `listen_addr`, `node` (empty) | `sniproxy_sessions_closed_total`, by the table below |

The last three only where there is one listener: they are told by listener there, and by route here.
"""


def page() -> str:
    """All of it."""
    parts = [INTRO]
    for title, section in SECTIONS.items():
        parts.append(f"## {title}\n\n" + "".join(_table(section)))
    parts.append(_words())
    codes = "".join(f"| {code} | {_list(reasons)} |\n" for code, reasons in CODES.items())
    parts.append(f"{APISIX}\n| code | reasons |\n|---|---|\n{codes}")
    return "\n".join(parts)


def _table(section: Iterable[Told]) -> Iterator[str]:
    yield "| metric | type | labels | meaning | alert |\n|---|---|---|---|---|\n"
    for told in section:
        name = f"{told.name}_total" if told.kind is Kind.COUNTER else told.name
        yield f"| `{name}` | {told.kind} | {_list(told.labels)} | {told.help} | {told.alert} |\n"


def _words() -> str:
    return f"""## Words

`reason`: {_list(CloseReason)}.

`class` of a sound hello: {_list(SOUND)}. `ech` is what many browsers send to every server, be there anything encrypted in it
or not. Of a broken one: {_list(HelloClass)}.

`limit`: {_list(Limit)}.
"""


def _list(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    print(page(), end="")
