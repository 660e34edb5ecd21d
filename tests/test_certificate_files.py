"""A worker looks after the files that ssl objects name, and puts in force what changes in them."""

import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.config import InForce
from sniproxy.keyring import Keyring, key_file, open_keyring
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.references import References
from sniproxy.settings import Settings
from sniproxy.snapshot import Snapshot
from sniproxy.store import Batch, Deleted, Entry, Event, Listing
from tests.support.certificates import pair
from tests.support.secret_mount import SecretMount
from tests.test_references import too_many_files

pytestmark = pytest.mark.anyio

KEYRING = Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="])
SSL = "/apisix/ssls/1"
NOW = 1_800_000_000.0  # Unix seconds; these certificates are valid then
CHAIN, KEY = pair()
OTHER_CHAIN, OTHER_KEY = pair("other.example.com")
FIRST = {"tls.crt": CHAIN, "tls.key": KEY}
SECOND = {"tls.crt": OTHER_CHAIN, "tls.key": OTHER_KEY}
TORN = FIRST | {"tls.crt": OTHER_CHAIN}


@dataclass
class Looking:
    """A worker's follower, and what it looks after."""

    references: References = field(default_factory=lambda: References({}, lambda: 2**62))
    metrics: Metrics = field(default_factory=Metrics)
    output: io.StringIO = field(default_factory=io.StringIO)
    telling: bool = True
    keyring: Keyring = KEYRING

    def __post_init__(self) -> None:
        self.snapshot = Snapshot("/apisix", self.keyring, self.references.resolve)
        log = open_log("proxy", self.output) if self.telling else None
        self.in_force = InForce(self.snapshot, self.metrics, log)

    async def look(self) -> None:
        await self.in_force.look(self.references)

    def served(self) -> tuple[tuple[str, str], ...] | None:
        """The pairs for the name x."""
        found = self.snapshot.certificates.choose("x", NOW)
        return None if found is None else found.server_tls.pairs

    def told(self) -> list[tuple[str, str]]:
        """(event, why) of all lines."""
        lines = [json.loads(line) for line in self.output.getvalue().splitlines()]
        assert {line["key"] for line in lines} <= {SSL}
        return [(line["event"], line.get("cause", "")) for line in lines]

    @property
    def broken(self) -> float | None:
        return self.metrics.registry.get_sample_value("sniproxy_config_broken_objects")


def naming(mount: SecretMount, revision: int = 1) -> Entry:
    """An ssl object for x on the files of a mount."""
    value = {"cert": f"$file://{mount / 'tls.crt'}", "key": f"$file://{mount / 'tls.key'}"}
    return Entry(SSL, json.dumps(value | {"sni": "x"}).encode(), 1, revision)


CHANGED = ("files of an object changed", "")
SKIPPED = "object skipped"
MISMATCH = "the key does not belong to the certificate"


async def test_a_secret_that_is_swapped_is_served_from_the_next_look_on(tmp_path: Path) -> None:
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking()
    await looking.in_force.load(Listing((naming(mount),), 5))
    await looking.look()
    assert (looking.served(), looking.told()) == (((CHAIN, KEY),), [])
    mount.swap(SECOND)
    assert looking.served() == ((CHAIN, KEY),)
    await looking.look()
    assert looking.served() == ((OTHER_CHAIN, OTHER_KEY),)
    await looking.look()
    assert (looking.told(), looking.snapshot.revision) == ([CHANGED], 5)


async def test_what_is_broken_is_told_once_and_the_next_change_is_tried(tmp_path: Path) -> None:
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking()
    await looking.in_force.load(Listing((naming(mount),), 5))
    for _ in range(2):
        mount.swap(TORN)
        await looking.look()
        await looking.look()
    assert (looking.served(), looking.broken) == (((CHAIN, KEY),), 1)
    assert looking.told() == [(SKIPPED, MISMATCH)]
    mount.swap(SECOND)
    await looking.look()
    assert (looking.served(), looking.broken) == (((OTHER_CHAIN, OTHER_KEY),), 0)
    assert looking.told() == [(SKIPPED, MISMATCH), CHANGED]
    assert not any(line in looking.output.getvalue() for line in KEY.splitlines()[1:-1])


async def test_a_change_that_could_not_be_read_at_first_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking()
    await looking.in_force.load(Listing((naming(mount),), 5))
    mount.swap(SECOND)
    with monkeypatch.context() as short:
        really = os.open

        def one_less(path: str, flags: int) -> int:
            return too_many_files() if path.endswith(".key") else really(path, flags)

        short.setattr(os, "open", one_less)
        await looking.look()
        await looking.look()
    assert (looking.served(), looking.broken) == (((CHAIN, KEY),), 1)
    await looking.look()
    assert (looking.served(), looking.broken) == (((OTHER_CHAIN, OTHER_KEY),), 0)
    why = f"$file://{mount / 'tls.key'}: Too many open files"
    assert looking.told() == [(SKIPPED, why), CHANGED]


async def test_files_that_are_there_later_than_their_object(tmp_path: Path) -> None:
    mount, looking = SecretMount(tmp_path / "tls", {}), Looking()
    await looking.in_force.load(Listing((naming(mount),), 5))
    await looking.look()
    assert (looking.served(), looking.broken) == (None, 1)
    mount.write("tls.crt", CHAIN)
    await looking.look()
    assert (looking.served(), looking.broken) == (None, 1)
    mount.write("tls.key", KEY)
    await looking.look()
    assert (looking.served(), looking.broken) == (((CHAIN, KEY),), 0)
    absent = [(SKIPPED, f"$file://{mount / name}: No such file or directory") for name in FIRST]
    assert looking.told() == [*absent, CHANGED]


async def test_the_other_workers_tell_nothing(tmp_path: Path) -> None:
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking(telling=False)
    await looking.in_force.load(Listing((naming(mount),), 5))
    for files in (SECOND, TORN):
        mount.swap(files)
        await looking.look()
    assert (looking.served(), looking.broken) == (((OTHER_CHAIN, OTHER_KEY),), 1)


async def test_a_changed_file_is_seen_by_every_object_that_names_it(tmp_path: Path) -> None:
    """Also by the one that was read before the change, when another one was read after it."""
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking()
    first = naming(mount)
    second = Entry("/apisix/ssls/2", first.value.replace(b'"x"', b'"y"'), 2, 2)
    await looking.in_force.load(Listing((first,), 1))
    mount.swap(SECOND)
    await looking.in_force.apply(Batch(2, (second,)))
    await looking.look()
    assert looking.served() == ((OTHER_CHAIN, OTHER_KEY),)


class SlowReferences(References):
    """Reads a file when it is let to."""

    def __init__(self) -> None:
        super().__init__({}, lambda: 2**62)
        self.reading = trio.Event()
        self.may_read = Flag()
        self.may_read.set()

    def resolve(self, text: str) -> str:
        if not self.may_read.is_set():
            trio.from_thread.run_sync(self.reading.set)
            assert self.may_read.wait(10)
        return super().resolve(text)


INSIDE = {"cert": OTHER_CHAIN, "key": OTHER_KEY, "sni": "x"}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Deleted(SSL, 6), None),
        (Entry(SSL, json.dumps(INSIDE).encode(), 1, 6), ((OTHER_CHAIN, OTHER_KEY),)),
    ],
    ids=["deleted", "written"],
)
async def test_a_write_while_files_are_read_is_not_undone(
    tmp_path: Path, event: Event, expected: Any
) -> None:
    """The loop turns meanwhile: it is this test that lets the disk go on."""
    references = SlowReferences()
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking(references)
    await looking.in_force.load(Listing((naming(mount),), 5))
    mount.swap(FIRST | {"more": "files"})
    references.may_read.clear()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(looking.look)
            await references.reading.wait()
            nursery.start_soon(looking.in_force.apply, Batch(6, (event,)))
            await trio.testing.wait_all_tasks_blocked()
            assert looking.served() == ((CHAIN, KEY),)
            references.may_read.set()
    assert (looking.served(), looking.snapshot.revision) == (expected, 6)


async def test_a_disk_that_hangs_when_an_object_comes_holds_up_no_player(tmp_path: Path) -> None:
    references = SlowReferences()
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking(references)
    references.may_read.clear()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(looking.in_force.load, Listing((naming(mount),), 5))
            await references.reading.wait()
            assert looking.served() is None
            references.may_read.set()
    assert looking.served() == ((CHAIN, KEY),)


async def test_before_each_look_it_asks_how_long_to_wait(tmp_path: Path) -> None:
    """The setting may change while it runs."""
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking()
    await looking.in_force.load(Listing((naming(mount),), 5))
    served: list[Any] = []
    patient = trio.Event()

    def every() -> float:
        served.append(looking.served())
        mount.swap(SECOND if len(served) % 2 else FIRST)
        if len(served) < 4:
            return 0.0
        patient.set()
        return 3600.0

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(looking.in_force.look_after_files, looking.references, every)
            await patient.wait()
            nursery.cancel_scope.cancel()
    first, second = ((CHAIN, KEY),), ((OTHER_CHAIN, OTHER_KEY),)
    assert served == [first, second, first, second]


async def test_an_object_that_came_while_the_key_file_could_not_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a key that was added since this worker has read the file."""
    settings = Settings(state_dir=tmp_path)
    looking = Looking(keyring=open_keyring(settings))
    key_file(settings).add()
    sealed = open_keyring(settings).encrypt(KEY, "ssls/1/key")
    value = json.dumps({"cert": CHAIN, "key": sealed, "sni": "x"}).encode()
    with monkeypatch.context() as short:
        short.setattr(Path, "read_text", lambda *_, **__: too_many_files())
        await looking.in_force.apply(Batch(6, (Entry(SSL, value, 1, 6),)))
        for _ in range(2):
            await looking.look()
        assert (looking.served(), looking.broken) == (None, 1)
        ((event, cause),) = looking.told()
        assert event == SKIPPED
        assert cause.endswith(
            "Too many open files; set state_dir to a directory that this user may write"
        )
    for _ in range(2):
        await looking.look()
    assert (looking.served(), looking.broken) == (((CHAIN, KEY),), 0)
    assert looking.told()[1:] == [CHANGED]
    assert looking.snapshot.files == frozenset()


@dataclass
class Hanging:
    """References on files that hang as long as they are told to."""

    real: References
    hang: Flag = field(default_factory=Flag)
    asked: int = 0

    def resolve(self, text: str) -> str:
        if not self.hang.is_set():
            self.asked += 1
            assert self.hang.wait(30)
        return self.real.resolve(text)


async def test_files_that_hang_hold_up_no_other_change(tmp_path: Path) -> None:
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking()
    files = Hanging(looking.references)
    looking.snapshot = Snapshot("/apisix", KEYRING, files.resolve)
    log = open_log("proxy", looking.output)
    in_force = looking.in_force = InForce(
        # Only who hangs is not waited for: a thread may start late, and a disk be slow.
        looking.snapshot,
        looking.metrics,
        log,
        patience=lambda: 10 if files.hang.is_set() else 0.05,
    )
    files.hang.set()
    await in_force.load(Listing((naming(mount),), 5))
    await looking.look()
    files.hang.clear()
    mount.swap(SECOND)
    inside = Entry("/apisix/ssls/2", json.dumps(INSIDE | {"sni": "y"}).encode(), 1, 6)
    try:
        with trio.fail_after(10):
            for _ in range(3):
                await looking.look()
            await in_force.apply(Batch(6, (naming(mount, 6), inside)))
        assert (looking.served(), looking.broken, files.asked) == (((CHAIN, KEY),), 1, 1)
        assert looking.snapshot.certificates.choose("y", NOW) is not None
        why = f"not read in time: {mount / 'tls.crt'}, {mount / 'tls.key'}"
        assert looking.told() == [(SKIPPED, why), (SKIPPED, why)]  # once for each revision
    finally:
        files.hang.set()
    with trio.fail_after(10):
        while looking.broken:
            await looking.look()
            await trio.sleep(0.01)
    assert looking.served() == ((OTHER_CHAIN, OTHER_KEY),)
    assert looking.told()[2:] == [CHANGED]


async def test_no_more_threads_hang_than_there_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sniproxy.config.READERS", 3)
    mount, looking = SecretMount(tmp_path / "tls", FIRST), Looking(telling=False)
    files = Hanging(looking.references)
    looking.snapshot = Snapshot("/apisix", KEYRING, files.resolve)
    in_force = InForce(looking.snapshot, looking.metrics, None, patience=lambda: 0.05)
    value = naming(mount).value
    entries = [Entry(f"/apisix/ssls/{number}", value, 1, 1) for number in range(50)]
    try:
        with trio.fail_after(10):
            await in_force.load(Listing(tuple(entries), 5))
            while files.asked < 3:  # noqa: ASYNC110  # one that was given up may only begin now
                await trio.sleep(0.01)
        assert (files.asked, looking.broken) == (3, 50)
    finally:
        files.hang.set()
