"""What data planes write of themselves, for tests."""

from sniproxy.objects.node_record import NodeRecord, records_prefix
from sniproxy.store import Store

PREFIX = "/apisix"


def record(node: str, revision: int) -> NodeRecord:
    return NodeRecord(
        id=node, version="0", revision=revision, age=0.5, stale=False, sessions=3, started=1
    )


async def tell(store: Store, node: str, revision: int, ttl: int | None = None) -> None:
    """A data plane writes its record."""
    await store.put(records_prefix(PREFIX) + node, record(node, revision).encode(), ttl=ttl)
