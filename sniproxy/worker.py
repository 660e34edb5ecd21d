"""One worker: follows the store, opens the listeners once it has a configuration, serves until it is told to stop."""

import gc
import resource
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

import trio

from sniproxy import __version__
from sniproxy.agent import Agent
from sniproxy.config import InForce
from sniproxy.following import Freshness, follow
from sniproxy.keyring import open_keyring
from sniproxy.limits import open_limits
from sniproxy.listener import bind, listen
from sniproxy.logs import Log
from sniproxy.objects.node_record import NodeRecord
from sniproxy.presence import Presence, node_id
from sniproxy.reception import Reception
from sniproxy.relay.opening import choose_relay, open_relay
from sniproxy.relay.sockets import tune
from sniproxy.session import Worker, open_worker
from sniproxy.settings import EtcdUrl, Listener, Settings
from sniproxy.snapshot import Snapshot
from sniproxy.status import Status, serve_status
from sniproxy.store import Store
from sniproxy.store.opening import open_store
from sniproxy.store.sqlite import POLL

DESCRIPTORS_PER_SESSION = 2  # the player's socket and the game server's
SPARE_DESCRIPTORS = 200  # the store, the status port, listeners, files
STATUS_BACKLOG = 64  # connections to the status port that the kernel keeps for us


async def run_worker(
    settings: Settings,
    log: Log,
    *,
    task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled. Ports are bound at once, so that a taken one is known, but nobody is let in before the
    first full configuration. `started` then gives the listeners' ports.

    SettingsError when a port or the keyring cannot be used.
    """
    keyring = open_keyring(settings)
    moved_by = choose_relay(settings.proxy.relay)
    snapshot = Snapshot(settings.where.prefix, keyring)
    async with AsyncExitStack() as stack:
        bound = [
            (listener, stack.enter_context(bind(listener.address, f"{_setting(index)}.address")))
            for index, listener in enumerate(settings.proxy.listeners)
        ]
        status_socket = stack.enter_context(bind(settings.status.address, "status.address"))
        listen(status_socket, "status.address", backlog=STATUS_BACKLOG)
        store = open_store(settings)
        stack.push_async_callback(_close, store)
        limits = open_limits(settings.proxy)
        relay = await stack.enter_async_context(open_relay(settings.proxy, limits.places))
        nursery = await stack.enter_async_context(trio.open_nursery())
        worker = open_worker(settings.proxy, snapshot, relay, log, limits)
        agent = None
        freshness = Freshness(settings.etcd.watch_silence)
        if isinstance(settings.where, EtcdUrl):
            agent = Agent(settings, store, worker.metrics, log)
            # Who cannot follow the copy is as stale as an agent that cannot follow the store.
            freshness = Freshness(settings.etcd.watch_silence + POLL, source=agent.freshness)
        worker.metrics.show_freshness(freshness)
        status = Status(worker.metrics.registry, worker.recorder, snapshot, freshness)
        nursery.start_soon(serve_status, status_socket, status)
        log.info("starting", relay=moved_by, store=settings.store)
        describe = partial(_describe, settings, worker, freshness, int(time.time()))
        presence = Presence(store, settings, describe, worker.metrics, log)
        in_force = InForce(snapshot, worker.metrics, log, presence.changed)
        followed: Store = store
        if agent is not None:
            await nursery.start(agent.run)
            followed = agent.copy
        following = partial(
            follow, settings=settings.proxy, freshness=freshness, log=log, of_copy=agent is not None
        )
        await nursery.start(following, followed, settings.where.prefix, in_force)
        _open_doors(bound, settings, Reception(worker, nursery), nursery)
        status.ready = True
        nursery.start_soon(presence.run)
        ports = [sock.getsockname()[1] for _, sock in bound]
        log.info("ready", ports=ports, revision=snapshot.revision)
        task_status.started(ports)


def _open_doors(
    bound: Sequence[tuple[Listener, socket.socket]],
    settings: Settings,
    reception: Reception,
    nursery: trio.Nursery,
) -> None:
    """From now on players are let in."""
    for index, (listener, sock) in enumerate(bound):
        speaks_first = listener.is_tls or listener.proxy_protocol
        listen(
            sock,
            f"{_setting(index)}.address",
            backlog=settings.proxy.backlog,
            defer_accept=settings.proxy.defer_accept if speaks_first else 0,
        )
        tune(sock, keepalive_idle=settings.proxy.keepalive_idle)  # accepted sockets inherit it
        nursery.start_soon(reception.accept, sock, listener)


def _setting(index: int) -> str:
    return f"proxy.listeners.{index}"


async def _close(store: Store) -> None:
    with trio.CancelScope(shield=True):
        await store.aclose()


def _describe(settings: Settings, worker: Worker, freshness: Freshness, started: int) -> NodeRecord:
    return NodeRecord(
        id=node_id(settings),
        version=__version__,
        revision=worker.snapshot.revision,
        age=round(freshness.age, 3),
        stale=freshness.stale,
        sessions=worker.limits.active,
        started=started,
    )


def raise_descriptor_limit(max_sessions: int, log: Log) -> None:
    """Takes as many descriptors as the system lets us have, and says so when they are fewer than sessions may need."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = DESCRIPTORS_PER_SESSION * max_sessions + SPARE_DESCRIPTORS
    if most != resource.RLIM_INFINITY and most < needed:
        log.warning(
            "few descriptors",
            limit=most,
            needed=needed,
            advice="raise the limit of open files (ulimit -Hn, LimitNOFILE), or lower proxy.max_sessions",
        )


def tame_garbage_collection() -> None:
    """No pause that grows with the number of sessions, and none while a configuration is loaded.

    A full collection walks every object: 80 ms beside 5 000 sessions in set-up, in which no player's byte moves. Sessions
    leave no reference cycles behind (a test holds that), so they are freed without it; only young objects, of whatever
    else makes cycles, are still looked at.
    """
    gc.set_threshold(5_000, 5, 1_000_000_000)


def keep_out_of_collections() -> None:
    """What is loaded by now stays for long: it is looked at once more, and never again."""
    gc.collect()
    gc.freeze()


async def run_until_signalled(settings: Settings, log: Log) -> None:
    """`run_worker` until SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_tamed, settings, log)
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                break
            nursery.cancel_scope.cancel()


async def _run_tamed(settings: Settings, log: Log) -> None:
    tame_garbage_collection()
    async with trio.open_nursery() as nursery:
        await nursery.start(run_worker, settings, log)
        raise_descriptor_limit(settings.proxy.max_sessions, log)
        keep_out_of_collections()
