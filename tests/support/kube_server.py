"""Kubernetes' own API server, on an etcd of its own: what it says to objects, and what helm makes of it.

No controller and no node is there: what is stored is all that happens.
"""

import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bench.processes import end
from tests.support.charts import ROOT, Object, run_helm
from tests.support.etcd import EtcdServer, newest_etcd
from tests.support.ports import free_ports

START_DEADLINE = 90.0  # seconds until it must be ready
STOP_DEADLINE = 20.0  # seconds until it must be gone
TOKEN = "of-who-may-do-all"
SERVICES = "10.96.0.0/16"  # their addresses
FRONT = "front"  # its own name, towards API servers behind it
HIGH = {"kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000}  # as values name it


def find_kubernetes() -> Path:
    """The folder of what `make kubernetes` has built. That takes minutes, and so is no part of CI."""
    built = sorted((ROOT / ".cache").glob("kubernetes-v*/kubelet"))
    if not built:
        pytest.skip("there is no Kubernetes: make kubernetes builds it where Go is installed")
    return built[-1].parent


@dataclass(frozen=True)
class KubeServer:
    """Where it listens, and who its authority is."""

    url: str
    ca: Path
    client: httpx.Client

    def helm(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """helm on it."""
        where = ("--kube-apiserver", self.url, "--kube-token", TOKEN, "--kube-ca-file", self.ca)
        return run_helm(*arguments, *where)

    def collection(self, it: Object, namespace: str) -> str | None:
        """The path under which objects of its kind live; None: the server knows no such kind."""
        version = it["apiVersion"]
        group = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        answer = self.client.get(group)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        kinds = {
            one["kind"]: one for one in answer.raise_for_status().json()["resources"]
            if "/" not in one["name"]
        }  # fmt: skip
        kind = kinds[it["kind"]]
        within = f"/namespaces/{namespace}" if kind["namespaced"] else ""
        return f"{group}{within}/{kind['name']}"

    def define(self, definition: Object) -> None:
        """Has it take objects of a kind of somebody else's, from its CustomResourceDefinition; once it does, it is done."""
        self.create(definition, "").raise_for_status()
        spec = definition["spec"]
        versions = [one["name"] for one in spec["versions"] if one["served"]]
        give_up = time.monotonic() + START_DEADLINE
        while any(
            self.client.get(f"/apis/{spec['group']}/{one}/{spec['names']['plural']}").is_error
            for one in versions
        ):
            assert time.monotonic() < give_up, definition["metadata"]["name"]
            time.sleep(0.05)

    def get(self, kind: str, namespace: str, name: str) -> Any:
        """An object of the core or of apps; None: there is none."""
        version = "apps/v1" if kind in {"Deployment", "StatefulSet"} else "v1"
        path = self.collection({"apiVersion": version, "kind": kind}, namespace)
        answer = self.client.get(f"{path}/{name}")
        missing = answer.status_code == httpx.codes.NOT_FOUND
        return None if missing else answer.raise_for_status().json()

    def create(self, it: Object, namespace: str, *, try_only: bool = False) -> httpx.Response:
        """Has it create an object, which may have no member that is not known. `try_only`: all of it but the last step."""
        path = self.collection(it, namespace)
        assert path is not None, it["kind"]
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if try_only else {})}
        return self.client.post(path, params=query, json=it)

    def delete(self, it: Object, namespace: str) -> None:
        """Of what was created."""
        path = self.collection(it, namespace)
        self.client.delete(f"{path}/{it['metadata']['name']}").raise_for_status()


@contextmanager
def kube_server(folder: Path, address: str = "127.0.0.1") -> Iterator[KubeServer]:
    """One, ready."""
    binary = find_kubernetes() / "kube-apiserver"
    authority = trustme.CA()
    ca, own, front, key, tokens, log = (
        folder / f for f in ("ca.pem", "own.pem", "front.pem", "accounts.pem", "tokens.csv", "log")
    )
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert(address).private_key_and_cert_chain_pem.write_to_path(own)
    pair = authority.issue_cert(FRONT, common_name=FRONT)
    pair.private_key_and_cert_chain_pem.write_to_path(front)
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key.write_bytes(
        accounts.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    tokens.write_text(f'{TOKEN},somebody,1,"system:masters"\n')
    with ExitStack() as stack:
        store = stack.enter_context(EtcdServer(newest_etcd(), folder / "etcd"))
        (port,) = free_ports(1)
        url = f"https://{address}:{port}"
        command = [
            binary, "--etcd-servers", store.url, "--bind-address", address,
            "--secure-port", port, "--tls-cert-file", own, "--tls-private-key-file", own,
            "--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none",
            "--token-auth-file", tokens, "--authorization-mode", "RBAC",
            "--kubelet-preferred-address-types", "InternalIP", "--service-cluster-ip-range", SERVICES,
            "--service-account-issuer", "https://kubernetes.test",
            "--service-account-key-file", key, "--service-account-signing-key-file", key,
            "--cert-dir", folder / "certificates",
            # Who asks, for API servers behind it.
            "--proxy-client-cert-file", front, "--proxy-client-key-file", front,
            "--client-ca-file", ca, "--requestheader-client-ca-file", ca, "--requestheader-allowed-names", FRONT,
            "--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
            "--requestheader-extra-headers-prefix", "X-Remote-Extra-",
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*map(str, command)], stdout=output, stderr=output, env={"PATH": os.environ["PATH"]}
            )
        stack.callback(end, process, STOP_DEADLINE)
        client = stack.enter_context(
            httpx.Client(
                base_url=url,
                verify=_trusting(ca),
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=START_DEADLINE,
            )
        )
        _wait_ready(process, client, log)
        yield KubeServer(url, ca, client)


def _trusting(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def _wait_ready(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    give_up = time.monotonic() + START_DEADLINE
    while process.poll() is None and time.monotonic() < give_up:
        with suppress(httpx.HTTPError):
            if client.get("/readyz").is_success:
                return
        time.sleep(0.1)
    raise RuntimeError(f"kube-apiserver did not start:\n{log.read_text()[-4000:]}")
