"""The dashboard in the chart, and what it asks of Prometheus."""

import json
import re
from collections.abc import Iterator
from typing import Any

from charts.dashboard import FILE

DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())


def panels() -> Iterator[dict[str, Any]]:
    """All, rows and those in folded rows among them."""
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", ())


def expressions() -> list[str]:
    """With the variables as Grafana fills them in."""
    found = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    filled = (one.replace("$__rate_interval", "1m") for one in found)
    return [re.sub(r"\$(namespace|pod|route)\b", ".*", one) for one in filled]
