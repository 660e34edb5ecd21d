"""The relays that keep the contract: every test with `implementation` or `relay` in its arguments runs once for each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sniproxy.relay import Relay
from sniproxy.relay.native import BUILT, open_native_relay
from sniproxy.relay.trio_relay import open_trio_relay
from tests.support.clocks import watch
from tests.support.relaying import Implementation


@asynccontextmanager
async def _open_trio(buffer_size: int) -> AsyncIterator[Relay]:
    async with open_trio_relay(buffer_size=buffer_size) as relay:
        yield relay


@asynccontextmanager
async def _open_native(buffer_size: int) -> AsyncIterator[Relay]:
    async with open_native_relay(buffer_size=buffer_size, pipes=16) as relay:
        watch(relay)
        yield relay


IMPLEMENTATIONS = [Implementation("trio", _open_trio, virtual=True)]
if BUILT:
    IMPLEMENTATIONS.append(Implementation("native", _open_native, virtual=True))


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda implementation: implementation.name)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """A relay under test."""
    found = request.param
    assert isinstance(found, Implementation)
    return found
