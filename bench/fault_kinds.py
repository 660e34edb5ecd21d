"""The faults of `faults.py`: what each of them does to a site, and for how long."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.site import Plane, Site
from bench.traffic import Writers
from tests.support.small_disk import empty, fill
from tests.support.stack import retry_until


@dataclass
class Scene:
    """What faults are made to."""

    site: Site
    writers: Writers
    folder: Path
    choice: random.Random

    def plane(self) -> Plane:
        """Any data plane."""
        return self.choice.choice(self.site.planes)

    def follower(self, leader: int | None = None) -> int:
        """Any member that does not lead. leader: who did, when that was asked; it may be another one by now."""
        leader = self.site.etcd.wait_leader() if leader is None else leader
        return self.choice.choice([n for n in self.site.etcd.running if n != leader])


@contextmanager
def _killed(scene: Scene, *members: int) -> Iterator[None]:
    for member in members:
        scene.site.etcd.kill(member)
    try:
        yield
    finally:
        for member in members:
            scene.site.etcd.start(member)


@contextmanager
def _paused(scene: Scene, *members: int) -> Iterator[None]:
    for member in members:
        scene.site.etcd.pause(member)
    try:
        yield
    finally:
        for member in members:
            scene.site.etcd.resume(member)


def kill_leader(scene: Scene) -> AbstractContextManager[None]:
    return _killed(scene, scene.site.etcd.wait_leader())


def kill_follower(scene: Scene) -> AbstractContextManager[None]:
    return _killed(scene, scene.follower())


def kill_two(scene: Scene) -> AbstractContextManager[None]:
    leader = scene.site.etcd.wait_leader()
    return _killed(scene, leader, scene.follower(leader))


def kill_all(scene: Scene) -> AbstractContextManager[None]:
    return _killed(scene, *scene.site.etcd.running)


def pause_leader(scene: Scene) -> AbstractContextManager[None]:
    return _paused(scene, scene.site.etcd.wait_leader())


def pause_all(scene: Scene) -> AbstractContextManager[None]:
    return _paused(scene, *scene.site.etcd.running)


@contextmanager
def cut_plane(scene: Scene) -> Iterator[None]:
    plane = scene.plane()
    plane.cut()
    try:
        yield
    finally:
        plane.heal()


@contextmanager
def silent_plane(scene: Scene) -> Iterator[None]:
    plane = scene.plane()
    plane.freeze()
    try:
        yield
    finally:
        plane.heal()


@contextmanager
def half_open(scene: Scene) -> Iterator[None]:
    scene.plane().freeze(existing_only=True)
    yield  # for ever: what is frozen now stays so


@contextmanager
def compact_while_cut(scene: Scene) -> Iterator[None]:
    with cut_plane(scene):
        yield
        scene.site.etcd.compact()


@contextmanager
def full_disk(scene: Scene) -> Iterator[None]:
    """The local copy of a data plane cannot be written, where small disks may be mounted."""
    disk = scene.plane().disk
    if disk is not None:
        fill(disk)
    try:
        yield
    finally:
        if disk is not None:
            empty(disk)


@contextmanager
def restart_admin(scene: Scene) -> Iterator[None]:
    admin = scene.site.admin
    admin.admin.kill()
    try:
        yield
    finally:
        admin.admin.start()
        admin.wait_admin()


def _save(scene: Scene) -> Path:
    snapshot = scene.folder / "snapshot"
    snapshot.unlink(missing_ok=True)
    scene.site.etcd.save(snapshot)
    return snapshot


def _go_back(scene: Scene, snapshot: Path) -> None:
    """What was acknowledged since the snapshot is lost by definition: the history begins anew. Writes go on at once."""
    with scene.writers.paused():
        scene.site.etcd.restore(snapshot)
        scene.writers.begin_anew()


@contextmanager
def restore(scene: Scene) -> Iterator[None]:
    snapshot = _save(scene)
    yield
    _go_back(scene, snapshot)


@contextmanager
def restore_while_cut(scene: Scene) -> Iterator[None]:
    """A data plane that did not see the store go back finds revisions that it knows, with other writes in them."""
    snapshot = _save(scene)
    yield
    with cut_plane(scene):
        head = scene.site.etcd.revision()
        _go_back(scene, snapshot)
        for _ in retry_until(60, "as many writes as were lost"):
            if scene.site.etcd.revision() > head:
                break


@dataclass(frozen=True)
class Fault:
    """What is done, and for how long; it ends with the block."""

    begin: Callable[[Scene], AbstractContextManager[None]]
    seconds: float = 3.0
    blinds: bool = False  # no data plane can follow etcd meanwhile

    @property
    def name(self) -> str:
        return self.begin.__name__.replace("_", "-")


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(kill_leader),
        Fault(kill_follower),
        Fault(kill_two),
        Fault(kill_all, blinds=True),
        Fault(pause_leader, 8),
        Fault(pause_all, 4, blinds=True),
        Fault(cut_plane),
        Fault(silent_plane, 4),
        Fault(half_open, 15),  # as long as a silent watch may take to be noticed
        Fault(compact_while_cut),
        Fault(full_disk, 2),
        Fault(restart_admin, 1),
        Fault(restore),
        Fault(restore_while_cut),
    )
}
