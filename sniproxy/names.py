"""Names of game servers -> addresses, for all sessions of a worker. No thread, and no session waits for another's name.

What is known, and when it is asked for again, is in `name_cache`; who is asked, in `dns_client`. Here it is done. A name
that many ask for at once is asked for once, in a task that none of them can cancel; whoever has something good to go on with
waits no longer than STALE_PATIENCE for better.
"""

import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import trio

from sniproxy.defects import report
from sniproxy.dns_client import DnsClient
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.name_cache import (
    Entry,
    Failed,
    Found,
    Gone,
    Key,
    Kind,
    NameCache,
    News,
    Outcome,
    Service,
)
from sniproxy.name_files import HOSTS, Followed, parse_hosts
from sniproxy.settings import Dns

STALE_PATIENCE = 0.5  # seconds that one waits for DNS who could have an answer that has run out
MOST_QUESTIONS = 64  # names that are asked for at once, each over two sockets; and as many that were not answered last

Ask = Callable[[Key], Awaitable[Outcome]]

ADVICE = {
    True: "correct the name in the upstream, or add it to DNS",
    False: "see whether the servers of /etc/resolv.conf, or of proxy.dns.servers, can be reached",
}


class Names:
    """One per worker. `run` must be running for what is not known yet."""

    def __init__(
        self,
        settings: Dns,
        log: Log,
        metrics: Metrics,
        *,
        ask: Ask | None = None,
        hosts: Path = HOSTS,
    ) -> None:
        """ask: in place of DNS."""
        self._client = DnsClient(settings)
        self._ask = ask or self._client.ask
        self._cache = NameCache(settings)
        self._hosts = Followed(hosts, parse_hosts)
        self._log = log
        self._metrics = metrics
        self._flights: dict[Key, trio.Event] = {}  # questions on their way
        self._line = trio.CapacityLimiter(MOST_QUESTIONS)
        # Those that were not answered last: a zone whose servers are silent takes the whole patience of each question.
        self._slow_line = trio.CapacityLimiter(MOST_QUESTIONS)
        self._nursery: trio.Nursery | None = None
        self._turns = Counter[str]()  # by name, among the addresses that it has in hosts
        self._put = trio.Event()  # something was put into the cache

    def settle(self, settings: Dns) -> None:
        """Goes on by other settings, for what is asked from now on."""
        self._client.settings = self._cache.settings = settings

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever: asks again for names in use before what is known of them has run out."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    self._put = trio.Event()
                    with trio.move_on_at(self._cache.next_due):
                        await self._put.wait()
                    for key in self._cache.due(trio.current_time()):
                        self._begin(key)
        finally:
            self._nursery = None

    async def look_up(self, name: str) -> tuple[tuple[str, ...], int]:
        """All addresses of a name, and a number that is one more for the next who asks.

        SessionEnded UPSTREAM_NAME, with why, and with what to do.
        """
        entry = await self._entry(Kind.ADDRESSES, name)
        if isinstance(entry, tuple):
            self._turns[name] += 1
            return entry, self._turns[name]
        entry.turn += 1
        return cast("tuple[str, ...]", entry.records), entry.turn

    async def services(self, name: str) -> tuple[Service, ...]:
        """What offers a service, by its SRV records. SessionEnded as `look_up`."""
        entry = await self._entry(Kind.SERVICES, name)
        assert not isinstance(entry, tuple)
        return cast("tuple[Service, ...]", entry.records)

    async def _entry(self, kind: Kind, name: str) -> Entry | tuple[str, ...]:
        now, key = trio.current_time(), Key(kind, name.lower())
        if kind is Kind.ADDRESSES:
            listed = self._hosts.value(now).get(key.name.removesuffix("."))
            if listed:
                return listed
        entry = self._cache.get(key, now) or await self._asked(key)
        if entry is None or not entry.records:
            why = (entry and entry.why) or "more names are in use than proxy.dns.names keeps"
            raise SessionEnded(CloseReason.UPSTREAM_NAME, f"{name}: {why}")
        if trio.current_time() >= entry.expires:
            self._metrics.names_stale.inc()
        return entry

    async def _asked(self, key: Key) -> Entry | None:
        """What is known once DNS was asked, or as long as waiting is worth it."""
        going_on = self._cache.may_go_on(key, trio.current_time())
        patience = STALE_PATIENCE if going_on else float("inf")
        flight = self._begin(key)
        with trio.move_on_after(patience):
            await flight.wait()
        return self._cache.peek(key)

    def _begin(self, key: Key) -> trio.Event:
        """Asks, unless that is being done; what is set once it is."""
        if self._nursery is None:  # it is the end, and for whoever comes now too
            return trio.Event()
        if key not in self._flights:
            self._flights[key] = trio.Event()
            self._nursery.start_soon(self._fly, key)
        return self._flights[key]

    async def _fly(self, key: Key) -> None:
        known = self._cache.peek(key)
        try:
            async with self._line if known is None or known.why is None else self._slow_line:
                outcome = await self._answer(key)
            news = self._cache.put(key, _advised(outcome), trio.current_time())
            self._put.set()
            self._tell(key, outcome, news)
        except Exception:  # a defect of ours costs this answer, and not the worker
            report(self._metrics, self._log, traceback.format_exc())
        finally:
            self._flights.pop(key).set()

    async def _answer(self, key: Key) -> Outcome:
        try:
            return await self._ask(key)
        except Exception as error:  # a defect of ours is no answer
            report(self._metrics, self._log, traceback.format_exc())
            return Failed(repr(error))

    def _tell(self, key: Key, outcome: Outcome, news: News | None) -> None:
        if isinstance(outcome, Found):
            self._metrics.names_resolved.inc()
        else:
            self._metrics.names_failed.inc()
        entry = self._cache.peek(key)
        if entry is None or news is None:
            return
        if news is News.LOST:
            served = list(map(str, entry.records))
            self._log.warning("name not resolved", name=key.name, cause=entry.why, served=served)
        else:
            self._log.info("name resolved again", name=key.name, records=len(entry.records))


def _advised(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Found):
        return outcome
    gone = isinstance(outcome, Gone)
    return (Gone if gone else Failed)(f"{outcome.why}: {ADVICE[gone]}")
