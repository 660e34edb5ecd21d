"""Line plots as SVG: logarithmic x, linear or logarithmic y, readable on light and dark pages. Numbers in, text out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 90, 56  # margins
LETTER = 6.6  # the width of one, about
GAP = 34  # between two names of the legend, with the mark
TICKS = 6  # on the y axis, about
SPACE = 34  # between two labels of the x axis at least

# Of Okabe and Ito, who chose colours that all eyes tell apart; dark pages get lighter ones. Shapes tell them apart too.
LIGHT = ("#d55e00", "#cc79a7", "#0072b2", "#009e73", "#8a6d00", "#56b4e9")
DARK = ("#ff8c3a", "#e79ac6", "#4aa8e8", "#2fd0a0", "#f0e442", "#9ad4f5")
SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M-3.5,-3.5h7v7h-7z",
    "M0,-5L4.5,3.5h-9z",
    "M0,-5L5,0L0,5L-5,0z",
    "M0,5L4.5,-3.5h-9z",
    "M-4,-1.5h8v3h-8z",
)


@dataclass(frozen=True)
class Series:
    """A line; points are (x, y), both above 0."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scale:
    """From values to places on the page."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        low, high, value = (
            (math.log10(one) if self.log else one) for one in (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def nice_ticks(highest: float, count: int = TICKS) -> list[float]:
    """0 and round values up to the first that is not below `highest`."""
    rough = highest / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def log_ticks(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from one that is not above to one that is not below."""
    powers = range(math.floor(math.log10(lowest)), math.floor(math.log10(highest)) + 2)
    all_ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(tick for tick in all_ticks if tick <= lowest * (1 + 1e-9))
    last = min(tick for tick in all_ticks if tick >= highest * (1 - 1e-9))
    return [tick for tick in all_ticks if first <= tick <= last]


def number_text(value: float) -> str:
    """Short, thousands apart."""
    if value >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}"


def line_plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log_y: bool = False,
    x_text: Callable[[float], str] = number_text,
) -> str:
    """An SVG document. The x axis is logarithmic, with a tick at each x that a line has."""
    across = sorted({x for line in series for x, _ in line.points})
    up = [y for line in series for _, y in line.points]
    ticks = log_ticks(min(up), max(up)) if log_y else nice_ticks(max(up))
    x = Scale(across[0], across[-1], LEFT + 16, WIDTH - RIGHT - 16, log=True)
    y = Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, log=log_y)
    parts = [
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
        *_y_axis(y, ticks, y_label),
        *_x_axis(x, across, x_label, x_text),
    ]
    legend = LEFT + 4.0
    for index, line in enumerate(series):
        parts += _line(index, line, x, y)
        parts.append(_mark(index, legend, 44))
        parts.append(f'<text x="{legend + 10:.0f}" y="48">{escape(line.name)}</text>')
        legend = round(legend + GAP + LETTER * len(line.name))
    return "\n".join([_head(title, len(series)), *parts, "</svg>", ""])


def _head(title: str, count: int) -> str:
    def colours(palette: Sequence[str]) -> str:
        return " ".join(
            f".s{index}{{stroke:{palette[index % len(palette)]}}}"
            f".m{index}{{fill:{palette[index % len(palette)]}}}"
            for index in range(count)
        )

    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">
<title>{escape(title)}</title>
<style>
text{{font:12px system-ui,sans-serif;fill:#24292f}} .title{{font-size:15px;font-weight:600}}
.page{{fill:#ffffff}} .grid{{stroke:#d8dee4}} .axis{{stroke:#57606a}} .line{{fill:none;stroke-width:2}}
{colours(LIGHT)}
@media (prefers-color-scheme:dark){{
text{{fill:#e6edf3}} .page{{fill:#0d1117}} .grid{{stroke:#30363d}} .axis{{stroke:#8b949e}}
{colours(DARK)}
}}
</style>
<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>"""


def _y_axis(scale: Scale, ticks: Sequence[float], label: str) -> list[str]:
    parts = [f'<text x="{LEFT}" y="{TOP - 12}">{escape(label)}</text>']
    for tick in ticks:
        at = scale.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT},{at}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{number_text(tick)}</text>'
        )
    return parts


def _x_axis(
    scale: Scale, across: Sequence[float], label: str, text: Callable[[float], str]
) -> list[str]:
    floor = HEIGHT - BOTTOM
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [
        f'<path class="axis" d="M{LEFT},{floor}H{WIDTH - RIGHT}"/>',
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(label)}</text>',
    ]
    labelled = math.inf  # from the right: the largest is the one that is asked for
    for value in reversed(across):
        at = scale.at(value)
        parts.append(f'<path class="axis" d="M{at},{floor}v5"/>')
        if labelled - at >= SPACE:
            labelled = at
            parts.append(
                f'<text x="{at}" y="{floor + 20}" text-anchor="middle">{escape(text(value))}</text>'
            )
    return parts


def _line(index: int, line: Series, x: Scale, y: Scale) -> list[str]:
    places = [(x.at(one), y.at(other)) for one, other in sorted(line.points)]
    path = "L".join(f"{one},{other}" for one, other in places)
    return [
        f'<path class="line s{index}" d="M{path}"/>',
        *(_mark(index, one, other) for one, other in places),
    ]


def _mark(index: int, x: float, y: float) -> str:
    shape = SHAPES[index % len(SHAPES)]
    return f'<path class="m{index}" transform="translate({x},{y})" d="{shape}"/>'
