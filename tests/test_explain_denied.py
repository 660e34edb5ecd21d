"""What `sniproxy explain` says of nodes that may not be reached, and that the data plane does what it says."""

import ipaddress

import pytest
import trio

from sniproxy.explain import Explanation, explain
from sniproxy.forbidden import Forbidden
from sniproxy.router import Arrival
from sniproxy.settings import Listener, Proxy
from tests.support.certificates import NAME
from tests.support.gateway import fill, open_gateway
from tests.support.hellos import named
from tests.support.names import resolving

pytestmark = pytest.mark.anyio

HOME = ipaddress.ip_address("127.0.0.1")
LISTENER = Listener(address="127.0.0.1:0", tls_passthrough=True)
CLOUD, OWN, FREE = "169.254.169.254", "etcd.games", "127.0.0.77"
NEVER = "link-local, multicast and unspecified addresses are no game servers: proxy.allow_upstreams opens them"


@pytest.mark.parametrize(
    ("nodes", "denied"),
    [
        ({f"{FREE}:9": 1}, []),
        ({f"{CLOUD}:9": 1}, [f"{CLOUD}:9: {NEVER}"]),
        ({CLOUD: 1}, [f"{CLOUD}:4242: {NEVER}"]),
        ({f"{CLOUD}:9": 1, f"{FREE}:9": 1}, [f"{CLOUD}:9: {NEVER}"]),
        ({f"{OWN}:2379": 1}, [f"{OWN}:2379: {OWN}:2379 is ours"]),
        ({"127.1:7085": 1}, ["127.1:7085: 127.0.0.1:7085 is ours"]),
    ],
)
async def test_who_is_denied(nodes: dict[str, int], denied: list[str]) -> None:
    """All of them, and the session is; else the others are asked. Also by a name of ours, wherever DNS says that it is."""
    objects = {"stream_routes/1": {"sni": NAME, "upstream": {"nodes": nodes}}}
    own = [f"{OWN}:2379", "127.0.0.1:7085"]
    forbidden = Forbidden(Proxy(listeners=(LISTENER,)), own)
    asked = Arrival(NAME, HOME, HOME, 4242)
    said = explain(fill(objects), LISTENER, asked, 0, Explanation(), forbidden)
    assert [text for topic, text in said.lines if topic == "denied"] == denied
    reason = "upstream_denied" if len(denied) == len(nodes) else "upstream_refused"
    assert (said.refused or "upstream_refused") == reason
    with trio.fail_after(10), resolving({OWN: [FREE], "127.1": [FREE]}):
        async with open_gateway(LISTENER, objects, connect_timeout=1) as gateway:
            gateway.worker.forbidden = forbidden
            player = gateway.dial()
            await player.send(named(NAME.encode()))
            line = await gateway.lines.next()
            player.close()
    if len(nodes) == 1:  # of two, which one is first?
        assert line["reason"] == reason
