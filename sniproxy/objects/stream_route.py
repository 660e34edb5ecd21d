"""The stream_route object: which connections go to which upstream."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from sniproxy.objects.describing import shown
from sniproxy.objects.fields import AddressOrNetwork, Id, Items, NamedMeta, Port, ServerName
from sniproxy.objects.plugins import Plugins
from sniproxy.objects.upstream import InlineUpstream


class StreamRoute(NamedMeta):
    """APISIX's stream_route, with `snis` and `tls_passthrough` of the releases after 3.18.

    Every condition that is set must hold: the server name, the client's address or network, and the address and port
    that the client connected to.
    """

    remote_addr: AddressOrNetwork | None = None
    server_addr: AddressOrNetwork | None = None
    server_port: Port | None = None
    sni: ServerName | None = None
    snis: Annotated[Items[ServerName], Field(min_length=1)] | None = None
    tls_passthrough: bool = False
    upstream: InlineUpstream | None = None
    upstream_id: Id | None = None
    service_id: Id | None = None
    plugins: Plugins | None = None
    protocol: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _names_and_protocol(self) -> Self:
        if self.sni is not None and self.snis is not None:
            raise ValueError("sni and snis exclude each other")
        if self.protocol:
            raise ValueError(f"unknown protocol [{shown(str(self.protocol.get('name')))}]")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The server names it is for, lower-cased, one trailing dot dropped; empty = any connection."""
        names = self.snis or ([self.sni] if self.sni else [])
        return tuple(name.lower().removesuffix(".") for name in names)
