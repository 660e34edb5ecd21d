"""The Grafana dashboard of sniproxy. `make dashboard` writes it to the chart, from `traffic` and `inside`."""

from pathlib import Path

from charts.grafana import Variable, render
from charts.inside import INSIDE
from charts.traffic import TRAFFIC

FILE = Path(__file__).parent / "sniproxy" / "files" / "dashboard.json"
# A name, and what gives its values. Outside Kubernetes series have no namespace and no pod, which "All" takes too.
VARIABLES = (
    Variable("namespace", "label_values(sniproxy_workers, namespace)"),
    Variable("pod", 'label_values(sniproxy_workers{namespace=~"$namespace"}, pod)'),
    Variable(
        "route",
        'label_values(sniproxy_route_sessions_opened_total{namespace=~"$namespace"}, route)',
    ),
)


def text() -> str:
    """The file."""
    return render("sniproxy", "sniproxy", VARIABLES, (*TRAFFIC, *INSIDE))


if __name__ == "__main__":
    FILE.write_text(text())
