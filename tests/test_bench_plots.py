"""The SVG writer: documents that are XML, ticks that are round, lines that lie where their values are."""

import re
from xml.etree import ElementTree

import pytest

from bench.plots import HEIGHT, WIDTH, Series, line_plot, log_ticks, nice_ticks, number_text

SVG = "{http://www.w3.org/2000/svg}"
LINES = (
    Series("ours", ((1, 10), (100, 20), (10_000, 40))),
    Series("<theirs> & others", ((1, 12), (100, 25))),
)


def texts(document: str) -> list[str | None]:
    return [element.text for element in ElementTree.fromstring(document).iter(f"{SVG}text")]


def places(document: str) -> list[list[tuple[float, float]]]:
    """Of the lines' points."""
    found = []
    for element in ElementTree.fromstring(document).iter(f"{SVG}path"):
        if "line" in element.attrib.get("class", "").split():
            pairs = re.findall(r"([\d.]+),([\d.]+)", element.attrib["d"])
            found.append([(float(x), float(y)) for x, y in pairs])
    return found


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (10, [0, 2, 4, 6, 8, 10]),
        (11, [0, 2, 4, 6, 8, 10, 12]),
        (0.3, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (7000, [0, 2000, 4000, 6000, 8000]),
    ],
)
def test_ticks_are_round_and_hold_the_highest(highest: float, expected: list[float]) -> None:
    assert nice_ticks(highest) == pytest.approx(expected)


def test_logarithmic_ticks_hold_both_ends() -> None:
    assert log_ticks(9, 85) == pytest.approx([5, 10, 20, 50, 100])
    assert log_ticks(10, 50) == pytest.approx([10, 20, 50])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (12.0, "12"), (100_000, "100\u202f000")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text


def test_plot_names_everything() -> None:
    said = texts(line_plot("A title", "routes", "CPU", LINES))
    assert {"A title", "routes", "CPU", "ours", "<theirs> & others"} <= set(said)
    assert {"1", "100", "10\u202f000"} <= set(said)


@pytest.mark.parametrize("log_y", [False, True])
def test_points_lie_in_the_page_in_order(log_y: bool) -> None:
    ours, theirs = places(line_plot("t", "x", "y", LINES, log_y=log_y))
    assert len(ours) == 3
    assert len(theirs) == 2
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in ours + theirs)
    assert [x for x, _ in ours] == sorted(x for x, _ in ours)
    assert [y for _, y in ours] == sorted((y for _, y in ours), reverse=True)
    assert ours[0][0] == theirs[0][0]
    assert theirs[0][1] < ours[0][1]  # dearer is higher


def test_equal_ratios_are_equally_far_apart_on_logarithmic_axes() -> None:
    (line,) = places(line_plot("t", "x", "y", LINES[:1], log_y=True))
    (x1, y1), (x2, y2), (x3, y3) = line
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)


def test_one_point_is_a_plot_too() -> None:
    ((place,),) = places(line_plot("t", "x", "y", [Series("ours", ((1, 5),))]))
    assert 0 < place[0] < WIDTH


def test_labels_that_would_touch_are_left_out() -> None:
    crowded = Series("ours", tuple((10_000.0 + number, 1.0) for number in range(20)))
    assert "10\u202f018" not in texts(line_plot("t", "x", "y", [crowded]))


def test_dark_pages_have_colours_of_their_own() -> None:
    assert "prefers-color-scheme:dark" in line_plot("t", "x", "y", LINES)
