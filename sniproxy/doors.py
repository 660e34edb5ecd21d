"""The data plane's listening sockets: for each listener one per slot, bound once and held for as long as it lives.

Workers accept from them and do not own them: a queue of connections survives the worker that was to accept them, and the
version too.
"""

import socket
from collections.abc import Iterable, Mapping
from typing import Self

from sniproxy.errors import SettingsError
from sniproxy.listener import bind_group, ensure_unshared, listen, stop_listening, widen
from sniproxy.relay.sockets import keep_little, tune
from sniproxy.settings import Listener, Proxy, Settings

Groups = Mapping[str, list[int]]  # descriptors by address


def addresses(settings: Settings) -> list[tuple[str, str]]:
    """All that a data plane listens on: address, and the setting that names it."""
    listeners = enumerate(settings.proxy.listeners)
    found = [(listener.address, _setting(index)) for index, listener in listeners]
    return [*found, (settings.status.address, "status.address")]


def _setting(index: int) -> str:
    return f"proxy.listeners.{index}.address"


class Doors:
    """All listeners of a data plane. A context manager: leaving it closes them."""

    def __init__(self, settings: Proxy, slots: int, inherited: Groups | None = None) -> None:
        """Binds what is not inherited, which is ours from now on; SettingsError for an address that cannot be had."""
        self._settings = settings
        self._is_open = False
        self._groups: list[list[socket.socket]] = []
        held = self._held = {
            address: [_from(number) for number in numbers]
            for address, numbers in (inherited or {}).items()
        }
        try:
            for index, listener in enumerate(settings.listeners):
                setting = _setting(index)
                if listener.address in held:
                    group = held.pop(listener.address)
                    self._groups.append(group)
                    widen(group, setting, slots)
                else:
                    self._groups.append(bind_group(listener.address, setting, slots))
        except BaseException:
            self.__exit__()
            raise
        self.slots = max((len(group) for group in self._groups), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._all:
            sock.close()
        self.leave_others()

    @property
    def ports(self) -> list[int]:
        """One for each listener."""
        return [group[0].getsockname()[1] for group in self._groups]

    @property
    def descriptors(self) -> list[list[int]]:
        """For each listener those of its slots."""
        return [[sock.fileno() for sock in group] for group in self._groups]

    @property
    def groups(self) -> dict[str, list[int]]:
        """What the next version inherits."""
        pairs = zip(self._settings.listeners, self.descriptors, strict=True)
        return {listener.address: numbers for listener, numbers in pairs}

    @property
    def _all(self) -> Iterable[socket.socket]:
        return (sock for group in self._groups for sock in group)

    def open(self) -> None:
        """From now on connections come, and wait to be accepted. SettingsError if another program came first: none do."""
        try:
            self._open()
        except SettingsError:
            self.close()
            raise

    def _open(self) -> None:
        self._is_open = True
        for index, (listener, group) in enumerate(
            zip(self._settings.listeners, self._groups, strict=True)
        ):
            setting = _setting(index)
            ensure_unshared(group, setting)
            for sock in group:
                listen(
                    sock,
                    setting,
                    backlog=self._settings.backlog,
                    defer_accept=self._settings.defer_accept if _speaks_first(listener) else 0,
                )
                # Accepted sockets inherit these.
                tune(sock, keepalive_idle=self._settings.keepalive_idle)
                keep_little(sock, self._settings.notsent_lowat)

    def settle(self, settings: Proxy) -> None:
        """Goes on by other settings, with the same addresses."""
        self._settings = settings
        if self._is_open:
            self.open()  # which sets options anew, and keeps who waits

    def close(self) -> None:
        """Nobody comes any more; `open` may follow. Their queues are to be empty."""
        self._is_open = False
        for sock in self._all:
            stop_listening(sock)

    def leave_others(self) -> None:
        """The addresses that were inherited and are not in the settings."""
        for group in self._held.values():
            for sock in group:
                stop_listening(sock)
                sock.close()
        self._held.clear()


def _from(number: int) -> socket.socket:
    sock = socket.socket(fileno=number)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _speaks_first(listener: Listener) -> bool:
    """Whether it is the client who says the first byte."""
    return listener.is_tls or listener.proxy_protocol
