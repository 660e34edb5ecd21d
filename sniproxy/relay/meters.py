"""Where a relay counts what it moves: the native one's, which its thread moves too, or its like in Python."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sniproxy._relay import Meter
else:
    try:
        from sniproxy._relay import Meter
    except ImportError:  # installed where there was no Rust toolchain

        class Meter:
            """See `sniproxy.tallies.Meter`."""

            __slots__ = ("begun", "moved")

            def __init__(self) -> None:
                self.begun = 0
                self.moved = 0, 0

            def add(self, to_upstream: int, to_client: int, /) -> None:
                """So many bytes more have moved."""
                self.moved = self.moved[0] + to_upstream, self.moved[1] + to_client


__all__ = ["Meter"]
