"""Settings of names that make no sense."""

from typing import Any

import pytest
from pydantic import ValidationError

from sniproxy.settings import Dns


@pytest.mark.parametrize(
    "settings",
    [
        {"servers": ["dns.example:53"]},
        {"servers": ["10.0.0.2"]},
        {"min_ttl": 10, "max_ttl": 9},
        {"timeout": 0},
        {"negative_ttl": 0},
        {"stale": -1},
        {"names": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    """Who is to be asked for names has none himself, and says his port."""
    with pytest.raises(ValidationError):
        Dns.model_validate(settings)
