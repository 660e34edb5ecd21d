"""Who comes, and the key by which an upstream of `type: chash` knows them again. Pure.

Variables are those of APISIX's stream side. Where none has a value (another variable, a client that gave no name, a header)
the client's address is the key, as there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Caller:
    """A client on its way to a game server. Addresses as sockets give them: host, port, and what else may follow."""

    client: Any
    server: Any  # what it connected to
    server_name: str | None


NOBODY = Caller(("", 0), ("", 0), None)

KeyOf = Callable[[Caller], str]
Variable = Callable[[Caller], str]  # empty: it has no value


def _bare(host: str) -> str:
    """An IPv4 client on an IPv6 socket is an IPv4 client; a zone is no part of an address."""
    host = host.partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host


def _remote_addr(caller: Caller) -> str:
    host: str = caller.client[0]
    return _bare(host) if ":" in host else host


def _server_name(caller: Caller) -> str:
    return caller.server_name or ""


VARIABLES: dict[str, Variable] = {
    "remote_addr": _remote_addr,
    "remote_port": lambda caller: str(caller.client[1]),
    "server_addr": lambda caller: _bare(caller.server[0]),
    "server_port": lambda caller: str(caller.server[1]),
    "server_name": _server_name,
    "ssl_server_name": _server_name,  # as nginx calls it where it terminates TLS,
    "ssl_preread_server_name": _server_name,  # and where it passes TLS through
}

# $name, or ${name}, or ${name ?? what stands for it where it has no value}. In one way only, and no brace inside of braces:
# whatever somebody writes is read in a time that grows as it does.
_PLACE = re.compile(r"(?<!\\)\$(?:\{(?P<braced>[^{}]+)\}|(?P<bare>[\w.]+))")


def key_of(hash_on: str, key: str | None) -> KeyOf:
    """What makes the key of a client, for an upstream with these members."""
    if hash_on == "vars_combinations":
        return _combined(key or "")
    variable = VARIABLES.get(key or "") if hash_on == "vars" else None
    if variable is None or variable is _remote_addr:
        return _remote_addr  # headers, cookies and consumers are HTTP's
    return _or_address(variable)


def _or_address(variable: Variable) -> KeyOf:
    return lambda caller: variable(caller) or _remote_addr(caller)


def _combined(template: str) -> KeyOf:
    variables = [_variable(place["braced"] or place["bare"]) for place in _PLACE.finditer(template)]
    form = _PLACE.sub("%s", template.replace("%", "%%"))
    blank = form % tuple("" for _ in variables)

    def combine(caller: Caller) -> str:
        key = form % tuple([variable(caller) for variable in variables])
        return key if key != blank else _remote_addr(caller)

    return combine


def _variable(said: str) -> Variable:
    name, _, default = said.partition("??")
    variable = VARIABLES.get(name.strip(), _nothing)
    default = default.strip()
    return (lambda caller: variable(caller) or default) if default else variable


def _nothing(_caller: Caller) -> str:
    return ""
