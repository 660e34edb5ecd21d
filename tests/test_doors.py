"""The data plane's listening sockets, on real ports: spread, exclusive, closed and opened again, and handed on."""

import os
import select
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sniproxy.doors import Doors
from sniproxy.errors import SettingsError
from sniproxy.settings import Listener, Proxy
from tests.support.files import open_files, settled_files
from tests.support.ports import free_ports

MANY = 200  # players: that one of four sockets gets none of them happens once in 10^24 times


@pytest.fixture
def port() -> int:
    """One that is free."""
    (found,) = free_ports(1)
    return found


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = settled_files()
    yield
    assert open_files() == before


def proxy(*ports: int, **members: Any) -> Proxy:
    """Settings with so many listeners."""
    listeners = tuple(Listener(address=f"127.0.0.1:{one}", **members) for one in ports)
    return Proxy(listeners=listeners, trusted=("10.0.0.0/8",))


def dial(port: int) -> socket.socket:
    """A player who has connected."""
    return socket.create_connection(("127.0.0.1", port))


def refused(port: int) -> bool:
    """Whether nobody is let in."""
    try:
        dial(port).close()
    except ConnectionRefusedError:
        return True
    return False


def waiting(group: list[int]) -> list[int]:
    """Players in the queue of each socket; they are let in and sent away."""
    counts = []
    for number in group:
        with socket.socket(fileno=os.dup(number)) as sock:
            counts.append(0)
            while select.select([sock], [], [], 0)[0]:
                sock.accept()[0].close()
                counts[-1] += 1
    return counts


def crowd(port: int, size: int = MANY) -> None:
    """So many come, and go as soon as they have come."""
    for _ in range(size):
        dial(port).close()


def inherited(doors: Doors) -> dict[str, list[int]]:
    """As the next version gets them."""
    return {address: [os.dup(one) for one in group] for address, group in doors.groups.items()}


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_who_comes_is_spread_over_all_slots(port: int, slots: int) -> None:
    with Doors(proxy(port), slots) as doors:
        assert (doors.slots, doors.ports) == (slots, [port])
        assert refused(port)
        doors.open()
        crowd(port)
        counts = waiting(doors.descriptors[0])
        assert len(counts) == slots
        assert sum(counts) == MANY
        assert min(counts) > 0
    assert refused(port)


def test_any_free_port_is_the_same_one_for_all_slots() -> None:
    with Doors(proxy(0, 0), 3) as doors:
        assert len(set(doors.ports)) == 2
        for group, port in zip(doors.descriptors, doors.ports, strict=True):
            names = []
            for number in group:
                with socket.socket(fileno=os.dup(number)) as sock:
                    names.append(sock.getsockname())
            assert names == [("127.0.0.1", port)] * 3


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("others", [1, 2])
def test_another_data_plane_cannot_have_the_address(port: int, slots: int, others: int) -> None:
    """However many slots either has: it would get a part of the players."""
    with Doors(proxy(port), others) as doors:
        doors.open()
        with pytest.raises(SettingsError, match=f"proxy.listeners.0.address: port {port} is taken"):
            Doors(proxy(port), slots)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("others", [1, 2])
def test_of_two_that_start_at_once_one_is_told(port: int, slots: int, others: int) -> None:
    """Both have bound before either listens."""
    with Doors(proxy(port), others) as first:
        try:
            second = Doors(proxy(port), slots)
        except SettingsError:
            return
        with second:
            first.open()
            with pytest.raises(SettingsError, match=f"port {port} is taken"):
                second.open()
            crowd(port)
            assert sum(waiting(first.descriptors[0])) == MANY


@pytest.mark.parametrize("slots", [1, 3])
def test_a_taken_port_leaves_nothing_bound(port: int, slots: int) -> None:
    ours, also_ours, left = free_ports(3)
    with Doors(proxy(also_ours, left), 2) as before, socket.create_server(("127.0.0.1", port)):
        before.open()
        with pytest.raises(SettingsError, match=f"proxy.listeners.2.address: port {port} is taken"):
            Doors(proxy(ours, also_ours, port), slots, inherited(before))
    with Doors(proxy(ours, also_ours, left), 1) as after:
        after.open()


@pytest.mark.parametrize("slots", [1, 4])
def test_closed_it_refuses_and_opened_again_it_spreads_again(port: int, slots: int) -> None:
    with Doors(proxy(port), slots) as doors:
        for _ in range(3):
            doors.open()
            crowd(port)
            counts = waiting(doors.descriptors[0])
            assert sum(counts) == MANY
            assert min(counts) > 0
            doors.close()
            doors.close()
            assert refused(port)


def test_one_that_cannot_be_opened_again_leaves_all_closed() -> None:
    """Another program has come first, which shares the address."""
    first, second = free_ports(2)
    with Doors(proxy(first, second), 2) as doors, socket.socket() as other:
        doors.open()
        doors.close()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", second))
        other.listen()
        with pytest.raises(SettingsError, match=f"port {second} is taken"):
            doors.open()
        assert refused(first)
        other.close()
        doors.open()
        assert not refused(first)


def test_closed_the_address_stays_ours(port: int) -> None:
    with Doors(proxy(port), 2) as doors:
        doors.open()
        doors.close()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_to_be_closed_holds_for_every_process_that_has_the_socket(port: int) -> None:
    """As a worker has it, which goes on living."""
    with Doors(proxy(port), 2) as doors:
        doors.open()
        held = [socket.socket(fileno=os.dup(one)) for one in doors.descriptors[0]]
        doors.close()
        assert refused(port)
        for one in held:
            one.close()


def test_the_next_version_goes_on_with_the_queues(port: int) -> None:
    """Who waits is let in by it, and who comes meanwhile waits."""
    with Doors(proxy(port), 2) as old:
        old.open()
        crowd(port)
        new = Doors(proxy(port), 2, inherited(old))
    with new:
        crowd(port)
        assert (new.ports, new.slots) == ([port], 2)
        new.open()
        crowd(port)
        counts = waiting(new.descriptors[0])
        assert sum(counts) == 3 * MANY
        for group in new.descriptors:
            assert not any(os.get_inheritable(one) or os.get_blocking(one) for one in group)


@pytest.mark.parametrize(("before", "after", "slots"), [(2, 4, 4), (4, 2, 4), (1, 3, 3)])
def test_more_workers_get_more_slots_and_fewer_serve_all(
    port: int, before: int, after: int, slots: int
) -> None:
    with Doors(proxy(port), before) as old:
        old.open()
        new = Doors(proxy(port), after, inherited(old))
    with new:
        new.open()
        crowd(port)
        assert new.slots == slots == len(new.descriptors[0])
        counts = waiting(new.descriptors[0])
        assert sum(counts) == MANY
        assert min(counts) > 0


def test_an_address_that_is_not_in_the_settings_any_more_is_closed_in_the_end(port: int) -> None:
    """Not before the new version serves: until then it is the old one's."""
    (new_port,) = free_ports(1)
    with Doors(proxy(port), 2) as old:
        old.open()
        new = Doors(proxy(new_port), 2, inherited(old))
        new.open()
        crowd(port)
        assert sum(waiting(old.descriptors[0])) == MANY
        new.leave_others()
        new.leave_others()
        assert refused(port)  # although the old one still has it
        assert not refused(new_port)
    new.__exit__()
    assert refused(new_port)


def test_groups_may_be_of_different_sizes(port: int) -> None:
    """A new address beside one that an earlier version has bound for fewer workers, or more."""
    (new_port,) = free_ports(1)
    with Doors(proxy(port), 3) as old:
        new = Doors(proxy(port, new_port), 2, inherited(old))
    with new:
        assert [len(group) for group in new.descriptors] == [3, 2]
        assert new.slots == 3
    assert new.groups.keys() == {f"127.0.0.1:{port}", f"127.0.0.1:{new_port}"}


def test_other_settings_hold_for_who_comes_from_now_on_and_who_waits_stays(port: int) -> None:
    """Where it is closed they hold once it is opened."""

    def deferred(doors: Doors) -> set[int]:
        found = set()
        for number in doors.descriptors[0]:
            with socket.socket(fileno=os.dup(number)) as sock:
                found.add(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT))
        return found

    settings = proxy(port, tls=True).model_copy(update={"defer_accept": 0})
    with Doors(settings, 2) as doors:
        doors.settle(settings)
        assert refused(port)
        doors.open()
        crowd(port)
        doors.settle(proxy(port, tls=True))
        assert sum(waiting(doors.descriptors[0])) == MANY
        assert deferred(doors) == {1}
        doors.close()
        doors.settle(settings)
        assert refused(port)
        doors.open()
        assert deferred(doors) == {0}


@pytest.mark.parametrize(
    ("members", "deferred"),
    [({}, 0), ({"tls": True}, 1), ({"tls_passthrough": True}, 1), ({"proxy_protocol": True}, 1)],
)
def test_who_speaks_first_is_not_let_in_before_he_does(
    port: int, members: dict[str, bool], deferred: int
) -> None:
    with Doors(proxy(port, **members), 2) as doors:
        doors.open()
        settings = Counter[tuple[int, ...]]()
        for number in doors.descriptors[0]:
            with socket.socket(fileno=os.dup(number)) as sock:
                options = (
                    sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
                    sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT),
                )
                settings[options] += 1
        assert settings == {(deferred, 1, 1, 131072): 2}
