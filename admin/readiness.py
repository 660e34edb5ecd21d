"""`/livez` and `/readyz` of the admin API, for what starts it and sends people to it. No key is needed: they say no more.

It is not ready before the store has answered it once, so that an upgrade which cannot reach the store, or may not, replaces
nobody who can; nor from the signal that ends it on. In between it is: where the store is away it is so for every other one
too, and whoever asks is better off with an answer that says so than with none.
"""

import anyio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sniproxy.errors import StoreError
from sniproxy.logs import Log
from sniproxy.store import Store

RETRY = 0.2  # seconds before a store that was away is asked again
RETRY_MAX = 5.0  # it doubles up to this
LIVEZ, READYZ = "/livez", "/readyz"


class Readiness:
    """Whether people are to be sent here."""

    def __init__(self) -> None:
        self._store = False  # it has answered
        self._ending = False

    async def reach(self, store: Store, prefix: str, log: Log) -> None:
        """Until the store has answered, however long that takes."""
        pause = RETRY
        while True:
            try:
                await store.get(f"{prefix}/ssls/")
            except StoreError as error:
                if pause == RETRY:
                    log.warning("not ready yet", cause=str(error))
            else:
                self._store = True
                return
            await anyio.sleep(pause)
            pause = min(pause * 2, RETRY_MAX)

    def end(self) -> None:
        """No more people are to be sent here."""
        self._ending = True

    def routes(self) -> list[Route]:
        """Where it is asked."""
        return [Route(LIVEZ, _alive), Route(READYZ, self._ready)]

    async def _ready(self, _: Request) -> Response:
        if self._ending:
            return PlainTextResponse("it is about to end\n", 503)
        if not self._store:
            return PlainTextResponse("the store has not answered yet: the log says why\n", 503)
        return PlainTextResponse("ok\n")


async def _alive(_: Request) -> Response:
    return PlainTextResponse("ok\n")
