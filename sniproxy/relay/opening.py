"""From the `proxy.relay` setting to a relay."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager

from sniproxy.errors import SettingsError
from sniproxy.relay import Relay
from sniproxy.relay.native import BUILT, open_native_relay
from sniproxy.relay.trio_relay import open_trio_relay
from sniproxy.settings import Proxy
from sniproxy.stick_table import Places

NOT_BUILT = "native not built"


def choose_relay(asked: str, *, built: bool = BUILT) -> str:
    """What will move the bytes, for the log: `native`, `trio`, or `trio (native not built)`.

    SettingsError when the native relay was asked for and is not there.
    """
    if asked == "trio":
        return "trio"
    if built:
        return "native"
    if asked == "native":
        raise SettingsError(
            f"proxy.relay: {NOT_BUILT}: install sniproxy where there is a Rust toolchain (rustc and cargo), or set auto"
        )
    return f"trio ({NOT_BUILT})"


def open_relay(
    settings: Proxy, places: Places, secrets: Callable[[], Iterable[bytes]] = tuple
) -> AbstractAsyncContextManager[Relay]:
    """The relay that `choose_relay` names; leaving the block ends its sessions.

    `places`: where it counts them. `secrets`: what players' tickets are sealed under (`Keyring.ticket_secrets`).
    """
    if choose_relay(settings.relay) != "native":
        return open_trio_relay(buffer_size=settings.relay_buffer)
    return open_native_relay(
        buffer_size=settings.relay_buffer,
        pipes=settings.relay_pipes,
        keepalive_idle=settings.keepalive_idle,
        places=places,
        max_sessions=settings.max_sessions,
        secrets=secrets,
    )
