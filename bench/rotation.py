"""A certificate that is replaced again and again under handshakes: none fails, and the new one is served at once.

    python -m bench.rotation [--seconds 600] [--rate 50] [--every 1]

At the end what nobody could serve by is written too, a key of another certificate and a text that is none: each is refused,
and the last good one stays.
"""

import itertools
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import trio
import trustme
from cryptography import x509

from bench.machine import describe_machine, percentile
from tests.support.echo import echo_process
from tests.support.players import pem_pair, trusting
from tests.support.stack import Stack, stores

NAME = "rotates.example.com"
SERVED_WITHIN = (
    1.0  # seconds from the answer of the write to the last handshake with the one before
)
STEP = 10.0  # seconds for one player


@dataclass
class Seen:
    """Of all handshakes: when they began, and which certificate they got."""

    handshakes: list[tuple[float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def _visit(port: int, context: ssl.SSLContext, seen: Seen, name: str) -> None:
    begun = time.monotonic()
    try:
        with trio.fail_after(STEP):
            async with await trio.open_tcp_stream("127.0.0.1", port) as raw:
                stream = trio.SSLStream(raw, context, server_hostname=name, https_compatible=True)
                await stream.do_handshake()
                der = stream.getpeercert(binary_form=True)
                await stream.send_all(b"x")
                assert await stream.receive_some(1) == b"x"
                await stream.aclose()
    except (
        OSError,
        EOFError,
        trio.BrokenResourceError,
        trio.TooSlowError,
        AssertionError,
    ) as error:
        seen.failures.append(repr(error))
    else:
        seen.handshakes.append((begun, x509.load_der_x509_certificate(der).serial_number))


async def visits(
    port: int, context: ssl.SSLContext, seen: Seen, rate: float, names: Sequence[str] = (NAME,)
) -> None:
    """For ever, so many a second, to one name after the other."""
    due = trio.current_time()
    async with trio.open_nursery() as nursery:
        for name in itertools.cycle(names):
            nursery.start_soon(_visit, port, context, seen, name)
            due += 1 / rate
            await trio.sleep_until(due)


def _serial(pair: dict[str, str]) -> int:
    return x509.load_pem_x509_certificate(pair["cert"].encode()).serial_number


async def rotate(stack: Stack, game: int, seconds: float, rate: float, every: float) -> str:
    """A line of figures; AssertionError when a bar does not hold."""
    authority = trustme.CA()
    context = trusting(authority)
    last = pem_pair(authority, NAME)
    stack.put("/ssls/1", {"sni": NAME} | last)
    route = {"sni": NAME, "upstream": {"nodes": {f"127.0.0.1:{game}": 1}}}
    stack.put("/stream_routes/1?wait=all&timeout=60s", route)
    seen, written = Seen(), [(time.monotonic(), _serial(last))]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(visits, stack.port, context, seen, rate)
        ends = trio.current_time() + seconds
        while trio.current_time() < ends:
            last = await trio.to_thread.run_sync(pem_pair, authority, NAME)
            await trio.to_thread.run_sync(stack.put, "/ssls/1", {"sni": NAME} | last)
            written.append((time.monotonic(), _serial(last)))
            await trio.sleep(every)
        other = pem_pair(authority, "other.example.com")
        for bad in (
            {"cert": last["cert"], "key": other["key"]},
            {"cert": "no certificate", "key": last["key"]},
        ):
            answer = await trio.to_thread.run_sync(
                lambda bad=bad: stack.api.put("/ssls/1", json={"sni": NAME} | bad)  # type: ignore[misc]
            )
            assert answer.status_code == 400, answer.text
        await trio.sleep(max(every, SERVED_WITHIN))
        nursery.cancel_scope.cancel()
    late = []
    order = {serial: number for number, (_, serial) in enumerate(written)}
    for begun, serial in seen.handshakes:
        number = order[serial]
        if number + 1 < len(written):
            late.append(max(0.0, begun - written[number + 1][0]))
    line = (
        f"{len(written) - 1} certificates in {seconds:g} s under {rate:g} handshakes a second: {len(seen.failures)} of "
        f"{len(seen.handshakes) + len(seen.failures)} failed; an old one was served for at most {max(late) * 1000:.0f} ms "
        f"after the answer to the write (p99 {percentile(late, 0.99) * 1000:.0f} ms)"
    )
    assert not seen.failures, (line, seen.failures[:3])
    assert max(late) <= SERVED_WITHIN, line
    assert seen.handshakes[-1][1] == written[-1][1], line
    return line


@click.command()
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--rate", default=50.0, show_default=True, help="Handshakes a second.")
@click.option("--every", default=1.0, show_default=True, help="Seconds between two certificates.")
def main(seconds: float, rate: float, every: float) -> None:
    """A certificate that changes under handshakes."""
    click.echo(describe_machine())
    with (
        tempfile.TemporaryDirectory() as folder,
        echo_process() as game,
        stores("sqlite", Path(folder)) as (store, _),
        Stack(Path(folder) / "stack", store) as stack,
    ):
        try:
            click.echo(trio.run(rotate, stack, game, seconds, rate, every))
        except AssertionError as error:
            click.echo(f"FAILED: {error}", err=True)
            sys.exit(1)


if __name__ == "__main__":
    main()
