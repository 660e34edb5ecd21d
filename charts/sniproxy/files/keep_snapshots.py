"""Deletes all but the newest snapshots of a folder: keep_snapshots.py FOLDER HOW_MANY."""

import sys
from pathlib import Path


def main(folder: str, keep: int) -> None:
    """Newest first by the time they were written; what a save has left unfinished goes with the old ones."""
    for unfinished in Path(folder).glob("*.part"):
        unfinished.unlink()
    snapshots = sorted(
        Path(folder).glob("*.db"), key=lambda file: file.stat().st_mtime, reverse=True
    )
    for old in snapshots[keep:]:
        old.unlink()
        print(f"deleted {old.name}")
    for kept in snapshots[:keep]:
        print(f"kept {kept.name}, {kept.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
