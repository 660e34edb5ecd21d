"""sniproxy.yaml as the chart makes it is taken by sniproxy, and holds what the values say."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniproxy.metrics import Metrics
from sniproxy.settings import Drain, EtcdUrl, Settings, load_settings
from tests.support.charts import MATRIX, NAME, Object, Rendered, Values, render

CANARIES = [case for case, values in MATRIX.items() if values.get("canary")]


def container(rendered: Rendered, kind: str, name: str) -> Object:
    """The first container of what has this name."""
    found: Object = rendered.one(kind, name)["spec"]["template"]["spec"]["containers"][0]
    return found


def secret(rendered: Rendered, name: str) -> dict[str, str]:
    """What is in a Secret of the chart's own."""
    data = rendered.one("Secret", name)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def environment(rendered: Rendered, one: Object) -> dict[str, str]:
    """The container's variables that are settings, out of the chart's own Secrets."""
    found = {}
    for variable in one["env"]:
        if variable["name"].startswith("SNIPROXY_"):
            reference = variable["valueFrom"]["secretKeyRef"]
            found[variable["name"]] = secret(rendered, reference["name"])[reference["key"]]
    return found


def loaded(
    monkeypatch: pytest.MonkeyPatch, folder: Path, text: str, variables: dict[str, str]
) -> Settings:
    """The settings of a file with this text, and these variables."""
    file = folder / "sniproxy.yaml"
    file.write_text(text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings(file)


def text_of(rendered: Rendered, name: str = NAME) -> str:
    text: str = rendered.one("ConfigMap", name)["data"]["sniproxy.yaml"]
    return text


@pytest.mark.parametrize("case", list(MATRIX))
def test_sniproxy_takes_what_the_chart_makes(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rendered = render(MATRIX[case])
    names = [NAME, f"{NAME}-canary"] if case in CANARIES else [NAME]
    for name in names:
        settings = loaded(monkeypatch, tmp_path, text_of(rendered, name), {})
        assert isinstance(settings.where, EtcdUrl)
        assert not settings.admin.keys
        assert not settings.encryption.keyring


@pytest.mark.parametrize("who", ["proxy", "admin"])
def test_secrets_come_as_variables(
    who: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rendered = render()
    one = container(rendered, "Deployment", NAME if who == "proxy" else f"{NAME}-admin")
    variables = environment(rendered, one)
    settings = loaded(monkeypatch, tmp_path, text_of(rendered), variables)
    assert settings.etcd.user == who
    assert settings.etcd.password == secret(rendered, f"{NAME}-etcd-users")[f"{who}-password"]
    (key,) = settings.encryption.keyring
    assert len(base64.b64decode(key)) == 32
    roles = {key.name: key.role for key in settings.admin.keys}
    assert roles == ({} if who == "proxy" else {"admin": "admin", "viewer": "viewer"})
    if who == "admin":
        keys = {key.name: key.key for key in settings.admin.keys}
        assert keys == {name: secret(rendered, f"{NAME}-admin")[name] for name in keys}
    text = json.dumps(rendered.one("ConfigMap"))
    assert not any(value in text for name, value in variables.items() if "USER" not in name)


def test_values_become_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rendered = render(MATRIX["everything"])
    settings = loaded(monkeypatch, tmp_path, text_of(rendered), {})
    first, second = settings.proxy.listeners
    assert (first.address, first.tls, first.tls_passthrough) == ("0.0.0.0:8443", True, True)
    assert (second.address, second.is_tls) == ("0.0.0.0:7000", False)
    assert (second.allow, second.deny) == (("192.0.2.0/24",), ("::/0",))
    assert all(listener.proxy_protocol for listener in settings.proxy.listeners)
    assert settings.proxy.trusted == ("10.0.0.0/16",)
    assert settings.proxy.deny_upstreams == ("127.0.0.0/8", "::1/128")
    assert (settings.proxy.workers, settings.proxy.keepalive_idle) == (2, 5999)
    assert settings.drain == Drain(accept=150, deadline=7200, spread=0)
    assert settings.proxy.max_sessions == 1048576
    assert settings.proxy.limits.address_sessions == 50
    assert settings.node_ttl == 20
    assert settings.admin.cert_file == Path("/etc/sniproxy/admin/tls.crt")
    assert settings.admin.allow == ("10.0.0.0/8",)
    canary = loaded(monkeypatch, tmp_path, text_of(rendered, f"{NAME}-canary"), {})
    assert canary.proxy.max_sessions == 7
    assert canary.proxy.limits == settings.proxy.limits


def test_where_etcd_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundled = loaded(monkeypatch, tmp_path, text_of(render()), {})
    members = tuple(f"https://{NAME}-etcd-{i}.{NAME}-etcd-peers.play.svc:2379" for i in range(3))
    assert bundled.where == EtcdUrl(endpoints=members, prefix="/apisix")
    assert bundled.etcd.ca_file == Path("/etc/sniproxy/etcd/ca.crt")
    assert bundled.etcd.cert_file is None
    by_tls = render(MATRIX["etcd elsewhere, by TLS"])
    elsewhere = loaded(monkeypatch, tmp_path, text_of(by_tls), {})
    endpoints = ("https://10.1.0.1:2379", "https://etcd.x:2380")
    assert elsewhere.where == EtcdUrl(endpoints=endpoints, prefix="/apisix")
    assert elsewhere.etcd.key_file == Path("/etc/sniproxy/etcd/tls.key")
    text = text_of(render(MATRIX["etcd elsewhere, open"]))
    plain = loaded(monkeypatch, tmp_path, text, {})
    endpoints = ("http://10.1.0.1:2379", "http://etcd.x:2380")
    assert plain.where == EtcdUrl(endpoints=endpoints, prefix="/a/b")
    assert plain.etcd.ca_file is None


def files(pod: Object) -> set[str]:
    """What is under /etc/sniproxy but sniproxy.yaml."""
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "etc")
    return {
        f"/etc/sniproxy/{item['path']}"
        for source in volume["projected"]["sources"]
        for item in source.get("secret", {}).get("items", ())
    }


@pytest.mark.parametrize("case", list(MATRIX))
def test_files_that_settings_name_are_mounted(case: str) -> None:
    rendered = render(MATRIX[case])
    settings = rendered.settings()
    kind = MATRIX[case].get("proxy", {}).get("kind", "Deployment")
    pod = rendered.one(kind)["spec"]["template"]["spec"]
    named = {value for key, value in settings.get("etcd", {}).items() if key.endswith("_file")}
    assert named <= files(pod)
    for admin in rendered.named("Deployment", f"{NAME}-admin"):
        more = {value for key, value in settings["admin"].items() if key.endswith("_file")}
        assert named | more <= files(admin["spec"]["template"]["spec"])


def test_certificates_are_mounted_and_those_of_cert_manager_made() -> None:
    rendered = render(MATRIX["everything"])
    pod = rendered.one("Deployment")["spec"]["template"]["spec"]
    for name in ("there", "made"):
        for end in ("crt", "key"):
            assert f"/etc/sniproxy/certificates/{name}/tls.{end}" in files(pod)
    sources = next(v for v in pod["volumes"] if v["name"] == "etc")["projected"]["sources"]
    made = next(s["secret"] for s in sources if s.get("secret", {}).get("name") == "made-tls")
    assert made["optional"] is True  # one that is late holds up nobody
    (certificate,) = rendered.kind("Certificate").values()
    assert certificate["spec"]["secretName"] == "made-tls"
    assert certificate["spec"]["dnsNames"] == ["*.x.y"]
    assert certificate["spec"]["issuerRef"] == {"name": "le", "kind": "ClusterIssuer"}


# -- the end of a pod


@pytest.mark.parametrize("case", list(MATRIX))
def test_a_pod_has_the_time_that_its_drain_takes(case: str) -> None:
    rendered = render(MATRIX[case])
    kind = MATRIX[case].get("proxy", {}).get("kind", "Deployment")
    grace = rendered.one(kind)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    drain = rendered.settings()["drain"]
    assert grace == sum(drain.values()) + 30
    assert drain["accept"] >= 120
    assert grace >= drain["deadline"] + 150


@pytest.mark.parametrize(
    ("values", "grace"),
    [
        ({"proxy": {"terminationGracePeriodSeconds": 810}}, 810),
        ({"proxy": {"terminationGracePeriodSeconds": 9999}}, 9999),
        ({"proxy": {"drain": {"deadline": 100, "spread": 1}}}, 251),
    ],
)
def test_the_grace_period(values: Values, grace: int) -> None:
    pod = render(values).one("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == grace


def test_probes_ask_the_status_port() -> None:
    one = container(render(), "Deployment", NAME)
    asked = {kind: one[kind]["httpGet"] for kind in one if kind.endswith("Probe")}
    live = {"path": "/livez", "port": "status"}
    ready = {"path": "/readyz", "port": "status"}
    assert asked == {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready}
    assert "lifecycle" not in one  # SIGTERM begins the drain


@pytest.mark.parametrize(("case", "scheme"), [("eks", "HTTP"), ("everything", "HTTPS")])
def test_probes_ask_the_admin(case: str, scheme: str) -> None:
    """Not whether its port is open, which it is while it can reach no store, and while it ends."""
    rendered = render(MATRIX[case])
    one = container(rendered, "Deployment", f"{NAME}-admin")
    asked = {kind: one[kind]["httpGet"] for kind in one if kind.endswith("Probe")}
    live = {"path": "/livez", "port": "admin", "scheme": scheme}
    ready = {"path": "/readyz", "port": "admin", "scheme": scheme}
    assert asked == {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready}


@pytest.mark.parametrize("seconds", [0, 15, 600])
def test_an_admin_has_the_time_that_its_end_takes(seconds: int) -> None:
    rendered = render({"admin": {"shutdownDelay": seconds}} if seconds != 15 else {})
    pod = rendered.one("Deployment", f"{NAME}-admin")["spec"]["template"]["spec"]
    assert rendered.settings()["admin"]["shutdown_delay"] == seconds
    assert pod["terminationGracePeriodSeconds"] == seconds + 15


# -- how many


def test_other_settings_make_other_pods() -> None:
    def digest(values: Values) -> Any:
        template = render(values).one("Deployment")["spec"]["template"]
        return template["metadata"]["annotations"]["sniproxy/settings"]

    assert digest({}) != digest({"config": {"proxy": {"max_sessions": 7}}})
    assert digest({}) == digest({"admin": {"replicas": 3}})


@pytest.mark.anyio
async def test_it_scales_by_cpu_and_by_a_metric_that_there_is() -> None:
    rendered = render(MATRIX["everything"])
    assert "replicas" not in rendered.one("Deployment")["spec"]
    spec = rendered.one("HorizontalPodAutoscaler")["spec"]
    cpu, sessions = spec["metrics"]
    assert cpu["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    assert sessions["pods"]["target"] == {"type": "AverageValue", "averageValue": "5000"}
    names = {family.name for family in Metrics().registry.collect()}
    assert sessions["pods"]["metric"]["name"] in names
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 900


def test_a_canary_is_behind_the_same_service() -> None:
    rendered = render(MATRIX["everything"])
    stable, canary = rendered.one("Deployment"), rendered.one("Deployment", f"{NAME}-canary")
    selector = rendered.one("Service")["spec"]["selector"]
    for one in (stable, canary):
        assert selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    assert stable["spec"]["selector"] != canary["spec"]["selector"]
    assert canary["spec"]["replicas"] == 1
    image = container(rendered, "Deployment", f"{NAME}-canary")["image"]
    assert image == "ghcr.io/sniproxy/sniproxy:next"
    stable_image = container(rendered, "Deployment", NAME)["image"]
    assert stable_image == "ghcr.io/sniproxy/sniproxy@sha256:" + "0" * 64


def test_every_image_of_ours_is_by_its_digest() -> None:
    """The admin's, the jobs' and the canary's as well."""
    stable, canary = ("sha256:" + digit * 64 for digit in "01")
    tried = {"enabled": True, "imageDigest": canary}
    rendered = render({"image": {"digest": stable}, "canary": tried})
    ours = re.findall(r'"image": "ghcr\.io/sniproxy/sniproxy([^"]*)"', json.dumps(rendered.objects))
    assert sorted(set(ours)) == [f"@{stable}", f"@{canary}"]
    assert ours.count(f"@{canary}") == 1


def test_what_the_data_plane_is_given() -> None:
    rendered = render(MATRIX["everything"])
    pod = rendered.one("Deployment")["spec"]["template"]["spec"]
    one = pod["containers"][0]
    assert one["args"] == ["proxy", "-c", "/etc/sniproxy/sniproxy.yaml"]
    assert "command" not in one
    assert {"name": "TZ", "value": "Europe/Berlin"} in one["env"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in one["volumeMounts"]}
    assert mounts == {"/etc/sniproxy": True, "/var/lib/sniproxy": False, "/tmp": False}
    assert pod["securityContext"]["sysctls"] == [
        {"name": "net.ipv4.ip_local_port_range", "value": "10240 65535"}
    ]
    keys = [it["topologyKey"] for it in pod["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    claimed = render(MATRIX["another load balancer"]).one("Deployment")["spec"]
    assert claimed["strategy"] == {"type": "Recreate"}
    (state,) = (v for v in claimed["template"]["spec"]["volumes"] if v["name"] == "state")
    assert state["persistentVolumeClaim"] == {"claimName": "mirror"}


def test_settings_are_written_as_yaml_that_yaml_reads_back() -> None:
    """Numbers stay whole, and nothing becomes 1.048576e+06."""
    assert yaml.safe_load(text_of(render(MATRIX["everything"])))["proxy"]["max_sessions"] == 1048576
