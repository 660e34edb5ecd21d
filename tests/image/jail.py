"""Runs a program as Kubernetes runs the image: as process 1, uid 10001, without capabilities, on a root that stays as it is.

It needs root, and Linux; the network is that of the machine.
"""

import json
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UID = 10001
STATE = "/var/lib/sniproxy"
STOP_DEADLINE = 15.0  # seconds until a program that was asked to stop must be gone

# $new: the new root. What is in a container of the image is here too, and nothing else of this machine.
ENTER = r"""
set -e
mount --make-rprivate /
mount -t tmpfs root "$new"
mkdir -p "$new/proc" "$new/dev" "$new/sys" "$new/tmp" "$new$state" "$new/usr" "$new/etc"
mount -t tmpfs -o mode=1777 tmp "$new/tmp"
for one in bin sbin lib lib64; do
  if test -h "/$one"; then cp -P "/$one" "$new/$one"; else mkdir "$new/$one"; mount --bind "/$one" "$new/$one"; fi
done
for one in /usr /etc /sys "$tree" "$python" "$config"; do
  mkdir -p "$new$one"
  mount --bind "$one" "$new$one"
  mount -o remount,bind,ro "$new$one"
done
mount -t proc proc "$new/proc"
mount --rbind /dev "$new/dev"
mount --bind "$kept" "$new$state"
mount -o remount,ro "$new"
exec chroot "$new" /usr/bin/setpriv --reuid UID --regid UID --clear-groups --no-new-privs \
  --bounding-set=-all --inh-caps=-all /usr/bin/env -i -C "$state" \
  PATH="$tree/bin:/usr/local/bin:/usr/bin:/bin" PYTHONDONTWRITEBYTECODE=1 "$@"
""".replace("UID", str(UID))


@dataclass
class Jail:
    """One container: a tree made by `make image-root`, its settings, and what stays of it in a folder."""

    tree: Path
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
        home = subprocess.run(
            [self.tree / "bin" / "python", "-c", "import sys; print(sys.base_prefix)"],
            capture_output=True,
            text=True,
            check=True,
        )
        places = {
            "new": self.folder / "new",
            "tree": self.tree,
            "python": home.stdout.strip(),
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
        return subprocess.run(self.command(*command), capture_output=True, text=True, timeout=60)

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
