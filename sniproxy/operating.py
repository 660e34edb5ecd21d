"""`sniproxy drain` and `sniproxy upgrade`: what an operator asks a data plane on this machine, by its control socket."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import click
import httpx

from sniproxy.commands import Duration, config_option
from sniproxy.control import FILE
from sniproxy.drain import Phase
from sniproxy.errors import SniproxyError
from sniproxy.forecast import Forecast, describe
from sniproxy.settings import load_settings

ANSWER_WITHIN = 60.0  # seconds; an upgrade is answered once the new version was tried
LOOK_EVERY = 1.0  # seconds between two looks at the count
LINE_EVERY = 10.0  # seconds between two lines where no terminal shows them
PROGRAM_WITHIN = 60.0  # seconds for the new version to serve


class Unreachable(SniproxyError):
    """No data plane answers at its control socket."""


class Refused(SniproxyError):
    """It answers that it will not."""


class Plane:
    """A data plane on this machine. A context manager."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        # no TLS here, so no authorities of the web are read, which takes a while
        transport = httpx.HTTPTransport(uds=str(self._path), verify=False)
        self._client = httpx.Client(
            transport=transport, base_url="http://sniproxy", timeout=ANSWER_WITHIN
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, method: str, target: str) -> dict[str, Any]:
        """Its answer; Unreachable, or Refused with its reason."""
        try:
            answer = self._client.request(method, target)
        except httpx.TransportError as error:
            raise Unreachable(
                f"no data plane answers at {self._path}: {error}. Give the settings file that it was started with (-c), "
                "and ask as the same user, on the same machine or in the same container"
            ) from None
        if answer.is_error:
            raise Refused(answer.text.strip())
        content: dict[str, Any] = json.loads(answer.text)
        return content


@click.command(name="drain")
@config_option
@click.option("--route", metavar="ID", help="Only this stream_route.")
@click.option("--undo", is_flag=True, help="Let players in again.")
@click.option(
    "--deadline",
    type=Duration(),
    metavar="DURATION",
    help="End those who still play then, one by one over drain.spread. Without it nobody is ended.",
)
@click.option("--no-wait", is_flag=True, help="Only ask for it.")
def drain_command(
    file: Path | None, route: str | None, undo: bool, deadline: float | None, no_wait: bool
) -> None:
    """Let no new player in, without stopping, and show how many are left.

    The data plane is not ready any more at once, and goes on letting players in for drain.accept seconds: balancers need
    them. Exit code 0 once nobody is left. Ctrl-C ends the watching; the drain goes on until `--undo`, or SIGTERM ends it.
    """
    if deadline is not None and (route is not None or undo):
        raise click.UsageError("--deadline goes with the whole data plane, and not with --undo")
    target = "/drain" if route is None else f"/drain/{quote(route, safe='')}"
    with Plane(load_settings(file).state_dir) as plane:
        if undo:
            plane.ask("DELETE", target)
            click.echo("players are let in again")
            return
        query = "" if deadline is None else f"?deadline={deadline:g}"
        plane.ask("POST", target + query)
        if no_wait:
            return
        try:
            _watch(plane, target)
        except KeyboardInterrupt:
            click.echo("\nit goes on; to take it back: the same command with --undo", err=True)
            sys.exit(130)


def _watch(plane: Plane, target: str) -> None:
    """Until nobody is left."""
    forecast = Forecast()
    shown_at = 0.0
    while True:
        try:
            state = plane.ask("GET", target)
        except Unreachable:  # SIGTERM was sent to it meanwhile
            click.echo("the data plane has ended")
            return
        now, sessions = time.monotonic(), state["sessions"]
        forecast.note(now, sessions)
        whole = "phase" in state
        if not whole and not state["drained"]:
            raise Refused("the drain was taken back")
        if whole and state["phase"] == Phase.SERVING:
            raise Refused("the drain was taken back")
        done = state["phase"] == Phase.OVER if whole else not sessions
        line = f"{sessions} sessions{_phase(state) if whole else ''}"
        if not done:
            line += f"; empty: {describe(forecast.seconds_left(now))}"
        if sys.stdout.isatty():
            click.echo(f"\r{line:<100}", nl=done)
        elif done or now - shown_at >= LINE_EVERY:
            click.echo(line)
            shown_at = now
        if done:
            return
        time.sleep(LOOK_EVERY)


def _phase(state: dict[str, Any]) -> str:
    left = state["seconds_left"]
    match state["phase"]:
        case Phase.LEAVING:
            return f", not ready any more, lets players in for another {left:.0f} s"
        case Phase.WAITING if left is not None:
            return f", closed to new players; the rest is ended from {describe(left)} on"
        case Phase.WAITING:
            return ", closed to new players"
        case Phase.ENDING:
            return ", the rest is being ended"
    return ""


@click.command(name="upgrade")
@config_option
def upgrade_command(file: Path | None) -> None:
    """Become the version that is installed now, on the same sockets, without losing anybody.

    All settings are read again, those too that cannot change otherwise. Running sessions finish in the old workers.
    Exit code 0 once the new version lets players in; 1: it could not run, and the old one goes on.
    """
    with Plane(load_settings(file).state_dir) as plane:
        before = plane.ask("POST", "/upgrade")
        deadline = time.monotonic() + PROGRAM_WITHIN
        while time.monotonic() < deadline:
            time.sleep(LOOK_EVERY / 10)
            with suppress(Unreachable):  # it is on its way
                now = plane.ask("GET", "/version")
                if now["generation"] != before["generation"] and now["ready"]:
                    break
        else:
            raise Refused(f"no new version serves after {PROGRAM_WITHIN:g} s: see its log")
    old = f"{now['old_sessions']} sessions finish in {now['old_workers']} old workers"
    click.echo(f"version {now['version']} serves (before: {before['version']}); {old}")
