"""What an upgrade finds in the cluster and leaves as it is: Secrets, and how many pods an autoscaler wants."""

import base64
import copy
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.support.charts import (
    CHART,
    EXAMPLES,
    KUBERNETES,
    MATRIX,
    NAME,
    NAMESPACE,
    Object,
    Rendered,
    read_objects,
    render,
    run_helm,
)
from tests.support.kube_api import kube_api

OWN = {f"{NAME}-{name}" for name in ("keyring", "admin", "etcd-users", "etcd-tls")}


def upgraded(*objects: Object, **values: str) -> Rendered:
    """A render on a cluster that has these."""
    chosen = [f"--set={name}={value}" for name, value in values.items()]
    with kube_api(objects, NAMESPACE) as url:
        done = run_helm("template", "game", CHART, "--dry-run=server", "--kube-apiserver", url,
                        "--kube-version", f"{KUBERNETES[0]}.0", "--namespace", NAMESPACE,
                        "--values", EXAMPLES / "eks-nlb.yaml", *chosen)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return read_objects(done.stdout)


def test_what_is_there_is_kept() -> None:
    there = render().kind("Secret")
    assert there.keys() == OWN
    after = upgraded(*there.values()).kind("Secret")
    assert {name: it["data"] for name, it in after.items()} == {
        name: it["data"] for name, it in there.items()
    }


def test_what_is_gone_is_made_anew_and_the_rest_kept() -> None:
    there = copy.deepcopy(render().kind("Secret"))
    gone = there.pop(f"{NAME}-keyring")
    del there[f"{NAME}-etcd-users"]["data"]["proxy-password"]
    after = upgraded(*there.values()).kind("Secret")
    assert after[f"{NAME}-keyring"]["data"] != gone["data"]
    users = after[f"{NAME}-etcd-users"]["data"]
    assert len(base64.b64decode(users["proxy-password"])) == 32
    assert users["root-password"] == there[f"{NAME}-etcd-users"]["data"]["root-password"]


def test_an_upgrade_leaves_as_many_pods_as_the_autoscaler_has_made() -> None:
    scaled = copy.deepcopy(render().one("Deployment"))
    scaled["spec"]["replicas"] = 9
    on = {"proxy.autoscaling.enabled": "true"}
    assert upgraded(scaled, **on).one("Deployment")["spec"]["replicas"] == 9
    assert "replicas" not in upgraded(**on).one("Deployment")["spec"]
    assert upgraded(scaled).one("Deployment")["spec"]["replicas"] == 3


def test_what_would_be_lost_for_ever_outlives_the_release() -> None:
    for name, it in render().kind("Secret").items():
        kept = it["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
        assert kept == (None if name == f"{NAME}-admin" else "keep"), name


def test_those_of_others_are_not_made() -> None:
    assert not render(MATRIX["daemon set, own secrets"]).kind("Secret")
    assert set(render(MATRIX["etcd elsewhere, by TLS"]).kind("Secret")) == {
        f"{NAME}-keyring",
        f"{NAME}-admin",
    }


def test_the_certificate_of_etcd_is_for_every_member() -> None:
    data = render().one("Secret", f"{NAME}-etcd-tls")["data"]
    files = {name: base64.b64decode(value) for name, value in data.items()}
    authority = x509.load_pem_x509_certificate(files["ca.crt"])
    certificate = x509.load_pem_x509_certificate(files["tls.crt"])
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) >= {
        "localhost",
        f"{NAME}-etcd.{NAMESPACE}.svc",
        f"*.{NAME}-etcd-peers.{NAMESPACE}.svc",
        f"*.{NAME}-etcd-peers.{NAMESPACE}.svc.cluster.local",
    }
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {usage._name for usage in usages} == {"serverAuth", "clientAuth"}
    key = load_pem_private_key(files["tls.key"], None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == certificate.public_key()


@pytest.mark.parametrize("case", list(MATRIX))
def test_no_secret_is_in_anything_but_secrets(case: str) -> None:
    rendered = render(MATRIX[case])
    secrets = rendered.kind("Secret").values()
    values = {
        base64.b64decode(value).decode()
        for it in secrets
        for key, value in it["data"].items()
        if not key.endswith(("-user", ".crt"))
    }
    rest = json.dumps([it for it in rendered.objects if it["kind"] != "Secret"])
    assert not any(value in rest for value in values)
