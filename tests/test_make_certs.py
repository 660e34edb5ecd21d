"""Throw-away certificates: what is written, with which mode, and that TLS accepts it."""

import ssl
import stat
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from certs.make_certs import DEFAULT_NAMES, main, make_certs

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The tests run on trio."""
    return "trio"


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def handshake(directory: Path, name: str, asked: str) -> None:
    """One TLS handshake on loopback: the server has `name`'s certificate, the client asks for `asked`."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(directory / f"{name}.crt", directory / f"{name}.key")
    client = ssl.create_default_context(cafile=directory / "ca.pem")

    async def greet(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with trio.move_on_after(10):
            try:
                await stream.send_all(b"welcome")
            except trio.BrokenResourceError:
                return  # the client did not like the certificate

    serve = partial(trio.serve_ssl_over_tcp, greet, 0, server, host="127.0.0.1")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listeners: list[trio.SSLListener[trio.SocketStream]] = await nursery.start(serve)
            listener = listeners[0].transport_listener
            assert isinstance(listener, trio.SocketListener)
            tcp = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
            stream = trio.SSLStream(tcp, client, server_hostname=asked, https_compatible=True)
            try:
                async with tcp:
                    assert await stream.receive_some() == b"welcome"
            finally:
                nursery.cancel_scope.cancel()


async def test_each_name_gets_a_certificate_that_verifies(tmp_path: Path) -> None:
    make_certs(tmp_path, ["gs-1.com", "gs-2.com"])
    await handshake(tmp_path, "gs-1.com", asked="gs-1.com")
    await handshake(tmp_path, "gs-2.com", asked="gs-2.com")


async def test_a_certificate_is_wrong_for_another_name(tmp_path: Path) -> None:
    make_certs(tmp_path, ["gs-1.com", "gs-2.com"])
    with pytest.RaisesGroup(trio.BrokenResourceError) as caught:
        await handshake(tmp_path, "gs-1.com", asked="gs-2.com")
    cause = caught.value.exceptions[0].__cause__
    assert isinstance(cause, ssl.SSLCertVerificationError)
    assert "mismatch" in cause.verify_message


def test_files_and_key_mode(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "folder"
    make_certs(directory, ["gs-1.com"])
    assert {path.name for path in directory.iterdir()} == {"ca.pem", "gs-1.com.crt", "gs-1.com.key"}
    assert mode(directory / "gs-1.com.key") == 0o600
    assert b"PRIVATE KEY" not in (directory / "gs-1.com.crt").read_bytes()


def test_nothing_is_reused(tmp_path: Path) -> None:
    make_certs(tmp_path, ["gs-1.com"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    make_certs(tmp_path, ["gs-1.com"])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_an_open_key_of_before_is_replaced_by_a_closed_one(tmp_path: Path) -> None:
    key = tmp_path / "gs-1.com.key"
    key.write_text("old")
    key.chmod(0o644)
    make_certs(tmp_path, ["gs-1.com"])
    assert mode(key) == 0o600


@pytest.mark.parametrize("name", ["", ".", "..", "../gs-1.com", "a/b", "a\\b", "a\0b", "-_-.com/"])
def test_a_bad_name_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        make_certs(tmp_path, ["gs-1.com", name])
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--dir", str(tmp_path), "a.com", "b.com", "a.com"])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"wrote {tmp_path}/ca.pem",
        f"wrote {tmp_path}/a.com.crt and a.com.key",
        f"wrote {tmp_path}/b.com.crt and b.com.key",
    ]


def test_command_line_without_names(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["--dir", str(tmp_path)]).exit_code == 0
    assert {path.stem for path in tmp_path.glob("*.crt")} == set(DEFAULT_NAMES)


def test_command_line_refuses_a_bad_name_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--dir", str(tmp_path), "a/b"])
    assert result.exit_code == 1
    assert result.output == "Error: no certificates: 'a/b' is not a host name\n"
