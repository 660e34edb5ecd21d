"""How etcd answers: what is known from asking it. Pure."""

from typing import Any

from sniproxy.histogram import Histogram


class EtcdHealth:
    """Of one client, whichever endpoints have answered."""

    def __init__(self) -> None:
        self.up: bool | None = None  # whether the last question was answered; None: none was asked
        self.requests = Histogram()
        self.leader_changes = 0
        self._term = 0  # of the last answer that told

    def answered(self, seconds: float, answer: dict[str, Any] | None) -> None:
        """A question has come to its end. answer: its members; None: there was none.

        Whatever stands in an answer does no harm. A later term is another election, which the same member may win.
        """
        self.up = answer is not None
        self.requests.observe(seconds)
        header = (answer or {}).get("header")
        term = header.get("raft_term") if isinstance(header, dict) else None
        if isinstance(term, int | str) and str(term).isdecimal():
            number = int(str(term)[:20])
            if self._term and number > self._term:
                self.leader_changes += 1
            self._term = max(self._term, number)
