"""docs/eks.md, command by command, on real processes of this machine in place of a cluster."""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.test_apisix_compatibility import put
from tests.support.eks import FOLDER, PAGE, runs, substituted
from tests.support.etcd import EtcdServer, find_etcd_binaries, prefix_range
from tests.support.fenced import blocks, commands
from tests.support.ports import free_ports
from tests.support.proxy_headers import addresses, v2
from tests.support.stack import KEY, Stack, retry_until, stores
from tests.support.tcp_relay import TcpRelay

pytestmark = [
    pytest.mark.skipif(
        not (find_etcd_binaries() and shutil.which("openssl") and shutil.which("curl")),
        reason="needs etcd, openssl and curl",
    ),
]

PATIENCE = 60  # seconds for one command
PLAYER = "(echo hello; "
SNIPROXY = f"{sys.executable} -m sniproxy.cli"
EMPTIED = "kubectl -n sniproxy delete pvc "  # from here on the store is another one
# What is said, by how the command begins; the first that fits. Of others only the exit code is looked at.
SAYS = {
    "curl -s http://127.0.0.1:9180/apisix/admin/nodes": r'"version":"0\.',
    "(echo hello; sleep 2) | openssl s_client -connect $NLB:443 -servername gs-1.com": r"\[test-server-1\] hello",
    "(echo hello; sleep 2) | openssl s_client -connect $NLB:443 -servername gs-2.com": r"\[test-server-2\] hello",
    "kubectl -n sniproxy exec deployment/sniproxy -- sniproxy explain": r"gs-1\.com",
    "curl -s http://127.0.0.1:7085/sessions": r"\{",
    "openssl x509 -in gs-1.crt -noout -serial": r"serial=[0-9A-F]+\n$",
    "openssl s_client -connect $NLB:443 -servername gs-1.com < /dev/null": r"serial=[0-9A-F]+\n$",
    "kubectl -n sniproxy exec -i deployment/sniproxy-admin -- sniproxy restore": r"5 ",
}  # fmt: skip


@contextmanager
def game_servers() -> Iterator[dict[str, int]]:
    """Those of examples/game_echo/k8s, each by the command of its manifest; their ports by name."""
    found, processes = {}, []
    try:
        for name in ("gs-1", "gs-2"):
            file = FOLDER / "examples" / "game_echo" / "k8s" / f"{name}.yaml"
            deployment, _ = yaml.safe_load_all(file.read_text())
            (container,) = deployment["spec"]["template"]["spec"]["containers"]
            (found[name],) = free_ports(1)
            python, *words = container["command"]
            assert python == "python"
            here = {"9001": str(found[name]), "0.0.0.0": "127.0.0.1"}
            words = [here.get(word, word) for word in words]
            process = subprocess.Popen([sys.executable, *words], cwd=FOLDER, stdout=subprocess.PIPE)
            processes.append(process)
            assert process.stdout is not None
            assert b"listening" in process.stdout.readline()
        yield found
    finally:
        for process in processes:
            process.terminate()
            process.communicate()


PLAYER_ADDRESS = "192.0.2.7"  # as the header says


@contextmanager
def behind_a_balancer(folder: Path, store: str) -> Iterator[tuple[Stack, TcpRelay]]:
    """What the chart runs, and an NLB: it says in a PROXY header of version 2 who the player is."""
    flags = {"tls": True, "tls_passthrough": True, "proxy_protocol": True}
    header = v2(addresses(PLAYER_ADDRESS, "10.0.0.1", 56324, 443))
    with (
        Stack(folder, store, listener=flags, trusted=["127.0.0.0/8"]) as stack,
        TcpRelay(stack.port, greeting=header) as balancer,
    ):
        yield stack, balancer


def substitutions(stack: Stack, balancer: TcpRelay, games: dict[str, int]) -> dict[str, str]:
    """Everything of the page that is another one here."""
    return {
        "kubectl -n sniproxy exec deployment/sniproxy -- sniproxy ": f"{SNIPROXY} ",
        "kubectl -n sniproxy exec deployment/sniproxy-admin -- sniproxy ": f"{SNIPROXY} ",
        "kubectl -n sniproxy exec -i deployment/sniproxy-admin -- sniproxy ": f"{SNIPROXY} ",
        "/etc/sniproxy/sniproxy.yaml": shlex.quote(str(stack.config)),
        "127.0.0.1:9180": f"127.0.0.1:{stack.admin_port}",  # port-forward service/sniproxy-admin
        "127.0.0.1:7085": f"127.0.0.1:{stack.status_port}",  # port-forward deployment/sniproxy
        "$NLB:443": f"127.0.0.1:{balancer.port}",
        **{
            f"{name}.game.svc.cluster.local:9001": f"127.0.0.1:{port}"
            for name, port in games.items()
        },
        "sleep 2": f"sleep {PATIENCE}",  # a player stays until he is answered
    }


def typed(line: str, folder: Path, env: dict[str, str]) -> str:
    """A command that must succeed; what it has said. A player who says hello leaves when he is answered."""
    with subprocess.Popen(
        ["bash", "-c", line],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        if line.startswith(PLAYER):
            assert process.stdout is not None
            said = next((text for text in process.stdout if text.startswith("[")), "")
            os.killpg(process.pid, signal.SIGKILL)
            return said
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (line, said)
    return said


def walk(folder: Path, table: dict[str, str], etcd: EtcdServer) -> dict[str, str]:
    """Types one command after the other; what each has said."""
    env = os.environ | {"KEY": KEY, "PYTHONPATH": str(FOLDER)}
    said = {}
    for command in commands(PAGE):
        if command.startswith(EMPTIED):
            etcd.call("/v3/kv/deleterange", prefix_range("/apisix/"))
        if not runs(command):
            continue
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            env[name] = value
            continue
        line = substituted(command.partition(" | kubectl ")[0], table)
        answer = typed(line, folder, env)
        expected = next((SAYS[one] for one in SAYS if command.startswith(one)), "")
        assert re.search(expected, answer), (command, answer)
        said[command] = answer
    return said


def test_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "examples").symlink_to(FOLDER / "examples")
    with (
        game_servers() as games,
        stores("etcd", tmp_path) as (store, etcd),
        behind_a_balancer(tmp_path / "stack", store) as (stack, balancer),
    ):
        assert etcd is not None
        table = substitutions(stack, balancer, games)
        said = walk(folder, table, etcd)
        # what was rotated was served
        ours, served = (
            text for command, text in said.items() if command.endswith("-noout -serial")
        )
        assert ours == served
        # what went into kubectl is what it takes, from the image that was built
        manifests = [text for command, text in said.items() if command.startswith("sed ")]
        assert len(manifests) == 2
        for text in manifests:
            objects = [one for one in yaml.safe_load_all(text) if one is not None]
            assert all({"apiVersion", "kind", "metadata", "spec"} == one.keys() for one in objects)
            assert "SNAPSHOT" not in text
            assert not re.search(r"image: sniproxy$", text, re.MULTILINE)
            (repository,) = (
                one["image"]["repository"]
                for one in map(yaml.safe_load, blocks(PAGE, "yaml"))
                if "image" in one
            )
            assert re.search(rf"image: {re.escape(repository)}:\d+\.\d+\.\d+$", text, re.MULTILINE)
        # what was lost is back
        assert (folder / "backup.yaml").read_text().endswith("# end: 5 objects\n")
        assert stack.api.get("/stream_routes").json()["total"] == 2
        (player,) = (one for one in commands(PAGE) if one.startswith(PLAYER) and "gs-1.com" in one)
        line = substituted(player, table)
        # everywhere: whoever is not let in would wait for as long as his shell sleeps
        stack.put("/upstreams/later?wait=all&timeout=60s", {"nodes": {}})
        assert typed(line, folder, dict(os.environ)) == "[test-server-1] hello\n"
        clients = {line["client"].rpartition(":")[0] for line in stack.proxy.lines("session")}
        assert clients == {PLAYER_ADDRESS}
        # each row of the table was for something
        assert [one for one in SAYS if not any(text.startswith(one) for text in said)] == []


# -- a snapshot, opened by what the manifest says


def authenticated(etcd: EtcdServer, password: str) -> None:
    """As the chart's Job leaves it: root has a password, and everybody needs one."""
    etcd.call("/v3/auth/user/add", {"name": "root", "password": password})
    etcd.call("/v3/auth/user/grant", {"user": "root", "role": "root"})
    etcd.call("/v3/auth/enable", {})


def manifest(**places: str) -> dict[str, list[str]]:
    """The commands of examples/eks/read-snapshot.yaml by container, with folders of this machine for those of the pod."""
    text = (FOLDER / "examples" / "eks" / "read-snapshot.yaml").read_text()
    spec: dict[str, Any] = yaml.safe_load(text)["spec"]
    return {
        one["name"]: [substituted(word, places) for word in one["command"]]
        for one in (*spec["initContainers"], *spec["containers"])
    }


def environment() -> dict[str, str]:
    """The variables of its sniproxy: those with a value; others come from Secrets."""
    text = (FOLDER / "examples" / "eks" / "read-snapshot.yaml").read_text()
    spec = yaml.safe_load(text)["spec"]
    (container,) = (one for one in spec["containers"] if one["name"] == "sniproxy")
    return {one["name"]: one.get("value", "") for one in container["env"]}


def test_a_snapshot_becomes_a_backup(tmp_path: Path) -> None:
    binary = find_etcd_binaries()[0]
    tools = {name: str(binary.with_name(name)) for name in ("etcd", "etcdctl", "etcdutl")}
    with EtcdServer(binary, tmp_path / "etcd") as server:
        put(server, "/apisix/upstreams/lobby", b'{"id": "lobby", "nodes": {"10.0.0.5:7777": 1}}')
        authenticated(server, "secret")
        saving = [tools["etcdctl"], "--endpoints", server.url, "--user", "root:secret"]
        saved = tmp_path / "saved.db"
        subprocess.run([*saving, "snapshot", "save", saved], check=True, capture_output=True)
    words = manifest(**{"/snapshots/SNAPSHOT": str(saved), "/data/": f"{tmp_path}/opened/"})
    (tmp_path / "opened").mkdir()
    subprocess.run([tools["etcdutl"], *words["open"][1:]], check=True, capture_output=True)
    client, peer = free_ports(2)
    # the only thing that differs: in a pod of its own etcd has its own ports
    here, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    ports = ["--listen-client-urls", here, "--advertise-client-urls", here]
    ports += ["--listen-peer-urls", peers]
    given = {
        "SNIPROXY_ETCD__PASSWORD": "secret",
        "SNIPROXY_ENCRYPTION__KEYRING": json.dumps([base64.b64encode(bytes(32)).decode()]),
    }
    env = environment() | given
    assert all(env.values()), "a variable that nobody gives"
    env["SNIPROXY_STORE"] = env["SNIPROXY_STORE"].replace("127.0.0.1:2379", f"127.0.0.1:{client}")
    with subprocess.Popen(
        [tools["etcd"], *words["etcd"][1:], *ports], stderr=subprocess.DEVNULL
    ) as opened:
        try:
            for _ in retry_until(60, "the etcd of the snapshot"):
                try:
                    if httpx.get(f"http://127.0.0.1:{client}/health").is_success:
                        break
                except httpx.TransportError:
                    continue
            (asked,) = (one for one in commands(PAGE) if " exec read-snapshot " in one)
            line = asked.partition(" -- ")[2].replace("sniproxy ", f"{SNIPROXY} ", 1)
            subprocess.run(
                ["bash", "-c", line],
                cwd=tmp_path,
                env=os.environ | env | {"PYTHONPATH": str(FOLDER)},
                check=True,
                timeout=30,
            )
        finally:
            opened.terminate()
    backup = (tmp_path / "backup.yaml").read_text()
    assert backup.endswith("# end: 1 objects\n")
    assert "lobby" in backup
