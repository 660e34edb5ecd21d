"""One request and its answer, as the sections of the API see them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from admin.body import decode_json, read_body
from admin.waiting import read_wait
from sniproxy.errors import ObjectRefused
from sniproxy.settings import Admin

API_VERSION = {"X-API-VERSION": "v3"}  # in every answer


class NotOffered(Exception):
    """404: nothing is offered under this path by this method."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered. `revision`: of the write that was made. `wait`: seconds, to see it in force."""

    code: int
    body: Any = None  # JSON; as it stands where it is text of another `media` type
    revision: int | None = None
    wait: float | None = None
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request by somebody who may make it. `section/object_id/path` is its path under /apisix/admin."""

    request: Request
    settings: Admin
    who: str  # the name of the key

    @property
    def method(self) -> str:
        """HEAD is GET: what is answered to it is the same, and its body left out."""
        method = self.request.method
        return "GET" if method == "HEAD" else method

    @property
    def section(self) -> str:
        """The first step of the path, such as "ssls"."""
        return str(self.request.path_params.get("section", ""))

    @property
    def object_id(self) -> str | None:
        """The second step; None for a path of one."""
        return self.request.path_params.get("object_id")

    @property
    def path(self) -> str:
        """The steps after it, such as "upstream/nodes"; "" for none."""
        return str(self.request.path_params.get("path", "")).strip("/")

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    @property
    def ttl(self) -> int | None:
        """Seconds that an object is to live. ObjectRefused."""
        text = self.query.get("ttl")
        if text is None:
            return None
        digits = text.isascii() and text.isdecimal() and len(text) <= 10
        if not digits or not 1 <= int(text) <= 10**9:
            raise ObjectRefused("invalid argument ttl: should be a number")
        return int(text)

    @property
    def wait(self) -> float | None:
        """Seconds that the answer may wait for all data planes; None for not at all. ObjectRefused."""
        return read_wait(self.query.get("wait"), self.query.get("timeout"), self.settings.max_wait)

    async def raw(self) -> bytes:
        """The body as it came; BadBody when it is too large or too late."""
        return await read_body(
            self.request, max_bytes=self.settings.max_body, seconds=self.settings.body_timeout
        )

    async def json(self, absent: str = "missing configurations") -> Any:
        """The body, decoded; BadBody, with `absent` as its text when there is none."""
        return decode_json(await self.raw(), absent)


Section = Callable[[Ask], Awaitable[Answer]]
