"""Traffic statistics in the store made smaller: the parts of all data planes become one hour, and hours one day.

Every data plane does it now and then; two at once do no harm, and one that dies half way through neither. The order is what
keeps each part counted once: it is sealed, added to its hour and to its day, each of which names it, and then taken away.
"""

from collections import defaultdict
from contextlib import suppress

from sniproxy.errors import Conflict
from sniproxy.objects.traffic import (
    DAY,
    Part,
    Places,
    Stored,
    day_name,
    hour_name,
    hour_of,
    joined_day,
    joined_hour,
    prefixes_before,
)
from sniproxy.settings import Statistics
from sniproxy.store import Entry, Store

FOLD_EVERY = 1800.0  # seconds, about
GRACE = 600  # seconds after an hour, in which data planes write the last of it
HOURS_AT_ONCE = 48  # the oldest; the others the next time
REMOVED_AT_ONCE = 48  # of a kind: a clock that is wrong for a while does not take all with it


async def fold(store: Store, places: Places, settings: Statistics, now: float) -> None:
    """What is over by `now`, and the removal of what is too old. StoreUnavailable.

    Where another data plane is at the same hour it is left to that one, or to the next time.
    """
    over = hour_of(now - GRACE)  # and all before it
    today = hour_of(now) // DAY
    oldest = day_name(max(0, today - settings.keep_days))
    found = await store.list(places.parts)
    hours: defaultdict[int, list[Part]] = defaultdict(list)
    for entry in found.entries:
        part = places.read_part(entry.key, entry.value, entry.mod_revision)
        if part is not None and part.hour < over:
            hours[part.hour].append(part)
        elif part is None and entry.key < places.parts + oldest:  # nobody's
            await store.delete(entry.key)
    for hour in sorted(hours)[:HOURS_AT_ONCE]:
        with suppress(Conflict):
            await _fold_hour(store, places, settings, hour, hours[hour])
    await _remove_before(store, places.hours, hour_name(max(0, hour_of(now) - settings.keep_hours)))
    await _remove_before(store, places.days, oldest)


async def _fold_hour(
    store: Store, places: Places, settings: Statistics, hour: int, parts: list[Part]
) -> None:
    """StoreUnavailable, Conflict."""
    parts = [await _sealed(store, one) for one in parts]
    key = places.hour(hour)
    entry, held = await _read(store, key)
    joined = joined_hour(held, parts, settings.max_routes)
    if joined.parts != held.parts:
        await store.put(key, joined.encode(), expect=entry.mod_revision if entry else 0)
    key = places.day(hour // DAY)
    entry, held = await _read(store, key)
    day = joined_day(held, joined, parts, settings.max_routes)
    if day.parts != held.parts:
        await store.put(key, day.encode(), expect=entry.mod_revision if entry else 0)
    for part in parts:
        await store.delete(part.key, expect=part.revision)


async def _sealed(store: Store, part: Part) -> Part:
    """Nobody writes it any more: whoever wrote it finds it changed. Conflict where it was written just now."""
    if part.stored.sealed:
        return part
    stored = Stored(part.stored.traffic, part.stored.number, sealed=True)
    revision = await store.put(part.key, stored.encode(), expect=part.revision)
    return Part(part.key, part.hour, part.node, part.token, stored, revision)


async def _read(store: Store, key: str) -> tuple[Entry | None, Stored]:
    """What nobody can read is written anew."""
    entry = await store.get(key)
    stored = Stored.decode(entry.value) if entry is not None else None
    return entry, stored or Stored()


async def _remove_before(store: Store, prefix: str, name: str) -> None:
    left = REMOVED_AT_ONCE
    for earlier in prefixes_before(name):
        for entry in (await store.list(prefix + earlier)).entries[:left]:
            await store.delete(entry.key)
            left -= 1
