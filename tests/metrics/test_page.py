"""docs/metrics.md and the code say the same."""

from pathlib import Path

from sniproxy.metrics.catalogue import BY_NAME, SECTIONS
from sniproxy.metrics.page import page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_as_the_code_would_make_it() -> None:
    assert PAGE.read_text() == page(), "make metrics-page"


def test_no_metric_is_told_twice() -> None:
    assert len(BY_NAME) == sum(len(section) for section in SECTIONS.values())
