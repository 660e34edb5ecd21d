"""`python -m image.sbom PYTHON CRATES LOCK OUT`: the crates of the native relay join the list of Python packages.

cyclonedx-py sees what is installed, and not what was compiled into an extension module.

PYTHON: what cyclonedx-py has written. CRATES: lines of `cargo tree --prefix none --format '{p}'`, those that are linked in
on this platform. LOCK: Cargo.lock, for their hashes.
"""

import json
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def linked(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Name and version of each crate but ours, once, in their order: `slab v0.4.12` or `x v1.0 (proc-macro)`."""
    found = set()
    for line in lines:
        match line.split():
            case [name, version, *rest] if version.startswith("v"):
                # our own crate is named with its folder
                if not any(one.startswith("(/") for one in rest):
                    found.add((name, version.removeprefix("v")))
            case [] | ["(*)"]:
                pass
            case _:
                raise ValueError(f"no line of cargo tree: {line!r}")
    return sorted(found)


def component(name: str, version: str, checksum: str) -> dict[str, Any]:
    """A crate as CycloneDX 1.6 has it."""
    purl = f"pkg:cargo/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": checksum}],
    }


def join(python: dict[str, Any], crates: list[tuple[str, str]], lock: str) -> dict[str, Any]:
    """The list with the crates in it, as what sniproxy itself is made of. KeyError: a crate that is not in the lock."""
    checksums = {
        (one["name"], one["version"]): one.get("checksum") for one in tomllib.loads(lock)["package"]
    }
    found = [component(*crate, checksums[crate]) for crate in crates]
    root = python["metadata"]["component"]["bom-ref"]
    refs = [one["bom-ref"] for one in found]
    dependencies = [
        one | {"dependsOn": sorted([*one.get("dependsOn", []), *refs])}
        if one["ref"] == root
        else one
        for one in python["dependencies"]
    ]
    return python | {
        "components": python["components"] + found,
        "dependencies": dependencies + [{"ref": ref} for ref in refs],
    }


def defect(text: str) -> str | None:
    """What CycloneDX's own schema says against it."""
    # Here, since only the tools of the image have it: tests of what stands above run without.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    version = SchemaVersion.from_version(json.loads(text)["specVersion"])
    found = JsonStrictValidator(version).validate_str(text)
    return None if found is None else str(found)


def main(python: str, crates: str, lock: str, out: str) -> None:
    """Reads three files and writes the fourth; one that is not valid is not written."""
    found = join(
        json.loads(Path(python).read_text()),
        linked(Path(crates).read_text().splitlines()),
        Path(lock).read_text(),
    )
    text = json.dumps(found, indent=1) + "\n"
    if wrong := defect(text):
        sys.exit(f"{out} would be no CycloneDX: {wrong}")
    Path(out).write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
