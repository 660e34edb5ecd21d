"""The API over TLS: a real process, certificates that are renewed under it, clients with and without their own."""

import json
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from admin.tls import make_context
from sniproxy.errors import SettingsError
from sniproxy.settings import Admin
from tests.admin.gateway import ADMIN_KEY, KEYS
from tests.admin.processes import PATIENCE, run, start
from tests.support.players import join, trusting
from tests.support.ports import free_ports
from tests.support.stack import retry_until

NAME = "admin.example.com"
REQUEST = (
    f"GET /apisix/admin/ssls HTTP/1.1\r\nHost: {NAME}\r\nX-API-KEY: {ADMIN_KEY}\r\n"
    "Connection: close\r\n\r\n"
).encode()


def write_pair(folder: Path, authority: trustme.CA) -> bytes:
    """A new certificate and its key into the files of the settings; the certificate as DER."""
    leaf = authority.issue_cert(NAME, "127.0.0.1")
    (folder / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


def files(folder: Path, *, clients: bool = False) -> dict[str, str]:
    """The settings of the certificate, and of those of clients."""
    found = {"cert_file": str(folder / "cert.pem"), "key_file": str(folder / "key.pem")}
    return found | ({"client_ca_file": str(folder / "clients.pem")} if clients else {})


class Server:
    """`sniproxy admin` with TLS; with `clients` only for those who have a certificate of theirs."""

    def __init__(self, folder: Path, clients: trustme.CA | None = None) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.first = write_pair(folder, self.authority)
        if clients is not None:
            clients.cert_pem.write_to_path(str(folder / "clients.pem"))
        (self.port,) = free_ports(1)
        members = files(folder, clients=clients is not None)
        self.process = start(
            "admin",
            settings={
                "SNIPROXY_STORE": f"sqlite://{folder}/config.db",
                "SNIPROXY_STATE_DIR": str(folder),
                "SNIPROXY_ADMIN__ADDRESS": f"127.0.0.1:{self.port}",
                "SNIPROXY_ADMIN__KEYS": json.dumps(KEYS),
                **{f"SNIPROXY_ADMIN__{name.upper()}": path for name, path in members.items()},
            },
        )
        for _ in retry_until(PATIENCE, "a server that listens"):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                assert self.process.poll() is None
            else:
                return

    def served(self, context: ssl.SSLContext | None = None) -> bytes | None:
        """The certificate by which a request was answered."""
        with join(self.port, NAME, context or trusting(self.authority)) as sock:
            sock.sendall(REQUEST)
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
            return sock.getpeercert(binary_form=True)

    def refuses(self, context: ssl.SSLContext) -> bool:
        """Whether a client gets no answer. By TLS 1.3 it is told after its side of the handshake, or just closed on."""
        try:
            with join(self.port, NAME, context) as sock:
                sock.sendall(REQUEST)
                return not sock.recv(100)
        except (ssl.SSLError, ConnectionError):
            return True

    def end(self) -> tuple[int, list[dict[str, object]], str]:
        """Its exit code, its log, and what else it said."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], err


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers in the test's directory; none is left."""
    made: list[Server] = []

    def started(clients: trustme.CA | None = None) -> Server:
        made.append(Server(tmp_path, clients))
        return made[-1]

    yield started
    for one in made:
        if one.process.returncode is None:
            one.process.kill()
            one.process.communicate()


def test_a_renewed_certificate_is_served_at_once(serve: Callable[..., Server]) -> None:
    """And one that cannot be used is not: the one before goes on, and the log says why, once."""
    server = serve()
    assert server.served() == server.first
    second = write_pair(server.folder, server.authority)
    assert server.served() == second
    (server.folder / "key.pem").write_text("half a fi")
    assert [server.served() for _ in range(3)] == [second] * 3
    (server.folder / "cert.pem").unlink()
    assert server.served() == second
    third = write_pair(server.folder, server.authority)
    assert server.served() == third
    code, log, err = server.end()
    assert (code, err) == (0, "")
    kept = [str(line["cause"]) for line in log if line["event"] == "certificate kept"]
    assert len(kept) == 2
    assert all(str(server.folder / "cert.pem") in one for one in kept)


def test_our_commands_ask_by_https(serve: Callable[..., Server]) -> None:
    server = serve()
    server.authority.cert_pem.write_to_path(str(server.folder / "ca.pem"))
    command = ("dump", "--admin", f"https://127.0.0.1:{server.port}", "--key", ADMIN_KEY)
    done = run(*command, settings={"SSL_CERT_FILE": str(server.folder / "ca.pem")})
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("# end: 0 objects\n")
    done = run(*command, settings={})
    assert done.returncode != 0
    assert "certificate verify failed" in done.stderr


def test_who_speaks_no_tls_or_an_old_one_gets_nothing(serve: Callable[..., Server]) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as sock:
        sock.sendall(REQUEST)
        assert b"HTTP" not in sock.recv(100)
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_1"],
        input=b"",
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    assert server.served() == server.first  # nor does it stop for others
    assert server.end()[2] == ""


def test_clients_show_a_certificate(serve: Callable[..., Server]) -> None:
    """Of the authority that is in the file by then."""
    clients, others = trustme.CA(), trustme.CA()
    server = serve(clients)

    def context(authority: trustme.CA | None) -> ssl.SSLContext:
        made = trusting(server.authority)
        if authority is not None:
            authority.issue_cert("ops@example.com").configure_cert(made)
        return made

    assert server.served(context(clients)) == server.first
    assert server.refuses(context(None))
    assert server.refuses(context(others))
    others.cert_pem.write_to_path(str(server.folder / "clients.pem"))
    assert server.served(context(others)) == server.first
    assert server.refuses(context(clients))
    assert server.end()[0] == 0


def no_certificate(folder: Path) -> None:
    (folder / "cert.pem").unlink()


def no_pem(folder: Path) -> None:
    (folder / "cert.pem").write_text("no certificate")


def key_of_another(folder: Path) -> None:
    before = (folder / "cert.pem").read_bytes()
    write_pair(folder, trustme.CA())
    (folder / "cert.pem").write_bytes(before)


def key_with_a_passphrase(folder: Path) -> None:
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
        )
    )


def no_authority(folder: Path) -> None:
    (folder / "clients.pem").write_text("")


@pytest.mark.parametrize(
    ("spoil", "setting", "why"),
    [
        (no_certificate, "cert_file", "No such file or directory"),
        (no_pem, "cert_file", "PEM"),
        (key_of_another, "key_file", "KEY_VALUES_MISMATCH"),
        (key_with_a_passphrase, "key_file", "the key is encrypted with a passphrase"),
        (no_authority, "client_ca_file", "no certificate or crl found"),
    ],
)
def test_what_it_cannot_serve_with_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], setting: str, why: str
) -> None:
    authority = trustme.CA()
    write_pair(tmp_path, authority)
    authority.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    admin = Admin.model_validate(files(tmp_path, clients=True))
    make_context(admin)
    key = (tmp_path / "key.pem").read_text()
    spoil(tmp_path)
    with pytest.raises(SettingsError) as caught:
        make_context(admin)
    assert f"admin.{setting} {getattr(admin, setting)}" in str(caught.value)
    assert why.lower() in str(caught.value).lower()
    assert not any(line in str(caught.value) for line in key.splitlines() if line)
