"""What is known of names: how long it holds, when it is asked for again, and what stays while nobody answers."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.name_cache import (
    HOLDS,
    LEAST_TIDIED,
    REFRESH,
    RETRY,
    Failed,
    Found,
    Gone,
    Key,
    Kind,
    NameCache,
    News,
    Outcome,
    Service,
    both,
)
from sniproxy.settings import Dns

GS = Key(Kind.ADDRESSES, "gs.example")
OLD, NEW = ("10.0.0.1",), ("10.0.0.2",)
TTL = 30.0
DOWN, GONE = Failed("no answer"), Gone("no such name")


def cache(*, found: tuple[str, ...] | None = OLD, **settings: object) -> NameCache:
    """With an answer that came at 0."""
    made = NameCache(Dns.model_validate(settings))
    if found is not None:
        made.put(GS, Found(found, TTL), 0)
    return made


def served(of: NameCache, now: float, key: Key = GS) -> object:
    """What somebody gets without asking; None: he has to ask."""
    entry = of.get(key, now)
    return entry and (entry.records or entry.why)


@pytest.mark.parametrize(
    ("ttl", "settings", "held"),
    [
        (30, {}, 30),
        (0, {}, 1),
        (0.5, {"min_ttl": 0.2}, 0.5),
        (86400, {}, 60),
        (86400, {"max_ttl": 3600}, 3600),
        (7, {"min_ttl": 10, "max_ttl": 10}, 10),
    ],
)
def test_an_answer_holds_for_its_time_within_bounds(
    ttl: float, settings: dict[str, float], held: float
) -> None:
    of = cache(found=None, **settings)
    assert served(of, 0) is None
    of.put(GS, Found(OLD, ttl), 100)
    assert served(of, 100 + held - 0.01) == OLD
    assert served(of, 100 + held) is None


@pytest.mark.parametrize(("somebody_came", "asked_again"), [(True, [GS]), (False, [])])
def test_a_name_in_use_is_asked_for_again_before_its_time_is_over(
    somebody_came: bool, asked_again: list[Key]
) -> None:
    of = cache()
    if somebody_came:
        of.get(GS, 1)
    assert of.next_due == REFRESH * TTL < TTL
    assert list(of.due(REFRESH * TTL - 0.01)) == []
    assert list(of.due(REFRESH * TTL)) == asked_again
    assert of.next_due == inf
    assert list(of.due(1000)) == []  # once


def test_an_answer_that_was_replaced_is_due_no_more() -> None:
    of = cache()
    of.put(GS, Found(NEW, TTL), 20)
    of.get(GS, 21)
    assert list(of.due(24)) == []
    assert list(of.due(44)) == [GS]


def test_a_new_answer_takes_the_old_one_s_place() -> None:
    of = cache()
    assert of.put(GS, Found(NEW, TTL), 24) is None
    assert served(of, 25) == NEW


def test_the_order_of_an_answer_does_not_matter() -> None:
    """Servers turn it by themselves; whose turn it is would go astray."""
    of = cache(found=("b", "a", "b"))
    assert served(of, 1) == ("a", "b")


def test_while_dns_is_down_the_last_good_answer_is_served_and_asked_for_again() -> None:
    """Five minutes, as row B10 has it. Nobody waits, and it is said once."""
    of, now = cache(), REFRESH * TTL
    news = [of.put(GS, DOWN, now)]
    while now < 300:
        assert served(of, now + 1) == OLD
        assert list(of.due(now + RETRY)) == [GS]
        now += RETRY + 1
        news.append(of.put(GS, DOWN, now))
    assert news == [News.LOST, *[None] * (len(news) - 1)]
    assert of.put(GS, Found(NEW, TTL), now + RETRY) is News.BACK
    assert served(of, now + RETRY) == NEW


def test_a_failure_does_not_shorten_an_answer() -> None:
    of = cache()
    of.put(GS, DOWN, 1)
    assert served(of, TTL - 0.01) == OLD
    assert served(of, TTL) is None


def test_who_comes_long_after_a_failure_asks_first() -> None:
    """It may have moved since, and DNS may be back: only who has just failed is served at once."""
    of = cache()
    of.put(GS, DOWN, 100)
    assert served(of, 100 + HOLDS - 0.01) == OLD
    assert served(of, 100 + HOLDS) is None
    entry = of.peek(GS)
    assert entry is not None
    assert entry.records == OLD


@pytest.mark.parametrize(("stale", "until"), [(0, TTL), (2, TTL + 2), (60, TTL - 1 + HOLDS)])
def test_no_hold_is_longer_than_that_bound(stale: float, until: float) -> None:
    of = cache(stale=stale)
    of.put(GS, DOWN, TTL - 1)
    assert served(of, until - 0.01) == OLD
    assert served(of, until) is None
    assert of.may_go_on(GS, TTL + stale - 0.01)
    assert not of.may_go_on(GS, TTL + stale)


@pytest.mark.parametrize(("now", "expected"), [(TTL + 9.9, OLD), (TTL + 10, "no answer")])
def test_a_stale_answer_may_have_a_bound(now: float, expected: object) -> None:
    of = cache(stale=10)
    of.put(GS, DOWN, now)
    assert served(of, now) == expected


def test_a_name_that_is_gone_is_believed_when_it_was_said_twice() -> None:
    """Within its time: a name server that has just started may not know it yet. Five seconds later nobody is sent there."""
    of, said = cache(), REFRESH * TTL
    assert of.put(GS, GONE, said) is None
    assert served(of, said + 1) == OLD
    assert list(of.due(said + RETRY)) == [GS]
    assert of.put(GS, GONE, said + RETRY) is News.LOST
    assert served(of, said + RETRY) == "no such name"
    assert said + RETRY < TTL + 5


def test_nobody_s_doubt_outlasts_its_time() -> None:
    """Said once, and not asked for again since nobody came."""
    of = cache()
    of.put(GS, GONE, TTL - 0.1)
    assert served(of, TTL - 0.1 + HOLDS) is None
    assert of.put(GS, GONE, 1000) is News.LOST
    assert served(of, 1000) == "no such name"


def test_a_name_that_was_not_in_use_is_believed_gone_at_once() -> None:
    of = cache()
    assert of.put(GS, GONE, TTL) is News.LOST
    assert served(of, TTL) == "no such name"


def test_a_doubt_is_over_when_the_name_is_there() -> None:
    of = cache()
    of.put(GS, GONE, 1)
    of.put(GS, Found(OLD, TTL), 3)
    assert of.put(GS, GONE, 5) is None
    assert served(of, 6) == OLD


def test_a_server_that_comes_back_empty_is_doubted_too() -> None:
    of = cache()
    of.put(GS, DOWN, TTL + 1)
    assert of.put(GS, GONE, TTL + 3) is None
    assert served(of, TTL + 4) == OLD
    of.put(GS, GONE, TTL + 5)
    assert served(of, TTL + 5) == "no such name"


@pytest.mark.parametrize(
    ("outcome", "held"), [(GONE, 5.0), (DOWN, RETRY)], ids=["unknown", "unanswered"]
)
def test_what_is_not_there_is_remembered_briefly(outcome: Outcome, held: float) -> None:
    of = cache(found=None)
    assert of.put(GS, outcome, 0) is News.LOST
    assert served(of, held - 0.01) == outcome.why  # type: ignore[union-attr]
    assert served(of, held) is None
    assert list(of.due(1000)) == []  # whoever comes asks
    assert of.put(GS, outcome, held) is None
    assert of.put(GS, Found(NEW, TTL), 20) is News.BACK


def test_whoever_was_asked_for_the_longest_ago_makes_room() -> None:
    of = NameCache(Dns(names=16))
    keys = [Key(Kind.ADDRESSES, str(number)) for number in range(17)]
    for key in keys[:16]:
        of.put(key, Found(OLD, TTL), 0)
    of.get(keys[0], 1)
    of.put(keys[16], Found(OLD, TTL), 2)
    assert [served(of, 3, key) for key in keys] == [OLD, None, *[OLD] * 15]
    assert len(of) == 16
    assert len(list(of.due(1000))) == 16  # nobody misses the one that went


def test_services_and_addresses_of_one_name_are_two_things() -> None:
    of = cache()
    service = Service(priority=0, weight=5, port=7, host="a.example.")
    of.put(Key(Kind.SERVICES, GS.name), Found((service,), TTL), 0)
    assert served(of, 1) == OLD
    assert served(of, 1, Key(Kind.SERVICES, GS.name)) == (service,)


V4, V6 = Found(("10.0.0.1",), 30), Found(("2001:db8::1",), 20)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (V4, V6, Found(("10.0.0.1", "2001:db8::1"), 20)),
        (V4, GONE, V4),
        (GONE, V6, V6),
        (V4, DOWN, Found(("10.0.0.1",), 2)),  # the others may be there all the same: soon again
        (DOWN, Found(("::1",), 1), Found(("::1",), 1)),
        (GONE, GONE, GONE),
        (GONE, DOWN, DOWN),  # nobody knows
        (DOWN, GONE, DOWN),
    ],
)
def test_two_questions_make_one_answer(one: Outcome, other: Outcome, together: Outcome) -> None:
    assert both(one, other, 2) == together


OUTCOMES = st.sampled_from([Found(OLD, TTL), Found(NEW, 5), GONE, DOWN])
STEPS = st.lists(
    st.tuples(st.floats(0.1, 50), st.one_of(OUTCOMES, st.just("look"), st.just("due")))
)


@given(STEPS)
def test_whatever_happens_what_is_served_was_said_and_is_not_too_old(
    steps: list[tuple[float, Outcome | str]],
) -> None:
    """Without DNS being down nothing is served beyond its time but for the seconds of a doubt."""
    of, now, last, bad = NameCache(Dns()), 0.0, None, False
    good_until = -inf
    for pause, step in steps:
        now += pause
        if isinstance(step, Found):
            of.put(GS, step, now)
            last, good_until, bad = step.records, now + step.ttl, False
        elif isinstance(step, Failed | Gone):
            of.put(GS, step, now)
            bad = bad or isinstance(step, Failed)
        elif step == "due":
            assert len(list(of.due(now))) <= 1
        entry = of.get(GS, now)
        if entry is not None and entry.records:
            assert entry.records == last
            assert bad or now < good_until + HOLDS
        if entry is not None and not entry.records:
            assert entry.why


def test_what_was_dropped_is_not_kept_for_its_time() -> None:
    """More names than are kept, over and over, with an answer that holds for a day each."""
    of = cache(found=None, names=16, max_ttl=86400)
    for now in range(10_000):
        of.put(Key(Kind.ADDRESSES, f"{now % 1000}.example"), Found(OLD, 86400), now)
    assert len(of) == 16
    assert len(of._due) <= 2 * LEAST_TIDIED
    kept = Key(Kind.ADDRESSES, "999.example")
    assert served(of, 10_000, kept) == OLD
    assert kept in [*of.due(10_000 + 86400)]
