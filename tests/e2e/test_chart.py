"""The chart's containers at work, started all at once as Kubernetes does: etcd, its users, admin, data plane."""

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import pytest
import trustme

from tests.support.chart_pods import Node
from tests.support.charts import EXAMPLES, NAME, Object, Rendered, render
from tests.support.etcd import find_etcd_binaries
from tests.support.players import Game, join_soon, pem_pair, say, trusting
from tests.support.stack import retry_until

pytestmark = pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here")

USERS_MADE = "etcd asks for its users from now on: root, admin, proxy"
PATIENCE = 60.0  # seconds until a container must answer
# What is tried, and two changes for this machine: game servers are on it, and snapshots are wanted.
VALUES = {
    "proxy": {"denyUpstreams": [], "workers": 1},
    "etcd": {"snapshots": {"enabled": True, "keep": 2, "storageClass": "-"}},
}


class Cluster:
    """What of the chart stays up, started."""

    def __init__(self, folder: Path) -> None:
        self.rendered: Rendered = render(VALUES, EXAMPLES / "dev.yaml")
        self.node = Node(self.rendered, folder)
        self.parts = {
            name: self.node.start(self.pod(kind, name), f"{name}-0")
            for kind, name in (
                ("Deployment", NAME),
                ("Deployment", f"{NAME}-admin"),
                ("StatefulSet", f"{NAME}-etcd"),
            )
        }
        self.tls = ssl.create_default_context(cadata=self.secret("etcd-tls", "ca.crt"))

    def stop(self) -> dict[str, int]:
        """The exit codes, by name."""
        return {name: part.stop() for name, part in self.parts.items()}

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        """Until something answers, and nothing has ended."""
        for _ in retry_until(PATIENCE, what):
            try:
                if ready():
                    return
            except httpx.TransportError:
                pass
            for part in self.parts.values():
                assert part.process is not None
                assert part.process.poll() is None, part.log.read_text()
            time.sleep(0.05)

    def pod(self, kind: str, name: str) -> Object:
        found: Object = self.rendered.one(kind, name)["spec"]["template"]
        return found

    def secret(self, name: str, key: str) -> str:
        return self.node.secret(f"{NAME}-{name}")[key].decode()

    def make_users(self) -> tuple[int, str]:
        """Runs the Job: exit code, and what it says."""
        (job,) = self.rendered.kind("Job").values()
        pod = job["spec"]["template"]
        done = self.node.run(pod, pod["spec"]["containers"][0], "users")
        return done.returncode, done.stdout + done.stderr

    def ask(self, path: str, body: dict[str, Any], token: str = "") -> httpx.Response:
        """One request to etcd."""
        url = f"https://localhost:{self.node.port(2379)}{path}"
        headers = {"Authorization": token} if token else {}
        return httpx.post(url, json=body, headers=headers, verify=self.tls, trust_env=False)

    def token(self, user: str) -> str:
        """Of a user with the password in the Secret."""
        password = self.secret("etcd-users", f"{user}-password")
        answer = self.ask("/v3/auth/authenticate", {"name": user, "password": password})
        token: str = answer.raise_for_status().json()["token"]
        return token

    def may(self, user: str, path: str, body: dict[str, Any]) -> bool:
        """Whether etcd does it for a user that signs in for this."""
        return self.ask(path, body, self.token(user)).is_success


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("node"))
    try:
        code, said = made.make_users()
        assert (code, said.splitlines()[-1:]) == (0, [USERS_MADE]), said
        yield made
    finally:
        codes = made.stop()
    assert codes[NAME] == 0
    assert codes[f"{NAME}-etcd"] in (0, -SIGTERM)


def test_players_get_through(
    cluster: Cluster, authority: trustme.CA, games: tuple[Game, Game]
) -> None:
    node = cluster.node
    with httpx.Client(
        base_url=f"http://127.0.0.1:{node.port(9180)}/apisix/admin",
        headers={"X-API-KEY": cluster.secret("admin", "admin")},
        trust_env=False,
        timeout=PATIENCE,
    ) as api:
        ready = f"http://127.0.0.1:{node.port(7085)}/readyz"
        cluster.wait("the data plane is ready", lambda: httpx.get(ready).is_success)
        cluster.wait("the admin is ready", lambda: api.get("/ssls").is_success)
        pair = pem_pair(authority, "gs-1.com")
        assert api.put("/ssls/1", json={"sni": "gs-1.com", **pair}).status_code == 201
        route = {"sni": "gs-1.com", "upstream": {"nodes": {f"127.0.0.1:{games[0].port}": 1}}}
        written = api.put("/stream_routes/1?wait=all", json=route)
        assert written.status_code == 201, written.text  # so the data plane says that it has it
    with join_soon(node.port(8443), "gs-1.com", trusting(authority)) as player:
        assert say(player, "hello").endswith(" hello")


def named(key: str) -> dict[str, str]:
    """A key, as members of a request."""
    return {"key": base64.b64encode(key.encode()).decode()}


def test_each_user_writes_what_it_must_and_no_more(cluster: Cluster) -> None:
    writers = {  # those that may write may read
        "/apisix/x/1": {"root", "admin"},
        "/sniproxy/apisix/nodes/x": {"root", "admin", "proxy"},
        "/sniproxy/other/x": {"root", "admin"},
        "/elsewhere": {"root"},
    }
    tokens = {user: cluster.token(user) for user in ("root", "admin", "proxy")}
    for key, wanted in writers.items():
        wrote = {
            user for user, token in tokens.items()
            if cluster.ask("/v3/kv/put", named(key), token).is_success
        }  # fmt: skip
        assert wrote == wanted, key
        assert not cluster.ask("/v3/kv/put", named(key)).is_success  # nobody
    for key, readable in {"/apisix/x/1": True, "/elsewhere": False}.items():
        answer = cluster.ask("/v3/kv/range", named(key), tokens["proxy"])
        assert answer.is_success == readable


def test_users_are_made_again_with_other_passwords_and_permissions(cluster: Cluster) -> None:
    secret = cluster.rendered.one("Secret", f"{NAME}-etcd-users")["data"]
    before = dict(secret)
    more = {"role": "proxy", "name": "proxy", "perm": {"permType": "WRITE", **named("/more")}}
    try:
        assert cluster.may("root", "/v3/auth/role/grant", more)
        assert cluster.may("proxy", "/v3/kv/put", named("/more"))
        secret["proxy-password"] = secret["admin-password"]
        assert cluster.make_users()[0] == 0
        assert cluster.may("proxy", "/v3/kv/put", named("/sniproxy/apisix/x"))
        assert not cluster.may("proxy", "/v3/kv/put", named("/more"))
        secret["root-password"] = secret["admin-password"]
        code, said = cluster.make_users()
        assert code == 1
        assert "etcd refused: " in said
    finally:
        secret.update(before)
    assert cluster.make_users()[0] == 0


def test_snapshots_are_saved_verified_and_the_newest_kept(cluster: Cluster) -> None:
    cron = cluster.rendered.one("CronJob", f"{NAME}-etcd-snapshots")
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]
    folder = cluster.node.folder / "claims" / "snapshots"
    for number in range(3):
        for one in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
            done = cluster.node.run(pod, one, f"snapshots-{number}")
            assert done.returncode == 0, done.stderr
        time.sleep(0.01)  # a file's time may be as coarse as that
        (folder / "unfinished.db.part").touch()
    assert sorted(file.name for file in folder.glob("*.db")) == ["snapshots-1.db", "snapshots-2.db"]
    assert "deleted snapshots-0.db" in done.stdout
    assert json.dumps(cluster.secret("etcd-users", "root-password")) not in done.stdout
