"""The section of the traffic statistics."""

from typing import Annotated

from pydantic import Field

from sniproxy.settings.fields import SECOND, Section


class Statistics(Section):
    """Traffic by route, by the hour and by the day, kept in the store."""

    enabled: bool = True
    interval: Annotated[float, Field(gt=0, le=60)] = 50 * SECOND  # between writes, at most
    keep_hours: Annotated[int, Field(ge=48, le=2160)] = 720  # 30 days
    keep_days: Annotated[int, Field(ge=2, le=1100)] = 400
    max_routes: Annotated[int, Field(ge=1, le=5000)] = 1000  # told apart; the rest is one row
