"""`GET /ssls?detail=true`: what operators ask of a certificate, beside what is stored. Pure: the time is passed in.

"detail": {"certificates": [{"subject", "issuer", "serial", "names", "not_before", "not_after", "days_left",
           "fingerprint"} | {"reference"} | {"broken"}], "stream_routes": [ids]}
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from admin.catalog import Item

DAY = 24 * 60 * 60  # seconds


class Users:
    """Which stream routes have TLS ended by which certificate, by the names of both."""

    def __init__(self, ssls: Iterable[Item], routes: Iterable[Item]) -> None:
        ordered = sorted(ssls, key=lambda item: item.written)
        last = {name: item for item in ordered for name in item.tls_names}
        known = set(last)
        closed = {name for name, item in last.items() if item.wants_client}
        self._by_name: dict[str, list[str]] = {}
        for route in routes:
            for name in {
                found for wanted in route.tls_names for found in _served(wanted, known, closed)
            }:
                self._by_name.setdefault(name, []).append(route.object_id)

    def of(self, ssl: Item) -> list[str]:
        """The ids of the routes that use it, sorted."""
        return sorted({user for name in ssl.tls_names for user in self._by_name.get(name, ())})


def _served(wanted: str, known: set[str], closed: set[str]) -> Iterable[str]:
    """The names among those of all certificates by which a route's name is served.

    A route `*.x` takes names of any depth, so all certificates for names below x serve it; another one the closest. But
    where `*.y` further up wants client certificates, as those in `closed` do, `*` serves neither.
    """
    parent = wanted.partition(".")[2]
    if wanted.startswith("*"):
        below = {name for name in known if name.endswith(wanted[1:])}
        if below:
            return below
    else:
        for name in (wanted, "*." + parent):
            if name in known:
                return (name,)
    while parent:
        parent = parent.partition(".")[2]
        if "*." + parent in closed:
            return ()
    return {"*"} & known


def describe_ssl(ssl: Item, value: dict[str, Any], users: Users, now: float) -> dict[str, Any]:
    """The detail of one ssl object; now: Unix seconds."""
    more = value.get("certs")
    texts = [value.get("cert"), *(more if isinstance(more, list) else ())]
    return {
        "certificates": [_describe(text, now) for text in texts if isinstance(text, str)],
        "stream_routes": users.of(ssl),
    }


def _describe(text: str, now: float) -> dict[str, Any]:
    if text.startswith("$"):
        return {"reference": text}
    try:
        leaf = x509.load_pem_x509_certificates(text.encode())[0]
        ends = leaf.not_valid_after_utc
        return {
            "subject": leaf.subject.rfc4514_string(),
            "issuer": leaf.issuer.rfc4514_string(),
            "serial": f"{leaf.serial_number:x}",
            "names": _alternative_names(leaf),
            "not_before": _time(leaf.not_valid_before_utc),
            "not_after": _time(ends),
            "days_left": int((ends.timestamp() - now) // DAY),
            "fingerprint": leaf.fingerprint(SHA256()).hex(":"),
        }
    except Exception:  # of another tool's making: the parser has many ways to say so
        return {"broken": "the certificate is not PEM that can be read"}


def _alternative_names(leaf: x509.Certificate) -> list[str]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [str(one.value) for one in found.value]


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
