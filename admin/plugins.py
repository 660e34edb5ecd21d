"""The section of the plugins: their names and schemas, for whoever writes `plugins` of a route or service.

All of them are of the stream subsystem: there is no HTTP here to have plugins for.
"""

from typing import Any

from admin.asking import Answer, Ask, NotOffered
from sniproxy.errors import ObjectRefused
from sniproxy.objects.plugins import MODELS

SUBSYSTEMS = ("stream", "http")
VERSION = 0.1  # APISIX's, of every plugin
# APISIX's: the higher one comes first. They are told, and change nothing here.
PRIORITIES = {
    "ip-restriction": 3000,
    "limit-conn": 1003,
    "mqtt-proxy": 1000,
    "traffic-split": 966,
    "prometheus": 500,
    "syslog": 401,
}


class PluginsSection:
    """/plugins. Implements `admin.asking.Section`."""

    async def __call__(self, ask: Ask) -> Answer:
        if ask.path:
            raise NotOffered
        match ask.method, ask.object_id:
            case "PUT", "reload":
                return Answer(200, "done")  # there is nothing that would have to be loaded
            case "GET", "list":
                return Answer(200, plugin_names(ask))
            case "GET", None:
                if ask.query.get("all") != "true":
                    raise ObjectRefused("missing plugin name, or all=true for all of them")
                return Answer(200, {name: _about(name) for name in plugin_names(ask)})
            case "GET", str(name):
                if name not in plugin_names(ask):
                    raise NotOffered(unknown_plugin(ask, name))
                return Answer(200, plugin_schema(name))
        raise NotOffered


def plugin_names(ask: Ask) -> list[str]:
    """The names of the plugins in the subsystem that is asked for. ObjectRefused."""
    subsystem = ask.query.get("subsystem", "stream")
    if subsystem not in SUBSYSTEMS:
        raise ObjectRefused(f"invalid argument subsystem: expected {' or '.join(SUBSYSTEMS)}")
    return list(MODELS) if subsystem == "stream" else []


def plugin_schema(name: str) -> dict[str, Any]:
    """JSON Schema of a plugin's configuration. KeyError."""
    return MODELS[name].model_json_schema()


def unknown_plugin(ask: Ask, name: str) -> str:
    """What to say of a name that is none of a plugin."""
    return f"unknown plugin [{name}]; known are {', '.join(plugin_names(ask)) or 'none over HTTP'}"


def _about(name: str) -> dict[str, Any]:
    return {
        "priority": PRIORITIES.get(name, 0),
        "version": VERSION,
        "schema": plugin_schema(name),
    }
