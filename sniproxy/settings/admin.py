"""The admin API's section and the status port's."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from sniproxy.settings.fields import KIB, SECOND, Address, NetworkText, PositiveSeconds, Section

# Keys that APISIX published as defaults: whoever scans for APISIX tries them first (CVE-2020-13945).
PUBLISHED_KEYS = frozenset({"edd1c9f034335f136f87ad84b625c8f1", "4054f7cf07e344346cd3f287985e76a2"})


def _admin_key(key: str) -> str:
    if key in PUBLISHED_KEYS:
        raise ValueError("this is a default key of APISIX that everybody knows; make your own")
    return key


class AdminKey(Section):
    """A key for the admin API; `viewer` may only read."""

    name: str
    key: Annotated[str, StringConstraints(min_length=16), AfterValidator(_admin_key)] = Field(
        repr=False
    )
    role: Literal["admin", "viewer"] = "admin"


HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=128)]


class Admin(Section):
    """The admin API."""

    address: Address = "127.0.0.1:9180"
    keys: tuple[AdminKey, ...] = ()
    allow: tuple[NetworkText, ...] = ()  # addresses that may ask at all; none named: any
    cert_file: Path | None = None  # PEM, the chain after it; with its key: HTTPS, and no HTTP
    key_file: Path | None = None
    client_ca_file: Path | None = None  # with it a client needs a certificate by one of these
    max_body: Annotated[int, Field(ge=1)] = 1536 * KIB  # bytes of a request
    body_timeout: PositiveSeconds = 30 * SECOND  # to send a request's body
    store_timeout: PositiveSeconds = 10 * SECOND  # for all that one request asks of the store
    shutdown_delay: Annotated[float, Field(ge=0)] = 0.0  # seconds from SIGTERM on, not ready
    shutdown_timeout: Annotated[int, Field(ge=1)] = 1  # seconds for requests still in flight
    server_header: HeaderValue = (
        ""  # of every answer, such as APISIX/3.18.0 for tools that look at it
    )
    cors_origins: tuple[
        str, ...
    ] = ()  # pages that may call, such as https://dash.example.com; "*": all
    max_wait: PositiveSeconds = 60 * SECOND  # for all data planes, by ?wait=all

    @model_validator(mode="after")
    def _certificate_is_whole(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file are given together, or neither")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("client_ca_file needs cert_file and key_file: without them it is HTTP")
        return self


class Status(Section):
    """/livez, /readyz and /metrics of the data plane."""

    address: Address = "127.0.0.1:7085"
    metrics_routes: Annotated[int, Field(ge=1)] = 2_000  # told apart; others are one, "(other)"
    apisix_metrics: bool = False  # under the names of APISIX, too
