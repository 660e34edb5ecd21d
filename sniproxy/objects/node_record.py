"""What a data plane says of itself in the store, under a lease: who does not renew it is gone."""

import json
from typing import Annotated, Self

from pydantic import Field, ValidationError

from sniproxy.objects.fields import Strict


def records_prefix(prefix: str) -> str:
    """Where the records of all data planes lie that follow the objects under `prefix`.

    In a space of our own, which nobody's objects may lie in: a record is never a change that some data plane follows.
    """
    return f"/sniproxy{prefix}/nodes/"


class Rates(Strict):
    """What comes in a second, of all routes together, over the last seconds."""

    model_config = Strict.model_config | {"extra": "ignore"}

    sessions: Annotated[float, Field(ge=0)]  # that begin
    bytes_to_upstream: Annotated[int, Field(ge=0)]
    bytes_to_client: Annotated[int, Field(ge=0)]


class NodeRecord(Strict):
    """One data plane. Newer versions may add members; older ones ignore them."""

    model_config = Strict.model_config | {"extra": "ignore"}

    id: str
    version: str
    revision: Annotated[int, Field(ge=0)]  # of the store, in force in all of its workers
    age: Annotated[
        float, Field(ge=0)
    ]  # seconds since it was last known to be the store's, when this was written
    stale: bool  # it may lack changes
    sessions: Annotated[int, Field(ge=0)]
    started: Annotated[int, Field(ge=0)]  # Unix seconds
    rates: Rates | None = None  # where statistics are kept, once they are known

    def encode(self) -> bytes:
        """As it is stored."""
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, raw: bytes) -> Self | None:
        """From the store; None for what is no such record."""
        try:
            return cls.model_validate(json.loads(raw))
        except (ValueError, RecursionError, ValidationError):
            return None
