"""Containers of the chart as processes of this machine: what a kubelet does, without images or a network of its own."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.charts import NAMESPACE, Object, Rendered
from tests.support.etcd import newest_etcd
from tests.support.ports import free_ports
from tests.support.stack import Part

PATIENCE = 60  # seconds for a container that ends by itself


class Node:
    """One machine that all pods of a render run on: each port of a pod is one of its own, each mount a folder."""

    def __init__(self, rendered: Rendered, folder: Path) -> None:
        self.rendered = rendered
        self.folder = folder
        self.ports: dict[int, int] = {}  # of pods -> of this machine

    def port(self, inside: int) -> int:
        """Where a port of a pod is reached."""
        if inside not in self.ports:
            (self.ports[inside],) = free_ports(1)
        return self.ports[inside]

    def secret(self, name: str) -> dict[str, bytes]:
        """What is in a Secret."""
        data = self.rendered.one("Secret", name)["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def start(self, pod: Object, name: str) -> Part:
        """The pod's first container, started and left running."""
        (one, *_) = pod["spec"]["containers"]
        command, environment = self._process(pod, one, name)
        part = Part(name, self.folder, command, environment)
        part.start()
        return part

    def run(self, pod: Object, one: Object, name: str) -> subprocess.CompletedProcess[str]:
        """A container that ends by itself."""
        command, environment = self._process(pod, one, name)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def _process(self, pod: Object, one: Object, name: str) -> tuple[list[str], dict[str, str]]:
        mounts = {
            mount["mountPath"]: self._volume(pod, mount["name"], name)
            for mount in one["volumeMounts"]
        }
        variables = {it["name"]: self._variable(it, name) for it in one.get("env", ())}
        environment = {key: self._moved(value, mounts) for key, value in variables.items()}
        for folder in mounts.values():
            for file in folder.rglob("*.yaml"):
                file.write_text(self._moved(file.read_text(), mounts))
        command = one.get("command", ["sniproxy"]) + one.get("args", [])
        expanded = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], it) for it in command]
        program, *arguments = (self._moved(it, mounts) for it in expanded)
        kept = {key: os.environ[key] for key in ("PATH",)}
        return [*_program(program), *arguments], kept | environment

    def _moved(self, text: str, mounts: dict[str, Path]) -> str:
        """With paths, hosts and ports as they are here."""
        paths = "|".join(map(re.escape, sorted(mounts, key=len, reverse=True)))
        hosts = rf"(?:0\.0\.0\.0|[\w.-]+\.{NAMESPACE}\.svc):(\d+)"

        def here(found: re.Match[str]) -> str:
            if found["path"]:
                return str(mounts[found["path"]])
            host = "127.0.0.1" if found[0].startswith("0") else "localhost"
            return f"{host}:{self.port(int(found[2]))}"

        return re.sub(rf"(?<!\w)(?P<path>{paths})(?![\w-])|{hosts}", here, text)

    def _variable(self, variable: Object, pod_name: str) -> str:
        source = variable.get("valueFrom")
        if source is None:
            return str(variable["value"])
        if "fieldRef" in source:
            assert source["fieldRef"] == {"fieldPath": "metadata.name"}
            return pod_name
        reference = source["secretKeyRef"]
        return self.secret(reference["name"])[reference["key"]].decode()

    def _volume(self, pod: Object, volume: str, pod_name: str) -> Path:
        """Its folder, filled. A claim is the same for all pods."""
        claims = self.folder / "claims" / volume
        found: Object = next((it for it in pod["spec"]["volumes"] if it["name"] == volume), {})
        if "persistentVolumeClaim" in found or not found:
            claims.mkdir(parents=True, exist_ok=True)
            return claims
        folder = self.folder / pod_name / volume
        folder.mkdir(parents=True, exist_ok=True)
        sources = found.get("projected", {}).get("sources", [found])
        for source in sources:
            for path, data in self._files(source).items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
        return folder

    def _files(self, source: dict[str, Any]) -> dict[str, bytes]:
        if "configMap" in source:
            data = self.rendered.one("ConfigMap", source["configMap"]["name"])["data"]
            return {key: text.encode() for key, text in data.items()}
        if "secret" in source:
            reference = source["secret"]
            held = self.secret(reference.get("name", reference.get("secretName")))
            items = reference.get("items", [{"key": key, "path": key} for key in held])
            return {item["path"]: held[item["key"]] for item in items}
        assert "emptyDir" in source
        return {}


def _program(name: str) -> list[str]:
    if name == "sniproxy":
        return [sys.executable, "-m", "sniproxy.cli"]
    if name == "python3":
        return [sys.executable]
    return [str(newest_etcd().with_name(name))]
