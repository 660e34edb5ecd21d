"""The field types that the four kinds share: APISIX's limits and patterns (schema of 3.18), one definition each."""

import ipaddress
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from sniproxy.objects.describing import none_of

# As APISIX writes them: its users see them in messages.
ID_PATTERN = r"^[a-zA-Z0-9-_.]+$"
HOST_PATTERN = r"^\*$|^\*?[0-9a-zA-Z-._\[\]:]+$"

# The numbers of an APISIX are doubles: beyond this one it cannot tell two from each other.
EXACT = 2**53 - 1


class Strict(BaseModel):
    """An object as JSON gives it: no coercion, no unknown members, never changed after it was read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Lenient(Strict):
    """A nested object in which APISIX accepts members that its schema does not name."""

    model_config = ConfigDict(extra="allow")


def _address(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        why = "expected an IPv4 or IPv6 address, or a network in CIDR form"
        raise ValueError(none_of(why)) from None
    return text


def _server_name(text: str) -> str:
    if text in (".", "*."):  # "" or "*" without its dot, and who wrote it meant neither
        raise ValueError(f'no name is left of "{text}" without its final dot')
    return text


# Up to the first item that is wrong: of half a million of them, which a body has room for, nobody reads the others.
T = TypeVar("T")
Items = Annotated[list[T], Field(fail_fast=True)]

Integer = Annotated[int, Field(ge=-EXACT, le=EXACT)]
Whole = Annotated[int, Field(ge=0, le=EXACT)]
Positive = Annotated[int, Field(ge=1, le=EXACT)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=ID_PATTERN)] | Positive
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Description = Annotated[str, StringConstraints(max_length=256)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^\S+$")]
HostPattern = Annotated[str, StringConstraints(min_length=1, pattern=HOST_PATTERN)]
ServerName = Annotated[HostPattern, AfterValidator(_server_name)]
AddressOrNetwork = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Meta(Strict):
    """What every kind carries."""

    id: Id | None = None
    desc: Description | None = None
    labels: dict[str, Label] | None = None
    create_time: Whole | None = None  # Unix seconds
    update_time: Whole | None = None  # Unix seconds


class NamedMeta(Meta):
    """What every kind but ssl carries."""

    name: Name | None = None
