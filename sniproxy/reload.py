"""Stub."""

from sniproxy.settings import Settings


def live(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    return new, []
