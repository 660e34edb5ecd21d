"""Certificates in a Kubernetes secret, renewed under a running data plane, and in variables, served to real players."""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509

from tests.support import plain_http
from tests.support.certificates import dated
from tests.support.players import Game, join, join_soon, pem_pair, say, trusting
from tests.support.secret_mount import SecretMount
from tests.support.stack import Stack, retry_until, stores

NAME, LATE, OF_VARIABLE, TWICE = (
    f"{name}.example.com" for name in ("mounted", "late", "variable", "twice")
)
BAR = 10.0  # seconds for what takes one look at the files
UNREADABLE = ("the certificate is not PEM that can be read", "in force")
TORN = ("the key does not belong to the certificate", "in force")
BROKEN = "sniproxy_config_broken_objects"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Stack]:
    """Two workers, each of which looks after the files by itself; with a pair in its environment."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch, stores("sqlite", folder) as (store, _):
        for member, text in pem_pair(authority, OF_VARIABLE).items():
            patch.setenv(f"TEST_{member.upper()}", text)
        with Stack(folder, store, workers=2, file_poll=0.2) as running:
            # one that comes while a file is torn has no last good version
            for _ in retry_until(BAR, "both workers"):
                if running.metrics()["sniproxy_workers"] == 2:
                    break
            yield running


def secret(pair: dict[str, str]) -> dict[str, str]:
    """As cert-manager names its members."""
    return {"tls.crt": pair["cert"], "tls.key": pair["key"]}


def serial(certificate: bytes) -> int:
    return x509.load_der_x509_certificate(certificate).serial_number


def serial_of(pair: dict[str, str]) -> int:
    return x509.load_pem_x509_certificate(pair["cert"].encode()).serial_number


def served(stack: Stack, name: str, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a player gets now."""
    with join(stack.port, name, context) as player:
        der = player.getpeercert(binary_form=True)
    assert der is not None
    return serial(der)


def serves_only(stack: Stack, name: str, context: ssl.SSLContext, expected: int) -> None:
    """Until both workers serve it: so many handshakes in a row would not all meet the same one."""
    row = 0
    for _ in retry_until(BAR, "the new certificate"):
        row = row + 1 if served(stack, name, context) == expected else 0
        if row == 20:
            return


def broken(stack: Stack, count: int) -> list[dict[str, Any]]:
    """Waits until the worker with most broken objects has so many: which."""
    for _ in retry_until(BAR, f"{count} broken objects"):
        if stack.metrics()[BROKEN] == count:
            break
    url = f"http://127.0.0.1:{stack.status_port}/config"
    found: list[dict[str, Any]] = plain_http.get(url).json()["broken"]
    return found


def skipped(stack: Stack, name: str, count: int) -> list[tuple[str, str]]:
    """Waits until the log has told so often that the object cannot be used: (why, what is served instead)."""
    for _ in retry_until(BAR, f"{count} lines"):
        lines = [line for line in stack.proxy.lines("object skipped") if line["key"].endswith(name)]
        if len(lines) >= count:
            break
    return [(line["cause"], line["last_good_version"]) for line in lines]


def put(stack: Stack, name: str, game: Game, ssl_object: dict[str, Any]) -> None:
    """A name with its certificate, in force on all workers."""
    stack.put(f"/ssls/{name}", {"sni": name} | ssl_object)
    route = {"sni": name, "upstream": {"nodes": game.nodes}}
    stack.put(f"/stream_routes/{name}?wait=all&timeout=60s", route)


def on_files(mount: SecretMount) -> dict[str, str]:
    return {"cert": f"$file://{mount / 'tls.crt'}", "key": f"$file://{mount / 'tls.key'}"}


def test_a_renewed_secret_is_served_and_sessions_go_on(
    stack: Stack, authority: trustme.CA, games: tuple[Game, Game], tmp_path: Path
) -> None:
    first, second, third = (pem_pair(authority, NAME) for _ in range(3))
    mount, context = SecretMount(tmp_path / "tls", secret(first)), trusting(authority)
    put(stack, NAME, games[0], on_files(mount))
    assert "key" not in stack.api.get(f"/ssls/{NAME}").json()["value"]
    with join_soon(stack.port, NAME, context) as staying:
        assert served(stack, NAME, context) == serial_of(first)
        mount.swap(secret(second))
        serves_only(stack, NAME, context, serial_of(second))
        assert say(staying, "after the swap") == f"[{games[0].name}] after the swap"

        mount.swap(secret(third) | {"tls.crt": third["cert"][:700]})  # half-written
        assert skipped(stack, NAME, 1) == [UNREADABLE]
        mount.swap(secret(third) | {"tls.key": first["key"]})  # torn
        assert skipped(stack, NAME, 2) == [UNREADABLE, TORN]
        serves_only(stack, NAME, context, serial_of(second))

        mount.swap(secret(third))
        serves_only(stack, NAME, context, serial_of(third))
        assert broken(stack, 0) == []
        assert say(staying, "still here") == f"[{games[0].name}] still here"
    assert skipped(stack, NAME, 2) == [UNREADABLE, TORN]
    text = stack.proxy.log.read_text() + stack.admin.log.read_text()
    assert not any(line in text for one in (first, second, third) for line in one["key"].splitlines()[1:-1])  # fmt: skip


def test_files_that_come_later_than_their_object(
    stack: Stack, authority: trustme.CA, games: tuple[Game, Game], tmp_path: Path
) -> None:
    mount, pair = SecretMount(tmp_path / "tls", {}), pem_pair(authority, LATE)
    put(stack, LATE, games[0], on_files(mount))
    absent = f"$file://{mount / 'tls.crt'}: No such file or directory"
    assert broken(stack, 1) == [{"key": f"/apisix/ssls/{LATE}", "why": absent, "kept": False}]
    with pytest.raises(ssl.SSLError):
        join(stack.port, LATE, trusting(authority))
    for name, content in secret(pair).items():
        mount.write(name, content)
    assert broken(stack, 0) == []
    serves_only(stack, LATE, trusting(authority), serial_of(pair))


def test_a_pair_in_variables(stack: Stack, authority: trustme.CA, games: tuple[Game, Game]) -> None:
    put(stack, OF_VARIABLE, games[1], {"cert": "$env://TEST_CERT", "key": "$ENV://TEST_KEY"})
    with join_soon(stack.port, OF_VARIABLE, trusting(authority)) as player:
        assert say(player, "hello") == f"[{games[1].name}] hello"


def test_a_certificate_that_has_expired_leaves_its_name_to_one_that_is_valid(
    stack: Stack, authority: trustme.CA, games: tuple[Game, Game]
) -> None:
    """Though that was written earlier."""
    lasting, now = pem_pair(authority, TWICE), time.time()
    put(stack, TWICE, games[0], lasting)
    expired = {"sni": TWICE} | dated(TWICE, now - 20, now - 10)
    stack.put(f"/ssls/later-{TWICE}?wait=all&timeout=60s", expired)
    serves_only(stack, TWICE, trusting(authority), serial_of(lasting))
