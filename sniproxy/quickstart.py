"""Everything on one machine: admin, data plane, three echo game servers, throw-away certificates, objects through the API.

Each part is a process of its own, started with the settings file that is left in the data directory, so that what a newcomer
tries here is what runs elsewhere.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from shlex import quote
from string import Template
from typing import Any

import click
import httpx
import trio
import yaml

from certs.make_certs import make_certs
from sniproxy.doors import addresses
from sniproxy.errors import SettingsError, SniproxyError
from sniproxy.listener import bind, listen
from sniproxy.settings import Settings, load_settings, new_admin_key, split_address

SIGNALS = signal.SIGINT, signal.SIGTERM  # that end it
START_TIMEOUT = 60.0  # seconds until every part must answer
STOP_TIMEOUT = 1.5  # seconds between SIGTERM and SIGKILL
LATE_SIGNAL = (
    0.1  # seconds by which we may hear of Ctrl-C later than the parts, whom it reaches too
)
POLL = 0.05  # seconds between two questions whether a part is up

TERMINATED = ("gs-1.com", "gs-2.com")
PASSED_THROUGH = "tls-1.com"


@dataclass(frozen=True, slots=True)
class Game:
    """One echo game server."""

    sni: str
    name: str
    port: int


class _Page(Template):
    delimiter = "@"


class PartDied(SniproxyError):
    """A process ended by itself; the message names it and its exit code."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} ended with exit code {code}; its own message stands above")
        self.code = code


class Quickstart:
    """One run."""

    def __init__(self, file: Path | None, data_dir: Path, games_from: int) -> None:
        self._dir = data_dir
        self._certs = data_dir / "certs"
        self._games = [
            Game(sni, f"test-server-{number}", games_from + number - 1)
            for number, sni in enumerate((*TERMINATED, PASSED_THROUGH), 1)
        ]
        self._key_file = data_dir / "admin.key"
        self._settings_file = data_dir / "sniproxy.yaml"
        self._settings = self._prepare(file)
        self._processes: dict[str, trio.Process] = {}

    async def run(self) -> int:
        """Until Ctrl-C, SIGTERM or the end of a part. Returns the exit code."""
        self._check_ports()
        for one in SIGNALS:  # so that they mean nothing any more once nobody receives them
            signal.signal(one, signal.SIG_IGN)
        with trio.open_signal_receiver(*SIGNALS) as signals:
            code, asked = 0, False
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._start, nursery)
                    await anext(aiter(signals))
                    asked = True
                    nursery.cancel_scope.cancel()
            except* PartDied as group:
                with trio.move_on_after(0 if asked else LATE_SIGNAL):
                    await anext(aiter(signals))
                    asked = True
                if not asked:
                    died = group.exceptions[0]
                    assert isinstance(died, PartDied)
                    click.echo(f"sniproxy quickstart: {died}", err=True)
                    code = died.code or 1
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop()
        return code

    def _prepare(self, file: Path | None) -> Settings:
        """The settings of all parts, kept with the admin key and the certificates in the data directory."""
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            settings = load_settings(file, self._own_settings(load_settings(file)))
            if settings.admin.cert_file is not None:
                raise SettingsError(
                    "admin.cert_file: quickstart asks the admin API without TLS: leave it out, "
                    "or start `sniproxy admin` and `sniproxy proxy` by themselves"
                )
            _write_private(self._settings_file, yaml.safe_dump(_plain(settings)))
            wanted = [
                self._certs / f"{game.sni}.{end}" for game in self._games for end in ("crt", "key")
            ]
            if not all(path.exists() for path in wanted):
                make_certs(self._certs, [game.sni for game in self._games])
        except OSError as error:
            raise SettingsError(f"--data-dir: {self._dir}: {error.strerror}") from error
        return settings

    def _own_settings(self, given: Settings) -> dict[str, Any]:
        """What quickstart decides itself. Its key stands beside those of the operator's own settings."""
        if not self._key_file.exists():
            _write_private(self._key_file, new_admin_key() + "\n")
        keys = [key.model_dump() for key in given.admin.keys]
        # Ctrl-C is to end it: nobody waits for the sessions of a demo, unless told to.
        drain = {} if "drain" in given.model_fields_set else {"drain": {"deadline": 0, "spread": 0}}
        return {
            **drain,
            "store": f"sqlite://{self._dir / 'config.db'}",
            "state_dir": str(self._dir),
            "admin": {"keys": [*keys, {"name": "quickstart", "key": self._key}]},
        }

    @property
    def _key(self) -> str:
        return self._key_file.read_text().strip()

    def _check_ports(self) -> None:
        """A port that is taken is known before anything was started."""
        wanted = [
            *addresses(self._settings),
            (self._settings.admin.address, "admin.address"),
            *((f"127.0.0.1:{game.port}", "--games-from") for game in self._games),
        ]
        held = []
        try:
            for address, setting in wanted:
                held.append(bind(address, setting))
                listen(held[-1], setting, backlog=1)
        finally:
            for sock in held:
                sock.close()

    async def _start(self, nursery: trio.Nursery) -> None:
        module = [sys.executable, "-m"]
        settings = ["-c", str(self._settings_file)]
        for game in self._games:
            command = [*module, "examples.game_echo", str(game.port), game.name]
            if game.sni == PASSED_THROUGH:
                pair = [str(self._certs / f"{game.sni}.{end}") for end in ("crt", "key")]
                command += ["--cert", pair[0], "--key", pair[1]]
            await self._launch(nursery, game.name, command)
        await self._launch(nursery, "admin", [*module, "sniproxy.cli", "admin", *settings])
        await self._launch(nursery, "proxy", [*module, "sniproxy.cli", "proxy", *settings])
        with trio.move_on_after(START_TIMEOUT) as scope:
            await self._write_objects()
            await self._ready(f"http://{_reachable(self._settings.status.address)}/readyz")
        if scope.cancelled_caught:
            raise SettingsError(
                f"not up within {START_TIMEOUT:g} s; what was last said stands above"
            )
        click.echo(self._welcome())

    async def _launch(self, nursery: trio.Nursery, name: str, command: list[str]) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SNIPROXY_")
        }
        process = await trio.lowlevel.open_process(
            command, env=environment, stdin=subprocess.DEVNULL
        )
        self._processes[name] = process
        nursery.start_soon(_watch, name, process)

    async def _ready(self, url: str) -> None:
        async with httpx.AsyncClient(timeout=1, verify=False) as client:
            while True:
                try:
                    if (await client.get(url)).status_code < 500:
                        return
                except httpx.TransportError:
                    pass  # not up yet
                await trio.sleep(POLL)

    async def _write_objects(self) -> None:
        """What an operator would do with curl."""
        address = _reachable(self._settings.admin.address)
        await self._ready(f"http://{address}/apisix/admin/ssls")
        async with httpx.AsyncClient(
            base_url=f"http://{address}/apisix/admin",
            headers={"X-API-KEY": self._key},
            timeout=5,
            verify=False,
        ) as client:
            for game in self._games:
                route: dict[str, Any] = {
                    "sni": game.sni,
                    "upstream": {"nodes": {f"127.0.0.1:{game.port}": 1}, "type": "roundrobin"},
                }
                if game.sni == PASSED_THROUGH:
                    route["tls_passthrough"] = True
                else:
                    ssl = {
                        "snis": [game.sni],
                        "cert": (self._certs / f"{game.sni}.crt").read_text(),
                        "key": (self._certs / f"{game.sni}.key").read_text(),
                    }
                    (await client.put(f"/ssls/{game.sni}", json=ssl)).raise_for_status()
                path = f"/stream_routes/{game.sni}"
                (await client.put(path, json=route)).raise_for_status()

    def _welcome(self) -> str:
        first, _, passed = self._games
        return _Page(files("sniproxy").joinpath("welcome.txt").read_text()).substitute(
            listener=_reachable(self._settings.proxy.listeners[0].address),
            admin=_reachable(self._settings.admin.address),
            key=f"$(cat {quote(str(self._key_file))})",
            first_sni=first.sni,
            first_name=first.name,
            first_port=first.port,
            passed_sni=passed.sni,
            directory=self._dir,
        )

    async def _stop(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        with trio.move_on_after(STOP_TIMEOUT):
            for process in self._processes.values():
                await process.wait()
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _watch(name: str, process: trio.Process) -> None:
    raise PartDied(name, await process.wait())


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings as YAML can hold them."""
    plain: dict[str, Any] = settings.model_dump(mode="json", exclude_unset=True)
    return plain


def _reachable(address: str) -> str:
    """Where a client on this machine finds a listener: 0.0.0.0 and [::] are no addresses to connect to."""
    host, port = split_address(address)
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
