"""Writes sniproxy/corpus/hellos.jsonl, the same bytes in each run.

    python -m bench.make_corpus [--check]

--check writes nothing and fails when the file is not what would be written.
"""

import sys
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import click

from bench.corpus import cuts, lies, naming, real, sound
from bench.corpus.levels import DEFENSIBLE
from sniproxy import corpus
from sniproxy.corpus import Level, Row, write_row

TARGET = Path(corpus.__file__).with_name(corpus.FILE)


def make() -> list[Row]:
    """Every row; no id stands twice."""
    rows = list(chain(sound.rows(), real.rows(), cuts.rows(), naming.rows(), lies.rows()))
    twice = [row for row, count in Counter(row.id for row in rows).items() if count > 1]
    assert not twice, twice
    assert {row.id for row in rows} >= DEFENSIBLE
    return [replace(row, level=Level.SHOULD) if row.id in DEFENSIBLE else row for row in rows]


def text(rows: list[Row]) -> str:
    """The file."""
    return "".join(write_row(row) + "\n" for row in rows)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when the file is stale.")
def main(check: bool) -> None:
    """Make the corpus of first flights."""
    rows = make()
    made = text(rows)
    if check:
        sys.exit(TARGET.read_text() != made)
    TARGET.write_text(made)
    counts = Counter((row.level, row.expect) for row in rows)
    click.echo(f"{len(rows)} rows, {len(made)} bytes: {TARGET.name}")
    for (level, expect), count in sorted(counts.items()):
        click.echo(f"{count:5} {level} {expect}")


if __name__ == "__main__":
    main()
