"""Which sessions are told of: refusals now and then, failures always, and of the others a share."""

import io
import json
from typing import Any

import pytest

from sniproxy.accounting import Account, Ended
from sniproxy.errors import ORDINARY, REFUSALS, CloseReason
from sniproxy.forbidden import Forbidden
from sniproxy.journal import Journal
from sniproxy.logs import open_log
from sniproxy.plan import Plan, plan_for
from sniproxy.refusals import Sampler
from sniproxy.relay import Outcome, Played
from sniproxy.settings import Logging, Proxy, Traces
from tests.support.gateway import fill, route
from tests.support.stage import MIXED

HALF = 1 << 62  # of all numbers, which have 63 bits that count
INTERVAL = 5.0  # seconds between two lines of refusals


class Notes:
    """A tracer that keeps the ids of what it was given."""

    def __init__(self) -> None:
        self.sessions: list[str] = []
        self.ended: list[Ended] = []

    def add(self, account: Account, ended: Ended, outcome: Outcome) -> None:
        """As `sniproxy.journal.Tracer`."""
        self.sessions.append(account.id)
        self.ended.append(ended)


class Told:
    """A journal, and what it has told."""

    def __init__(self, lines: float = 1.0, traces: float = 1.0) -> None:
        self.stream = io.StringIO()
        self.journal = Journal(open_log("proxy", self.stream), Sampler(INTERVAL))
        self.journal.tracer = self.notes = Notes()
        self.journal.settle(Logging(sessions=lines), Traces(share=traces))

    def end(self, reason: CloseReason, number: int = 1, now: float = 100.0) -> None:
        """A session that was served is over."""
        account = Account("192.0.2.1:5000", "0.0.0.0:8888", 90.0, id=f"{number:016x}")
        self.journal.end(account, Outcome(reason, "", 0, 0), now)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture(scope="module")
def plan() -> Plan:
    snapshot = fill({"stream_routes/1": route(7777, tls_passthrough=True)})
    settings = Proxy(listeners=(MIXED,))
    found = plan_for(snapshot, MIXED, settings, "a.example", 443, Forbidden(settings, ()))
    assert found is not None
    return found


def played(plan: Plan, number: int = 1, **members: Any) -> Played:
    """A session that a relay has played by itself."""
    usual = {"detail": "", "hello": 10, "connect": 20, "lasted": 2_000_000, "alpn": "h2"}
    known = {"reason": CloseReason.CLIENT_CLOSED, "source": "127.0.0.1:4000", **usual, **members}
    return Played(plan, 0, number, "192.0.2.1:5000", to_upstream=7, to_client=11, **known)


@pytest.mark.parametrize("reason", [one for one in CloseReason if one is not CloseReason.PROBE])
@pytest.mark.parametrize(
    ("share", "number"), [(0.0, 0), (0.5, HALF), (0.5, HALF - 1), (1.0, 2**64 - 1)]
)
def test_only_what_ends_as_most_do_is_drawn_by_lot(
    reason: CloseReason, share: float, number: int
) -> None:
    told = Told(lines=share)
    told.end(reason, number)
    drawn = number % 2**63 < share * 2**63
    assert len(told.lines) == (drawn or reason not in ORDINARY)


def test_a_probe_is_not_told_of() -> None:
    told = Told()
    told.end(CloseReason.PROBE)
    assert told.lines == []
    assert told.notes.sessions == []


def test_a_refusal_that_has_no_line_has_no_trace() -> None:
    told = Told(lines=0.0)
    for number, now in enumerate([100.0, 101.0, 104.0, 105.0], 1):
        told.end(CloseReason.NO_ROUTE, number, now)
    assert [line.get("left_out") for line in told.lines] == [None, 2]
    assert told.notes.sessions == [f"{1:016x}", f"{4:016x}"]


def test_no_reason_is_both_ordinary_and_a_refusal() -> None:
    assert not ORDINARY & REFUSALS
    assert CloseReason.PROBE not in ORDINARY


@pytest.mark.parametrize(
    ("lines", "traces", "number", "expected"),
    [
        (1.0, 1.0, HALF, (1, 1)),
        (0.5, 0.5, HALF, (0, 0)),
        (0.5, 0.5, HALF - 1, (1, 1)),
        (1.0, 0.25, HALF - 1, (1, 0)),
        (0.0, 1.0, HALF, (0, 1)),
        (0.5, 0.5, 2**63 + HALF, (0, 0)),  # the highest bit is set in all that a relay draws
        (0.5, 0.5, 2**63, (1, 1)),
    ],
)
def test_a_planned_session_draws_the_same_lots(
    plan: Plan, lines: float, traces: float, number: int, expected: tuple[int, int]
) -> None:
    told, served = Told(lines, traces), Told(lines, traces)
    body = told.journal.body(played(plan, number), 1000.0)
    served.end(CloseReason.CLIENT_CLOSED, number)
    assert (int(body is not None), len(told.notes.sessions)) == expected
    assert (len(served.lines), len(served.notes.sessions)) == expected
    assert told.lines == []  # the body is for whoever writes many


def test_a_planned_sessions_body_has_all_that_is_known(plan: Plan) -> None:
    body = Told().journal.body(played(plan, 0xAB), 1000.0)
    line = json.loads("{" + (body or ""))
    assert (line["session"], line["alpn"]) == ("ab".zfill(16), "h2")
    assert line["started"] == "1970-01-01T00:16:38.000000Z"
    assert (line["node"], line["node_address"]) == ("127.0.0.1:7777", "127.0.0.1:7777")
    assert line["source"] == "127.0.0.1:4000"


@pytest.mark.parametrize(
    ("members", "has_node"),
    [
        ({"reason": CloseReason.UPSTREAM_RESET, "detail": "why"}, True),
        ({"reason": CloseReason.SHUTDOWN, "connect": None}, False),
    ],
)
def test_one_that_went_differently_is_written_by_itself(
    plan: Plan, members: dict[str, Any], has_node: bool
) -> None:
    told = Told()
    assert told.journal.body(played(plan, **members), 1000.0) is None
    (line,) = told.lines
    assert line["started"] == "1970-01-01T00:16:38.000000Z"
    assert (line["node"] is not None, line["node_address"] is not None) == (has_node, has_node)
    assert ("connect_ms" in line) is has_node
    assert told.notes.ended == [Ended(2.0, 1000.0)]


def test_without_a_tracer_nothing_is_traced(plan: Plan) -> None:
    told = Told()
    told.journal.tracer = None
    told.end(CloseReason.CLIENT_CLOSED)
    told.journal.body(played(plan), 1000.0)
    assert told.notes.sessions == []
