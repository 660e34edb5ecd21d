"""Runs a program as Kubernetes runs the image: as process 1, uid 10001, without capabilities, on a root that stays as it is.

It needs root, and Linux; the network is that of the machine.
"""

import json
import os
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UID = 10001
STATE = "/var/lib/sniproxy"
# What the image is put on: this machine's own system, or another one in a folder, whose programs are emulated.
BASE = Path(os.environ.get("SNIPROXY_IMAGE_BASE", "/"))
SLOWER = 10 if "SNIPROXY_IMAGE_BASE" in os.environ else 1  # how much longer anything may take there
RUN_DEADLINE = 60.0 * SLOWER  # seconds until a command must be done
STOP_DEADLINE = 15.0 * SLOWER  # seconds until a program that was asked to stop must be gone

# $new: the new root. What is in a container of the image is here too, and nothing else of this machine.
ENTER = r"""
set -e
mount --make-rprivate /
mount -t tmpfs root "$new"
mkdir -p "$new/proc" "$new/dev" "$new/sys" "$new/tmp" "$new$state" "$new/usr" "$new/etc"
mount -t tmpfs -o mode=1777 tmp "$new/tmp"
for one in bin sbin lib lib64; do
  if test -h "$base/$one"; then cp -P "$base/$one" "$new/$one"
  elif test -d "$base/$one"; then mkdir "$new/$one"; mount --bind "$base/$one" "$new/$one"; fi
done
show() {
  mkdir -p "$new$2"
  mount --bind "$1$2" "$new$2"
  mount -o remount,bind,ro "$new$2"
}
for one in /usr /etc "$tree" "$python"; do show "$base" "$one"; done
for one in /sys "$config"; do show "" "$one"; done
mount -t proc proc "$new/proc"
mount --rbind /dev "$new/dev"
mount --bind "$kept" "$new$state"
mount -o remount,ro "$new"
exec chroot "$new" /usr/bin/setpriv --reuid UID --regid UID --clear-groups --no-new-privs \
  --bounding-set=-all --inh-caps=-all /usr/bin/env -i -C "$state" \
  ${QEMU_CPU+QEMU_CPU="$QEMU_CPU"} PATH="$tree/bin:/usr/local/bin:/usr/bin:/bin" PYTHONDONTWRITEBYTECODE=1 "$@"
""".replace("UID", str(UID))


def outside(path: Path) -> Path:
    """Where something of the base lies for who is not in it."""
    return BASE / path.relative_to("/")


@dataclass
class Jail:
    """One container: a tree made by `make image-root`, its settings, and what stays of it in a folder."""

    tree: Path  # as the base has it
    folder: Path
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.log = self.folder / "log"
        self.kept = self.folder / "kept"
        self.config = self.folder / "config"
        for one in (self.kept, self.config, self.folder / "new"):
            one.mkdir(parents=True)
        self.kept.chmod(0o777)  # as with fsGroup
        self.file = self.config / "sniproxy.yaml"
        self.file.write_text(json.dumps(self.settings))
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *command: str) -> list[str]:
        """What to start so that `command` runs inside."""
        configuration = (outside(self.tree) / "pyvenv.cfg").read_text()
        home = re.search(r"^home = (.*)/bin$", configuration, re.MULTILINE)
        assert home is not None, configuration
        places = {
            "new": self.folder / "new",
            "base": str(BASE).rstrip("/"),
            "tree": self.tree,
            "python": home[1],
            "config": self.config,
            "kept": self.kept,
            "state": STATE,
        }
        lines = [f"{name}={shlex.quote(str(value))}" for name, value in places.items()]
        script = "\n".join([*lines, ENTER])
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return [*unshare, "sh", "-c", script, "jail", *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=RUN_DEADLINE
        )

    def start(self, *command: str) -> None:
        """A command that goes on; what it says is in the log."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self) -> int:
        """SIGTERM to its process 1, as the kubelet does; the exit code."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        (first,) = map(int, children.split())
        try:
            subprocess.run(["kill", f"-{int(signal.SIGTERM)}", str(first)], check=True)
            return self.process.wait(STOP_DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
