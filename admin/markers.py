"""The marks that an APISIX makes of its empty collections at its start. Where they are missing it answers 404 for a list.

So an APISIX that comes to an etcd which began as ours finds what it expects. Whoever reads a store passes them over.
"""

import anyio

from sniproxy.errors import Conflict, StoreUnavailable
from sniproxy.logs import Log
from sniproxy.store import Store
from sniproxy.store.etcd_gateway import Refused

COLLECTIONS = (
    "consumer_groups",
    "consumers",
    "global_rules",
    "plugin_configs",
    "plugin_metadata",
    "plugins",
    "protos",
    "routes",
    "secrets",
    "services",
    "ssls",
    "stream_routes",
    "upstreams",
)
MARK = b"init_dir"
RETRY = 1.0  # seconds before a store that was away is asked again
RETRY_MAX = 60.0  # it doubles up to this: nobody waits


async def write_markers(store: Store, prefix: str, log: Log) -> None:
    """Writes those that are absent, however long that takes. One that etcd refuses, as to a role that is limited to some
    prefixes, is told once and tried again with the next round.
    """
    pause, left = RETRY, list(COLLECTIONS)
    refused: set[str] = set()
    while left:
        later: list[str] = []
        for place, collection in enumerate(left):
            key = f"{prefix}/{collection}/"
            try:
                await store.put(key, MARK, expect=0)
            except Conflict:  # it is there
                pass
            except Refused as error:
                later.append(collection)
                if collection not in refused:
                    refused.add(collection)
                    log.warning("mark of an APISIX refused", key=key, cause=str(error))
            except StoreUnavailable as error:
                later += left[place:]
                if pause == RETRY:
                    log.warning("marks of an APISIX not written yet", cause=str(error))
                break
        left = later
        if left:
            await anyio.sleep(pause)
            pause = min(pause * 2, RETRY_MAX)
