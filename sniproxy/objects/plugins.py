"""The plugins of APISIX's stream subsystem that are enforced here, by its names and fields.

A plugin that is not among them is refused: a route that asks for an access rule must never run without it. One that is
switched off (`_meta.disable`) is taken as it is, whatever it is.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from sniproxy.objects.describing import describe, not_one_of, shown
from sniproxy.objects.fields import AddressOrNetwork, Items, Lenient, Positive, Whole

# What `key` of limit-conn may name.
VARIABLES = frozenset(
    {"remote_addr", "server_addr", "server_port", "ssl_server_name", "ssl_preread_server_name"}
)
VARIABLE = re.compile(r"\$(?:(?P<bare>\w+)|\{(?P<braced>\w+)\})")

NetworkList = Annotated[Items[AddressOrNetwork], Field(min_length=1)]


class IpRestriction(Lenient):
    """Who may use a route: everybody in `whitelist`, or everybody but those in `blacklist`."""

    whitelist: NetworkList | None = None
    blacklist: NetworkList | None = None
    # An HTTP answer's text and code, which a stream has no place for.
    message: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if (self.whitelist is None) == (self.blacklist is None):
            why = "needs exactly one of whitelist and blacklist"
            raise ValueError(not_one_of(why, both=self.whitelist is not None))
        return self


class LimitConn(Lenient):
    """Sessions at once of one route that share a key: beyond `conn` they wait, beyond `conn` + `burst` they are refused.

    A session is kept waiting `default_conn_delay` seconds for each time that `conn` fits into those before it.
    """

    conn: Positive
    burst: Whole
    default_conn_delay: Annotated[float, Field(gt=0)]
    only_use_default_delay: bool = False  # HTTP only: there the delay follows the response time
    key: Annotated[str, StringConstraints(min_length=1)]
    key_type: Literal["var", "var_combination"] = "var"

    @model_validator(mode="after")
    def _known_variables(self) -> Self:
        names = self.variables
        for name in names:
            if name not in VARIABLES:
                known = ", ".join(sorted(VARIABLES))
                raise ValueError(f"key: unknown variable {shown(name)!r}; known are {known}")
        if not names:
            raise ValueError("key: names no variable, such as $remote_addr")
        return self

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of `key`, in its order."""
        if self.key_type == "var":
            return (self.key,)
        return tuple(found["bare"] or found["braced"] for found in VARIABLE.finditer(self.key))


class Prometheus(Lenient):
    """Metrics of a route. It changes nothing here: every route is counted."""

    prefer_name: bool = False


StreamPlugin = IpRestriction | LimitConn | Prometheus

MODELS: dict[str, type[StreamPlugin]] = {
    "ip-restriction": IpRestriction,
    "limit-conn": LimitConn,
    "prometheus": Prometheus,
}


def read_plugin(name: str, conf: Any) -> StreamPlugin | None:
    """A plugin's configuration; None when it is switched off. ValueError when it cannot be enforced."""
    meta = conf.get("_meta") if isinstance(conf, dict) else None
    if isinstance(meta, dict) and meta.get("disable") is True:
        return None
    if name not in MODELS:
        raise ValueError(f"unknown plugin [{shown(name)}]")
    try:
        return MODELS[name].model_validate(conf)
    except ValidationError as error:
        raise ValueError(
            f"failed to check the configuration of stream plugin [{name}]: {describe(error)}"
        ) from None


def _readable(plugins: dict[str, Any]) -> dict[str, Any]:
    for name, conf in plugins.items():
        read_plugin(name, conf)
    return plugins


Plugins = Annotated[dict[str, Any], AfterValidator(_readable)]
