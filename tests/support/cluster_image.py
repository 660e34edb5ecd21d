"""An image without Docker: what its base and the wheels make, as an archive that containerd takes."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

OWNER = "10001:10001"  # as in the Dockerfile
PATH = "/opt/sniproxy/bin:/usr/local/bin:/usr/bin:/bin"


def make_root(node: Path, root: Path) -> None:
    """The file system of the image: the base, and all packages of the lock with ours."""
    subprocess.run(["cp", "-a", node / "base", root], check=True)
    wheels = root / "wheels"
    subprocess.run(["cp", "-r", node / "wheels", wheels], check=True)
    for command in (
        ["python3", "-m", "venv", "/opt/sniproxy"],
        ["/opt/sniproxy/bin/pip", "install", "--quiet", "--no-index", "--no-deps"]
        + [f"/wheels/{wheel.name}" for wheel in wheels.iterdir()],
        ["rm", "-r", "/wheels", "/var/cache/apt"],
        ["install", "--directory", "--owner=10001", "--group=10001", "/var/lib/sniproxy"],
    ):
        subprocess.run(["chroot", root, *command], check=True)


def make_small_root(programs: Sequence[Path], root: Path) -> None:
    """That of an image with some programs, which need nothing else."""
    folder = root / "usr/local/bin"
    folder.mkdir(parents=True)
    for program in programs:
        shutil.copy(program, folder / program.name)
        (folder / program.name).chmod(0o755)


def pack(root: Path, layer: Path) -> None:
    """A tree as the one layer of an image."""
    subprocess.run(["tar", "--numeric-owner", "-cf", layer, "-C", root, "."], check=True)


def write_image(layer: Path, archive: Path, tags: Sequence[str], entry: Sequence[str]) -> None:
    """An archive as `docker save` writes it."""
    content = layer.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": entry, "User": OWNER, "Env": [f"PATH={PATH}"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    layers = [f"{digest}/layer.tar"]
    manifest = json.dumps([{"Config": name, "RepoTags": tags, "Layers": layers}]).encode()
    members = {name: config, layers[0]: content, "manifest.json": manifest}
    with tarfile.open(archive, "w") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
