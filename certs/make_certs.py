"""Make a throw-away CA and one leaf certificate per name.

`python -m certs.make_certs gs-1.com` writes `ca.pem`, `gs-1.com.crt` and `gs-1.com.key`. Every run makes a new CA whose
own key is never stored, so leaves of an earlier run do not belong to the new `ca.pem`: name all of them in one run.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import click
import trustme

DEFAULT_NAMES = ("gs-1.com", "gs-2.com", "tls-1.com")
KEY_MODE = 0o600


def make_certs(directory: Path, names: Sequence[str]) -> None:
    """Write `ca.pem` and, for each name, NAME.crt (leaf and chain) and NAME.key; existing files are replaced.

    A name that is no host name raises ValueError before anything is written.
    """
    for name in names:
        _check_name(name)
    ca = trustme.CA()
    leaves = {name: ca.issue_cert(name) for name in names}
    directory.mkdir(parents=True, exist_ok=True)
    ca.cert_pem.write_to_path(directory / "ca.pem")
    for name, leaf in leaves.items():
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        (directory / f"{name}.crt").write_bytes(chain)
        _write_key(directory / f"{name}.key", leaf.private_key_pem.bytes())


def _check_name(name: str) -> None:
    """Refuse what would not stay a file in the directory."""
    if not name.strip(".") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a host name")


def _write_key(path: Path, pem: bytes) -> None:
    """Write a private key that nobody else could read at any moment."""
    # A file of an earlier run would keep its own mode, so it goes first.
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent,
    help="Where to write; by default the folder of this module.",
)
def main(names: tuple[str, ...], directory: Path) -> None:
    """Make a throw-away CA and a certificate for each NAME (default: gs-1.com gs-2.com tls-1.com)."""
    chosen = tuple(dict.fromkeys(names or DEFAULT_NAMES))
    try:
        make_certs(directory, chosen)
    except (OSError, ValueError) as exc:
        raise click.ClickException(f"no certificates: {exc}") from exc
    click.echo(f"wrote {directory / 'ca.pem'}")
    for name in chosen:
        click.echo(f"wrote {directory / name}.crt and {name}.key")


if __name__ == "__main__":
    main()
