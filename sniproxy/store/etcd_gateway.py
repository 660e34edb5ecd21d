"""One question to etcd and its answer: endpoints, deadlines, signing in, TLS, errors in words. Knows no keys.

etcd serves its API as JSON over HTTP/1.1 (the "gRPC gateway"), so httpx suffices, on trio and on asyncio.

- Calls stay with the endpoint that answered last and go on to the next one when it cannot be reached, breaks off, or
  says that it has no leader. A read goes once around all of them, each getting an equal share of the time that is
  left. A write goes on only while it is certain that nothing was done; otherwise StoreUnavailable says that it may
  have been written.
- The token of a user is asked for at first use, once again when etcd does not know it any more (it forgets tokens after
  five minutes without use, and all of them when it restarts), and after a call that got no answer.
- No message carries the password or a token.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import httpx

from sniproxy.errors import SettingsError, StoreUnavailable, os_cause
from sniproxy.store.etcd_config import EtcdConfig, base_url, tls_context
from sniproxy.store.etcd_health import EtcdHealth

T = TypeVar("T")
Json = dict[str, Any]

MAX_ANSWER = 64 * 1024 * 1024  # bytes of one answer, or of one line of a watch
MAX_REASON = 200  # characters of somebody else's message that we repeat
IDLE_CONNECTIONS = 20  # kept open between calls; those in use have no limit, a watch holds one
UNAVAILABLE = 14  # gRPC's codes: no leader, or the leader does not answer
UNAUTHENTICATED = 16
AUTH_NOT_ENABLED = 9
NOT_FOUND = 5
SIGN_IN_AGAIN = ("invalid auth token", "user name is empty", "revision of auth store is old")
NO_LEADER = "etcdserver: no leader"  # said before anything is done, thanks to the last of HEADERS
HEADERS = {
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    # a member that is cut off from its cluster says so at once, and ends its watches, instead of being silent
    "Grpc-Metadata-hasleader": "true",
}
# on asyncio httpcore lets an ssl.SSLError through that comes while it reads, hence OSError
BROKEN = (httpx.HTTPError, httpx.StreamError, OSError)
MAYBE = "it may or may not have been written"


class Failed(StoreUnavailable):
    """One endpoint gave no usable answer. `sent`: it may have acted on the request."""

    def __init__(self, endpoint: str, reason: str, *, sent: bool) -> None:
        super().__init__(f"etcd at {endpoint}: {reason}")
        self.sent = sent


class Refused(StoreUnavailable):
    """etcd answered that it will not; `code` is gRPC's. Nothing was done."""

    def __init__(self, endpoint: str, code: int, message: str) -> None:
        super().__init__(f"etcd at {endpoint} refused: {message}")
        self.code = code
        self.sign_in_again = code == UNAUTHENTICATED or message.endswith(SIGN_IN_AGAIN)


class TooLarge(StoreUnavailable):
    """An answer, or a line of one, is longer than its bound."""


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Turn whatever goes wrong in reading an answer's members into StoreUnavailable."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise StoreUnavailable(f"etcd gave a malformed answer: {what}") from error


class _Body(httpx.AsyncByteStream):
    """The body of a request. httpx's own is an async generator, a leak to trio when the connection breaks half-way."""

    def __init__(self, content: bytes) -> None:
        self._left: bytes | None = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        content, self._left = self._left, None
        if content is None:
            raise StopAsyncIteration
        return content


class Answer:
    """The body of one answer as it arrives; must be closed."""

    def __init__(self, response: httpx.Response, endpoint: str) -> None:
        self.status = response.status_code
        self.endpoint = endpoint
        self._response = response
        self._chunks = response.aiter_bytes()

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises StoreUnavailable."""
        with _edge(self.endpoint):
            return await anext(self._chunks, b"")

    async def read_all(self) -> bytes:
        """All of a short body. Raises TooLarge, StoreUnavailable."""
        parts: list[bytes] = []
        size = 0
        while chunk := await self.read():
            size += len(chunk)
            if size > MAX_ANSWER:
                raise TooLarge(f"etcd at {self.endpoint}: an answer of over {MAX_ANSWER} bytes")
            parts.append(chunk)
        return b"".join(parts)

    async def aclose(self) -> None:
        """Give the connection back, or close it when there was more to come."""
        with anyio.CancelScope(shield=True):
            # httpx nests async generators; one that is dropped half-way is reported by trio as a leak.
            # A cancelled read ends them all from the inside.
            with anyio.CancelScope() as ending, suppress(*BROKEN):
                ending.cancel()
                async for _ in self._chunks:
                    pass
            with suppress(*BROKEN):
                await self._response.aclose()


@dataclass(frozen=True)
class _Patience:
    """Seconds for one try at one endpoint."""

    connect: float
    total: float


class Gateway:
    """etcd's JSON gateway at any of several endpoints. Raises SettingsError for TLS files that cannot be used."""

    def __init__(self, config: EtcdConfig, transport: httpx.AsyncBaseTransport | None) -> None:
        self._config = config
        self._endpoints = tuple(base_url(url) for url in config.endpoints)
        if not self._endpoints:
            raise SettingsError("etcd endpoints: none given: name at least one")
        self._current = 0
        self._token: str | None = None
        self._signing_in = anyio.Lock()
        self.health = EtcdHealth()
        self._client = httpx.AsyncClient(
            transport=transport,
            verify=tls_context(config),
            trust_env=False,  # the proxies of the environment are not for etcd
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS),
            headers=HEADERS,
        )

    def deadline(self) -> float:
        """When a call that begins now must have ended, on `anyio.current_time`'s clock."""
        return anyio.current_time() + self._config.timeout

    async def read(self, path: str, body: Json, deadline: float) -> Json:
        """Ask for something that does no harm when it is asked twice."""
        return await self._call(path, body, deadline, again=True)

    async def write(self, path: str, body: Json, deadline: float) -> Json:
        """Ask for a change, sent at most once."""
        return await self._call(path, body, deadline, again=False)

    async def stream(self, path: str, body: Json, deadline: float) -> Answer:
        """Ask for an answer without end; the deadline is for its beginning."""
        content = _dump(body)

        async def once(endpoint: str, patience: _Patience, token: str | None) -> Answer:
            with _edge(endpoint), anyio.fail_after(patience.total):
                answer = await self._open(endpoint, path, content, patience, token)
                if answer.status == httpx.codes.OK:
                    return answer
                raw = await _consume(answer)
            raise self._fault(answer, _load(raw))

        return await self._signed_in(once, deadline, again=True)

    async def aclose(self) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
            await self._client.aclose()

    # -- one call

    async def _call(self, path: str, body: Json, deadline: float, *, again: bool) -> Json:
        once = self._exchange(path, _dump(body))
        begun = anyio.current_time()
        try:
            answer = await self._signed_in(once, deadline, again=again)
        except StoreUnavailable as error:
            heard: Json | None = {} if isinstance(error, Refused) else None
            self.health.answered(anyio.current_time() - begun, heard)
            raise
        self.health.answered(anyio.current_time() - begun, answer)
        return answer

    def _exchange(
        self, path: str, content: bytes
    ) -> Callable[[str, _Patience, str | None], Awaitable[Json]]:
        async def once(endpoint: str, patience: _Patience, token: str | None) -> Json:
            with _edge(endpoint), anyio.fail_after(patience.total):
                answer = await self._open(endpoint, path, content, patience, token)
                raw = await _consume(answer)
            return self._parse(answer, raw)

        return once

    async def _open(
        self, endpoint: str, path: str, content: bytes, patience: _Patience, token: str | None
    ) -> Answer:
        limit = httpx.Timeout(None, connect=patience.connect, pool=patience.connect)
        headers = {"Authorization": token} if token else {}
        request = self._client.build_request(
            "POST", endpoint + path, content=content, headers=headers, timeout=limit
        )
        request.stream = _Body(content)
        return Answer(await self._client.send(request, stream=True), endpoint)

    def _parse(self, answer: Answer, raw: bytes) -> Json:
        parsed = _load(raw)
        if answer.status == httpx.codes.OK and parsed is not None and "error" not in parsed:
            return parsed
        raise self._fault(answer, parsed)

    def _fault(self, answer: Answer, parsed: Json | None) -> StoreUnavailable:
        """Refused when etcd itself said no, Failed when another endpoint may do better."""
        if parsed is None:
            reason = f"HTTP {answer.status}, not a JSON object: is this etcd's client port?"
            return Failed(answer.endpoint, reason, sent=True)
        if isinstance(parsed.get("error"), dict):  # where an answer is a stream
            parsed = parsed["error"]
        message = self._quoted(str(parsed.get("message") or parsed.get("error")))
        code = parsed.get("code", parsed.get("grpc_code"))  # the latter of grpc-gateway 1
        if answer.status == httpx.codes.UNAUTHORIZED:
            code = UNAUTHENTICATED
        server_error = answer.status >= httpx.codes.INTERNAL_SERVER_ERROR
        if server_error or code == UNAVAILABLE or not isinstance(code, int):
            sent = message != NO_LEADER
            return Failed(answer.endpoint, f"HTTP {answer.status}: {message}", sent=sent)
        return Refused(answer.endpoint, code, message)

    def _quoted(self, text: str) -> str:
        for secret in filter(None, (self._config.password, self._token)):
            text = text.replace(secret, "***")
        return text[:MAX_REASON]

    # -- endpoints

    async def _around(
        self, once: Callable[[str, _Patience], Awaitable[T]], deadline: float, *, again: bool
    ) -> T:
        """Try the endpoints in turn, beginning with the one that answered last."""
        if self._client.is_closed:
            raise StoreUnavailable("etcd: the store was closed by this process")
        count = len(self._endpoints)
        order = [(self._current + step) % count for step in range(count)]
        failures: list[Failed] = []
        for tried, index in enumerate(order):
            left = deadline - anyio.current_time()
            if left <= 0:
                break
            share = left / (count - tried)
            try:
                answer = await once(
                    self._endpoints[index], _Patience(share, share if again else left)
                )
            except Failed as failed:
                failures.append(failed)
                if self._current == index:
                    self._current = (index + 1) % count
                if failed.sent and not again:
                    raise StoreUnavailable(f"{failed}: {MAYBE}") from failed
            else:
                self._current = index
                return answer
        reasons = "; ".join(map(str, failures)) or "the time ran out"
        raise StoreUnavailable(f"etcd does not answer: {reasons}")

    # -- signing in

    async def _signed_in(
        self,
        once: Callable[[str, _Patience, str | None], Awaitable[T]],
        deadline: float,
        *,
        again: bool,
    ) -> T:
        """Do it with a token; with a new one when etcd does not know the token, which it says before it does anything."""
        token = await self._sign_in(deadline, stale=None)
        try:
            return await self._around(lambda e, p: once(e, p, token), deadline, again=again)
        except Refused as refused:
            if not refused.sign_in_again or self._config.user is None:
                raise
        except StoreUnavailable:
            self._forget(token)
            raise
        fresh = await self._sign_in(deadline, stale=token)
        return await self._around(lambda e, p: once(e, p, fresh), deadline, again=again)

    async def _sign_in(self, deadline: float, *, stale: str | None) -> str | None:
        """The token, "" when etcd wants none, None without a user. `stale` is one that etcd refused."""
        if self._config.user is None or (self._token is not None and stale is None):
            return self._token
        try:
            with anyio.fail_after(deadline - anyio.current_time()):
                async with self._signing_in:
                    if self._token is None or self._token == stale:
                        self._token = await self._ask_token(deadline)
                    return self._token
        except TimeoutError as error:
            raise StoreUnavailable("etcd does not answer: the time ran out signing in") from error

    def _forget(self, token: str | None) -> None:
        """After a call that nobody answered: the next one signs in anew, which needs no token.

        A token holds the index of etcd's log at which it was given out, and etcd lets whoever shows it wait until its log is
        as long. An etcd that was restored has a new log, which may never be: it would be silent for ever.
        """
        if self._token == token:
            self._token = None

    async def _ask_token(self, deadline: float) -> str:
        user = self._config.user
        once = self._exchange(
            "/v3/auth/authenticate", _dump({"name": user, "password": self._config.password or ""})
        )
        try:
            answer = await self._around(lambda e, p: once(e, p, None), deadline, again=True)
        except Refused as refused:
            if refused.code == AUTH_NOT_ENABLED:
                return ""
            raise StoreUnavailable(
                f"etcd refused to sign in user {user!r}: check etcd.user and etcd.password ({refused})"
            ) from refused
        token = answer.get("token")
        if not isinstance(token, str) or not (token.isascii() and token.isprintable()):
            raise StoreUnavailable("etcd gave a malformed answer: no token for the user")
        return token


async def _consume(answer: Answer) -> bytes:
    try:
        return await answer.read_all()
    finally:
        await answer.aclose()


def _dump(body: Json) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _load(raw: bytes) -> Json | None:
    """The JSON object, or None for anything else."""
    with suppress(ValueError, RecursionError):
        parsed = json.loads(raw)
        if isinstance(parsed, dict):
            return parsed
    return None


@contextmanager
def _edge(endpoint: str) -> Iterator[None]:
    """Turn what httpx and the clock raise into Failed."""
    try:
        yield
    except (
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
        httpx.UnsupportedProtocol,
    ) as error:
        raise Failed(endpoint, _reason(error, "cannot connect"), sent=False) from error
    except TimeoutError as error:
        raise Failed(endpoint, "no answer in time", sent=True) from error
    except BROKEN as error:
        raise Failed(endpoint, _reason(error, "the connection broke"), sent=True) from error


def _reason(error: Exception, what: str) -> str:
    """What TLS or the kernel said, which httpx keeps as causes. Never httpx's own words: they may quote a header."""
    cause = os_cause(error)
    return f"{what}: {cause}"[:MAX_REASON] if cause else f"{what} ({type(error).__name__})"
