"""The ssl object: a certificate, its key and the names it is served for."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from sniproxy.objects.fields import Items, Lenient, Meta, ServerName, Whole
from sniproxy.objects.references import parse


def _or_reference(value: Any, literal: ValidatorFunctionWrapHandler) -> Any:
    """A reference is as long as it is; what it names is looked at by whoever resolves it."""
    if isinstance(value, str) and parse(value) is not None:
        return value
    return literal(value)


MayRefer = WrapValidator(_or_reference)
Pem = Annotated[str, StringConstraints(min_length=128, max_length=65536), MayRefer]
KeyText = Annotated[str, StringConstraints(min_length=64, max_length=65536), MayRefer]
OLD_TIMES = (
    "validity_start",
    "validity_end",
)  # that an APISIX before 3.7 has stored: nobody looks at them
Protocol = Literal["TLSv1.1", "TLSv1.2", "TLSv1.3"]


def _unique(values: list[Protocol]) -> list[Protocol]:
    for place, value in enumerate(values, 1):
        first = values.index(value) + 1
        if first < place:
            raise ValueError(f"expected unique items but items {first} and {place} are equal")
    return values


class SslClient(Lenient):
    """Client authentication: the CA that client certificates must come from."""

    ca: Pem
    depth: Whole = 1
    skip_mtls_uri_regex: Items[str] | None = None


class Ssl(Meta):
    """APISIX's ssl. `key` and `keys` hold PEM text here, or references; at rest the former are encrypted."""

    type: Literal["server", "client"] = "server"
    cert: Pem
    key: KeyText
    certs: Items[Pem] | None = None
    keys: Items[KeyText] | None = None
    sni: ServerName | None = None
    snis: Annotated[Items[ServerName], Field(min_length=1)] | None = None
    client: SslClient | None = None
    status: Literal[0, 1] = 1
    ssl_protocols: (
        Annotated[Items[Protocol], Field(min_length=1, max_length=3), AfterValidator(_unique)]
        | None
    ) = None

    @model_validator(mode="after")
    def _names_and_pairs(self) -> Self:
        if self.type == "server" and (self.sni is None) == (self.snis is None):
            raise ValueError("a server certificate needs exactly one of sni and snis")
        if len(self.certs or ()) != len(self.keys or ()):
            raise ValueError("mismatched number of certs and keys")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The server names it is served for, lower-cased, one trailing dot dropped."""
        names = self.snis or ([self.sni] if self.sni else [])
        return tuple(name.lower().removesuffix(".") for name in names)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(certificate chain PEM, key PEM), the main one first."""
        return ((self.cert, self.key), *zip(self.certs or (), self.keys or (), strict=True))
