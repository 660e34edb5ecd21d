"""The service object: an upstream that several stream routes share."""

from typing import Annotated

from pydantic import Field

from sniproxy.objects.fields import HostPattern, Id, Items, NamedMeta
from sniproxy.objects.plugins import Plugins
from sniproxy.objects.upstream import InlineUpstream


class Service(NamedMeta):
    """APISIX's service. `hosts`, `script` and `enable_websocket` concern HTTP and change nothing here."""

    upstream: InlineUpstream | None = None
    upstream_id: Id | None = None
    plugins: Plugins | None = None
    hosts: Annotated[Items[HostPattern], Field(min_length=1)] | None = None
    script: str | None = None
    enable_websocket: bool | None = None
