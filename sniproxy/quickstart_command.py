"""`sniproxy quickstart`."""

from pathlib import Path

import click

from sniproxy.commands import config_option, run
from sniproxy.quickstart import Quickstart


@click.command(name="quickstart")
@config_option
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("sniproxy-data"),
    show_default=True,
    help="Where the configuration, the admin key and the certificates are kept.",
)
@click.option(
    "--games-from",
    type=click.IntRange(1, 65533),
    default=9001,
    show_default=True,
    help="First of the three ports of the echo game servers.",
)
def quickstart_command(file: Path | None, data_dir: Path, games_from: int) -> None:
    """Everything on this machine: admin, data plane, three game servers, certificates and routes."""
    raise SystemExit(run(Quickstart(file, data_dir.absolute(), games_from).run))
