"""Plugins at work: what a route's and its service's `plugins` ask for, read once and looked up per connection. Pure."""

from collections.abc import Mapping
from typing import Any

from sniproxy.networks import IpAddress, Networks
from sniproxy.objects import IpRestriction, LimitConn, Prometheus, read_plugin


class AddressRule:
    """ip-restriction: everybody in the whitelist, or everybody but those in the blacklist."""

    __slots__ = ("_listed", "_wanted")

    def __init__(self, conf: IpRestriction) -> None:
        self._listed = Networks(conf.whitelist or conf.blacklist or ())
        self._wanted = conf.whitelist is not None

    def admits(self, address: IpAddress) -> bool:
        """Whether a client from that address may use the route."""
        return (address in self._listed) is self._wanted


# By name. None: switched off, which counts on a route against its service's.
Plugins = Mapping[str, AddressRule | LimitConn | None]

NONE: Plugins = {}


def enable(plugins: Mapping[str, Any] | None) -> Plugins:
    """The plugins of one object that change something; ValueError for one that cannot be enforced."""
    if not plugins:
        return NONE
    read = {name: read_plugin(name, conf) for name, conf in plugins.items()}
    return {
        name: AddressRule(conf) if isinstance(conf, IpRestriction) else conf
        for name, conf in read.items()
        if not isinstance(conf, Prometheus)
    }
