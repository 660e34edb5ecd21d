"""`sniproxy conformance`."""

import click

from sniproxy.commands import run
from sniproxy.conformance import Setup, render
from sniproxy.conformance import run as play
from sniproxy.corpus import load, names


def _print_names(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo("\n".join(names(load())))
        context.exit()


@click.command(name="conformance")
@click.argument("target", metavar="HOST:PORT")
@click.option(
    "--listen",
    "named",
    default="127.0.0.1:9101",
    show_default=True,
    help="Where this command listens as the server of every name of the corpus.",
)
@click.option(
    "--default-listen",
    "default",
    default="127.0.0.1:9102",
    show_default=True,
    help="Where it listens as the server of the proxy's default route, if there is one.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(0.01, 600),
    default=1.0,
    show_default=True,
    help="Seconds for one row.",
)
@click.option(
    "--names",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_names,
    help="Print the names to route, and end.",
)
def conformance_command(target: str, named: str, default: str, deadline: float) -> None:
    """Play the corpus of first flights against any SNI proxy. Exit code 0: every must row was answered rightly."""
    report = run(play, load(), Setup(target, named, default, deadline))
    click.echo(render(report))
    raise SystemExit(0 if report.passed else 1)
