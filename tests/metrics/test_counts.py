"""What every session moves."""

from contextlib import suppress
from typing import Any

import pytest

from sniproxy.accounting import Account
from sniproxy.client_hello import ClientHello, HelloClass
from sniproxy.errors import REFUSALS, CloseReason, Limit
from sniproxy.histogram import WAITS
from sniproxy.metrics.counts import LIMITS, SOUND, Counts
from sniproxy.relay.native import BUILT

with suppress(ImportError):
    from sniproxy import _relay


def counted(counts: Counts, name: str) -> dict[Any, float]:
    """Samples of a metric that are not 0, by their labels' values."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in counts.collect()
        for sample in family.samples
        if sample.name == f"sniproxy_{name}" and sample.value
    }


def hello(**members: Any) -> ClientHello:
    """A plain one, but for these."""
    plain: dict[str, Any] = {
        "server_name": "a.example",
        "ip_literal": False,
        "alpn": (),
        "legacy_version": 0x0303,
        "supported_versions": (),
        "records": 1,
        "ech": False,
        "post_quantum": False,
    }
    return ClientHello(**plain | members)


@pytest.mark.parametrize(
    ("members", "split", "kinds"),
    [
        ({}, False, ["plain"]),
        ({}, True, ["split_segments"]),
        ({"records": 2}, False, ["split_records"]),
        ({"post_quantum": True}, False, ["post_quantum"]),
        ({"ech": True, "post_quantum": True}, True, ["ech", "post_quantum", "split_segments"]),
        ({"server_name": None}, False, ["no_sni"]),
        ({"server_name": None, "ip_literal": True}, False, ["ip_literal"]),
    ],
)
def test_a_sound_hello_is_all_that_it_is(
    members: dict[str, Any], split: bool, kinds: list[str]
) -> None:
    counts = Counts()
    counts.sound(hello(**members), split=split)
    assert counted(counts, "hellos_total") == {(kind,): 1 for kind in kinds}


def test_hellos_that_the_relay_has_read_count_too() -> None:
    counts = Counts(hellos=lambda: (5, 3, 2, 1))
    counts.sound(hello(), split=False)
    counts.broken(HelloClass.TRUNCATED)
    expected = {"plain": 6, "post_quantum": 3, "ech": 2, "split_segments": 1, "truncated": 1}
    assert counted(counts, "hellos_total") == {(one,): n for one, n in expected.items()}
    family = next(one for one in counts.collect() if one.name == "sniproxy_hellos")
    assert {one.labels["class"] for one in family.samples} == {*SOUND, "truncated"}


def test_times_are_of_the_steps_that_were_taken() -> None:
    counts = Counts()
    account = Account("192.0.2.7:1", "0.0.0.0:443", 100.0, hello_at=100.5, connected_at=103.0)
    account.tally = counts.tallies.of("7")
    refused = Account("", "", 0.0, hello_at=1.0, handshake_at=4.0)
    tried = Account("", "", 0.0, hello_at=1.0, connected_at=4.0)  # its hello was read elsewhere
    for one in (account, refused, tried, Account("", "", 0.0)):
        counts.set_up(one, by_plan=one is tried)
    counts.end(account, CloseReason.CLIENT_CLOSED, 160.0)
    counts.end(refused, CloseReason.NO_UPSTREAM, 9.0)
    counts.end(Account("", "", 0.0), CloseReason.PROBE, 9.0)
    sums = {
        name: (sum(getattr(counts, name).counts), getattr(counts, name).total)
        for name in ("hello", "handshake", "connect", "session")
    }
    assert sums == {
        "hello": (2, 1.5),
        "handshake": (1, 3.0),
        "connect": (2, 5.5),
        "session": (1, 60.0),
    }
    assert counted(counts, "sessions_closed_total") == {
        ("client_closed",): 1,
        ("no_upstream",): 1,
        ("probe",): 1,
    }
    assert counts.tallies.of("7").closed == {CloseReason.CLIENT_CLOSED: 1}


def test_times_that_the_relay_has_taken_count_too() -> None:
    few = [0] * len(WAITS), 0.0
    counts = Counts(waits=lambda: (([1] * (len(WAITS) + 1), 30.0), few, few, few))
    counts.hello.observe(0.0004)
    assert counted(counts, "hello_seconds_count") == {(): len(WAITS) + 2}
    assert counted(counts, "hello_seconds_sum") == {(): pytest.approx(30.0004)}
    assert counted(counts, "hello_seconds_bucket")[("0.0005",)] == 2


@pytest.mark.skipif(not BUILT, reason="the native relay is not built")
def test_the_relay_counts_by_the_same_bounds() -> None:
    assert [bound / 1e6 for bound in _relay.BOUNDS] == list(WAITS)


def test_bytes_are_those_of_all_routes() -> None:
    counts = Counts()
    counts.tallies.of("1").meter.add(1, 20)
    counts.tallies.of("2").meter.add(300, 4000)
    assert counted(counts, "bytes_to_upstream_total") == {(): 301}
    assert counted(counts, "bytes_to_client_total") == {(): 4020}


@pytest.mark.parametrize("reason", CloseReason)
def test_what_refuses_is_named(reason: CloseReason) -> None:
    counts = Counts()
    counts.refuse(reason)
    limit = LIMITS.get(reason)
    assert counted(counts, "refusals_total") == ({} if limit is None else {(limit.value,): 1})
    assert limit is None or reason in REFUSALS


def test_a_reason_that_stands_for_several_is_told_apart() -> None:
    counts = Counts()
    for limit in set(Limit) - set(LIMITS.values()):
        counts.refuse(CloseReason.ROUTE_LIMIT, limit=limit)
        assert counted(counts, "refusals_total")[(limit.value,)] == 1


@pytest.mark.parametrize(
    ("reason", "detail", "cause"),
    [
        ("handshake_failed", "sent alert unknown_ca: certificate verify failed", "sent_unknown_ca"),
        ("handshake_failed", "received alert bad_certificate", "received_bad_certificate"),
        ("handshake_failed", "closed by the client", "closed"),
        ("handshake_failed", "Connection reset by peer", "other"),
        ("handshake_failed", "sent an encrypted alert: evil", "other"),
        ("handshake_failed", 'sent alert evil"} 1\n', "other"),
        ("handshake_failed", "sent alert: received alert unknown_ca", "other"),
        ("handshake_timeout", "not done in 10 s", "timeout"),
    ],
)
def test_a_failed_handshake_has_a_cause_of_ours(reason: str, detail: str, cause: str) -> None:
    counts = Counts()
    counts.refuse(CloseReason(reason), detail)
    assert counted(counts, "tls_failures_total") == {(cause,): 1}


def test_handshakes_by_version_and_whether_they_were_resumed() -> None:
    class Done:
        cipher, subject = "", None

        def __init__(self, version: str, *, resumed: bool) -> None:
            self.version, self.resumed = version, resumed

    counts = Counts()
    for version, resumed in (("TLSv1.3", False), ("TLSv1.3", True), ("SSLv9", False)):
        counts.shake_hands(Done(version, resumed=resumed))
    assert counted(counts, "tls_handshakes_total") == {
        ("TLSv1.3", "no"): 1,
        ("TLSv1.3", "yes"): 1,
        ("other", "no"): 1,
    }


def test_defects_by_route() -> None:
    counts = Counts()
    counts.errors += 2
    counts.tallies.of("7").errors += 1
    assert counted(counts, "session_errors_total") == {("",): 2, ("7",): 1}
