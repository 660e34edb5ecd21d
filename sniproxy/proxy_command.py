"""`sniproxy proxy`."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from sniproxy.commands import config_option, run
from sniproxy.logs import open_log
from sniproxy.parent import check_settings, run_parent
from sniproxy.settings import load_settings
from sniproxy.upgrade import Estate


@click.command(name="proxy")
@config_option
@click.option("--check", is_flag=True, help="Only look whether the settings can be used.")
def proxy_command(file: Path | None, check: bool) -> None:
    """The data plane: follows the store and serves players."""
    left = Estate.inherited()
    settings = load_settings(file)
    if check:
        check_settings(settings)
        return
    log = open_log("proxy")
    log.choose(settings.log.format)
    while estate := run(run_parent, settings, partial(load_settings, file), log, left):
        log.flush()  # what waits would be lost with this program
        try:
            estate.execute()
        except OSError as error:
            log.error("upgrade failed", cause=str(error), advice="this version goes on")
            left = replace(estate, generation=estate.generation - 1)
