"""What is told of a session once it is over: its line in the log, and its trace.

Refusals are told of now and then (`refusals.Sampler`), sessions that ended as most do by lot (`log.sessions`), all others
always. The lot is the session's id, so that whoever has a trace and a line has them of the same sessions.
"""

import time
from typing import Protocol

from sniproxy.accounting import Account, Ended, session_id
from sniproxy.errors import ORDINARY, REFUSALS, CloseReason
from sniproxy.logs import Log, encode
from sniproxy.refusals import Sampler
from sniproxy.relay import Outcome, Played
from sniproxy.settings import Logging, Traces

_LOTS = 1 << 63  # of a session's number: the bit above is set where a relay has drawn it


class Tracer(Protocol):
    """Takes what traces are made of. Never waits, and raises nothing."""

    def add(self, account: Account, ended: Ended, outcome: Outcome) -> None:
        """A session that is over. Nothing of it changes any more."""
        ...


class Journal:
    """One worker's."""

    def __init__(self, log: Log, sampler: Sampler) -> None:
        self.sampler = sampler
        self.tracer: Tracer | None = None
        self._log = log
        self.settle(Logging(), Traces())

    def settle(self, logging: Logging, traces: Traces) -> None:
        """Goes on by other settings."""
        self._line_lots = logging.sessions * _LOTS
        self._trace_lots = traces.share * _LOTS

    def end(self, account: Account, outcome: Outcome, now: float) -> None:
        """A session that was served here. `now`: seconds of the loop's clock."""
        reason = outcome.reason
        if reason is CloseReason.PROBE:
            return  # every few seconds, for ever: counted and not logged
        left_out = 0
        if reason in REFUSALS:
            noted = self.sampler.note(reason, now)
            if noted is None:
                return
            left_out = noted
        self._tell(account, Ended(now, time.time()), outcome, int(account.id, 16), left_out)

    def body(self, one: Played, now: float) -> str | None:
        """The members of a planned session's line, as `Log.info_many` takes them. `now`: Unix seconds.

        None: there is none for it, or it went differently and was written by itself.
        """
        if one.detail or one.connect is None:
            account, lasted = account_of(one), one.lasted / 1e6
            outcome = Outcome(one.reason, one.detail, one.to_upstream, one.to_client)
            self._tell(account, Ended(lasted, now), outcome, one.number, 0)
            return None
        lot = one.number % _LOTS
        if self.tracer is not None and lot < self._trace_lots:
            outcome = Outcome(one.reason, "", one.to_upstream, one.to_client)
            self.tracer.add(account_of(one), Ended(one.lasted / 1e6, now), outcome)
        if lot >= self._line_lots and one.reason in ORDINARY:
            return None
        times = [one.lasted / 1000, one.hello / 1000, one.connect / 1000]
        if one.handshake is not None:
            times.insert(2, one.handshake / 1000)
        return one.plan.form(one.pick, one.agreed).fill(
            session_id(one.number),
            one.reason,
            now - one.lasted / 1e6,
            one.client,
            one.alpn,
            one.source,
            one.to_upstream,
            one.to_client,
            times,
        )

    def _tell(
        self, account: Account, ended: Ended, outcome: Outcome, number: int, left_out: int
    ) -> None:
        lot = number % _LOTS
        if self.tracer is not None and lot < self._trace_lots:
            self.tracer.add(account, ended, outcome)
        if lot >= self._line_lots and outcome.reason in ORDINARY:
            return
        reason, detail = outcome.reason, outcome.detail
        line = account.line(ended, reason, detail, outcome.to_upstream, outcome.to_client)
        if left_out:
            line["left_out"] = left_out  # refusals for the same reason since its last line
        self._log.info_many("session", [encode(line)[1:]])


def account_of(one: Played) -> Account:
    """A session that a relay has played by a plan, on a clock that began with it."""
    account = one.plan.account(session_id(one.number), one.client, one.pick, one.agreed)
    account.alpn, account.source = one.alpn, one.source
    account.hello_at = account.routed_at = one.hello / 1e6
    sealed = one.hello
    if one.handshake is not None:
        sealed += one.handshake
        account.handshake_at = sealed / 1e6
    if one.connect is None:  # it has come to no node
        account.node = account.node_address = account.connected_at = None
    else:
        account.connected_at = (sealed + one.connect) / 1e6
        account.attempts = 1
    return account
