"""Players and game servers of the end-to-end tests: blocking sockets with a deadline on everything."""

import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass

import trustme

DEADLINE = 10.0  # seconds for any one step of a player


@dataclass(frozen=True)
class Game:
    """An echo game server of examples/game_echo."""

    name: str
    port: int

    @property
    def nodes(self) -> dict[str, int]:
        return {f"127.0.0.1:{self.port}": 1}


def pem_pair(authority: trustme.CA, *names: str) -> dict[str, str]:
    """`cert` and `key` of an ssl object for these names."""
    leaf = authority.issue_cert(*names)
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    return {"cert": chain.decode(), "key": leaf.private_key_pem.bytes().decode()}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority and checks names."""
    # Whoever names no authority here has all those of the machine read, 25 ms of CPU.
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


def connect(port: int) -> socket.socket:
    """A TCP connection to this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)


def join(port: int, name: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A TLS connection by that name; the OSError or SSLError that a player would see."""
    sock = connect(port)
    try:
        return context.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def join_soon(port: int, name: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The same for a name that was written a moment ago: tried until it is in force."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            return join(port, name, context)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.002)


def say(sock: socket.socket, text: str) -> str:
    """Sends a line and returns the answer line."""
    sock.sendall(text.encode() + b"\n")
    answer = bytearray()
    while not answer.endswith(b"\n"):
        data = sock.recv(4096)
        if not data:
            raise ConnectionError(f"ended after {bytes(answer)!r}")
        answer += data
    return answer.decode().rstrip("\n")


def client_hello(name: str | None) -> bytes:
    """The bytes that OpenSSL sends first when it asks for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no authorities: nothing is verified here
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    player = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        player.do_handshake()
    return outgoing.read()
