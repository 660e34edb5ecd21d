"""A dashboard as rows of panels -> Grafana's JSON. Nothing of it names an installation: its data source is a variable.

Panels fill lines of 24 columns from left to right. Where nothing is changed here, the text is the same byte by byte.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

COLUMNS = 24
SCHEMA = 41  # Grafana 12's; newer ones read it
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One picture. queries: legend -> expression; unit: Grafana's name of it."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"  # or stat, heatmap, table
    width: int = 8
    height: int = 8
    stacked: bool = False
    red_from: float | None = None


@dataclass(frozen=True)
class Row:
    """Panels under one title; those that are looked at rarely begin folded."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


@dataclass(frozen=True)
class Variable:
    """What can be chosen at the top, several at once, or all. query: gives its values."""

    name: str
    query: str


def render(uid: str, title: str, variables: Iterable[Variable], rows: Iterable[Row]) -> str:
    """The file. uid: what links to the dashboard name it by."""
    dashboard = {
        "uid": uid,
        "title": title,
        "tags": ["sniproxy"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # the cross-hair is in all panels
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), *map(_variable, variables)]},
        "annotations": {"list": []},
        "links": [],
        "panels": _panels(rows),
    }
    return json.dumps(dashboard, indent=1) + "\n"


def _source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "type": "query",
        "datasource": SOURCE,
        "definition": variable.query,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # series without that label are among them
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Each row's line, and its panels below it, or in it while it is folded."""
    found: list[dict[str, Any]] = []
    number = y = 0
    for row in rows:
        number += 1
        line: dict[str, Any] = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.folded,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        found.append(line)
        y += 1
        x = lowest = 0
        for panel in row.panels:
            number += 1
            if x + panel.width > COLUMNS:
                x, y, lowest = 0, y + lowest, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            (line["panels"] if row.folded else found).append(_panel(panel, number, place))
            x, lowest = x + panel.width, max(lowest, panel.height)
        y += lowest
    return found


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    now = panel.kind in ("stat", "table")  # it shows the latest value, not its course
    targets = [
        {
            "refId": chr(ord("A") + place),
            "datasource": SOURCE,
            "expr": query,
            "legendFormat": legend,
            "instant": now,
            "range": not now,
            "format": {"heatmap": "heatmap", "table": "table"}.get(panel.kind, "time_series"),
        }
        for place, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "off" if panel.red_from is None else "line"},
        }
    return defaults


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "heatmap": {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": "s"},
        "tooltip": {"mode": "single", "yHistogram": False},
    },
    "table": {"showHeader": True, "sortBy": [{"displayName": "Value", "desc": False}]},
}
