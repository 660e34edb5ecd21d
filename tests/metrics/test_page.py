"""docs/metrics.md, the alerts and the code say the same."""

import re
from pathlib import Path

import pytest

from sniproxy.metrics.catalogue import BY_NAME, SECTIONS, Kind
from sniproxy.metrics.page import page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
ALERTS = ROOT / "charts" / "sniproxy" / "files" / "alerts.yaml"


def test_the_page_is_as_the_code_would_make_it() -> None:
    assert PAGE.read_text() == page(), "make metrics-page"


def test_no_metric_is_told_twice() -> None:
    assert len(BY_NAME) == sum(len(section) for section in SECTIONS.values())


@pytest.mark.skipif(not ALERTS.exists(), reason="no alerts beside the code")
def test_alerts_and_metrics_know_each_other() -> None:
    text = ALERTS.read_text()
    named = {alert for told in BY_NAME.values() for alert in told.alert.split(", ") if alert}
    assert named == set(re.findall(r"alert: (\w+)", text))
    scraped = {
        told.name + end
        for told in BY_NAME.values()
        for end in {
            Kind.COUNTER: ("_total",),
            Kind.GAUGE: ("",),
            Kind.HISTOGRAM: ("_bucket", "_sum", "_count"),
        }[told.kind]
    }
    assert set(re.findall(r"(?<![:\w])sniproxy_\w+", text)) <= scraped
