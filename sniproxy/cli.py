"""The command line: which commands there are, and what becomes of their errors.

A command's module is imported when it is asked for, so that a data plane holds nothing of the admin in memory.

Exit codes: 0 done, 1 failed while running, 2 refused before anything was done (a setting, a file, a port).
"""

import signal
from importlib import import_module
from typing import Any

import click

from sniproxy import __version__
from sniproxy.errors import ObjectRefused, SettingsError, SniproxyError

# name -> the module that holds NAME_command
COMMANDS = {
    "admin": "admin.commands",
    "apply": "admin.commands",
    "conformance": "sniproxy.conformance_command",
    "drain": "sniproxy.operating",
    "dump": "admin.commands",
    "explain": "sniproxy.explain_command",
    "keyring": "admin.key_commands",
    "proxy": "sniproxy.proxy_command",
    "quickstart": "sniproxy.quickstart_command",
    "restore": "admin.commands",
    "upgrade": "sniproxy.operating",
}


class _Group(click.Group):
    """Turns what was refused into one line on stderr and exit code 2, and what failed into 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SniproxyError as error:
            click.echo(f"sniproxy: {error}", err=True)
            refused = isinstance(error, SettingsError | ObjectRefused)
            raise SystemExit(2 if refused else 1) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """One TLS address in front of thousands of game servers."""


def program() -> None:
    """What is installed as `sniproxy`. A signal that comes while it ends does not change its exit code.

    The interpreter takes handlers away a while before it has ended, with the log's last lines on their way.
    """
    try:
        main()
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)


if __name__ == "__main__":
    program()
