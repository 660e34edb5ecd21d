"""Which relay moves the bytes: what was asked for against what there is."""

import pytest

from sniproxy.errors import SettingsError
from sniproxy.limits import open_limits
from sniproxy.relay.native import BUILT, NativeRelay
from sniproxy.relay.opening import choose_relay, open_relay
from sniproxy.relay.trio_relay import TrioRelay
from sniproxy.settings import Proxy

pytestmark = pytest.mark.anyio

HOW_TO_BUILD = (
    "proxy.relay: native not built: "
    "install sniproxy where there is a Rust toolchain (rustc and cargo), or set auto"
)


@pytest.mark.parametrize(
    ("asked", "built", "chosen"),
    [
        ("auto", True, "native"),
        ("auto", False, "trio (native not built)"),
        ("native", True, "native"),
        ("trio", True, "trio"),
        ("trio", False, "trio"),
    ],
)
def test_what_was_asked_for_and_what_there_is_name_the_relay(
    asked: str, built: bool, chosen: str
) -> None:
    assert choose_relay(asked, built=built) == chosen


def test_who_asks_for_the_native_relay_where_it_is_not_is_told_how_to_get_it() -> None:
    with pytest.raises(SettingsError) as error:
        choose_relay("native", built=False)
    assert str(error.value) == HOW_TO_BUILD


def test_what_is_built_is_looked_up() -> None:
    assert choose_relay("auto") == ("native" if BUILT else "trio (native not built)")


async def test_the_relay_that_is_opened_is_the_one_that_was_named() -> None:
    for asked in ("auto", "trio", *["native"] * BUILT):
        settings = Proxy.model_validate({"relay": asked})
        async with open_relay(settings, open_limits(settings).places) as relay:
            assert relay.name == choose_relay(asked).partition(" ")[0]
            assert isinstance(relay, NativeRelay if relay.name == "native" else TrioRelay)
