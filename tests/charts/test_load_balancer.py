"""What the NLB, a target group of somebody else's, and the ALB are told."""

from typing import Any

import pytest

from tests.support.charts import EXTERNAL, LISTENERS, MATRIX, NAME, TARGETS, Values, render

AWS = "service.beta.kubernetes.io/aws-load-balancer-"
STATUS_PORT = 7085


def told(values: Values) -> dict[str, str]:
    """Annotations of the players' Service, their prefix left out."""
    annotations = render(values).one("Service")["metadata"]["annotations"]
    return {name.removeprefix(AWS): value for name, value in annotations.items()}


def attributes(text: str) -> dict[str, str]:
    """{"a": "b"} of "a=b,..."."""
    return dict(pair.split("=") for pair in text.split(","))


def test_the_annotations_of_an_nlb() -> None:
    annotations = told({})
    group = attributes(annotations.pop("target-group-attributes"))
    assert annotations == {
        "type": "external",
        "nlb-target-type": "ip",
        "scheme": "internet-facing",
        "proxy-protocol": "*",
        "attributes": "load_balancing.cross_zone.enabled=true",
        "listener-attributes.TCP-443": "tcp.idle_timeout.seconds=350",
        "healthcheck-protocol": "http",
        "healthcheck-port": str(STATUS_PORT),
        "healthcheck-path": "/readyz",
        "healthcheck-success-codes": "200",
        "healthcheck-interval": "10",
        "healthcheck-timeout": "5",
        "healthcheck-healthy-threshold": "2",
        "healthcheck-unhealthy-threshold": "2",
    }
    assert group == {
        "proxy_protocol_v2.enabled": "true",
        "preserve_client_ip.enabled": "false",
        "deregistration_delay.timeout_seconds": "780",
        "deregistration_delay.connection_termination.enabled": "false",
        "target_health_state.unhealthy.connection_termination.enabled": "false",
        "target_health_state.unhealthy.draining_interval_seconds": "780",
    }


def test_they_follow_the_values() -> None:
    annotations = told(MATRIX["everything"])
    assert annotations["subnets"] == "a,b"
    assert annotations["scheme"] == "internal"
    assert annotations["attributes"] == "load_balancing.cross_zone.enabled=false"
    for port in (443, 7000):
        assert annotations[f"listener-attributes.TCP-{port}"] == "tcp.idle_timeout.seconds=6000"
    group = attributes(annotations["target-group-attributes"])
    assert group["stickiness.enabled"] == "true"
    assert group["deregistration_delay.timeout_seconds"] == "3600"  # AWS takes no more
    assert group["target_health_state.unhealthy.draining_interval_seconds"] == "7350"
    service = render(MATRIX["everything"]).one("Service")["spec"]
    assert service["loadBalancerClass"] == "eks.amazonaws.com/nlb"
    assert service["loadBalancerSourceRanges"] == ["192.0.2.0/24"]


@pytest.mark.parametrize(("interval", "timeout"), [(5, "4"), (300, "5")])
def test_a_check_ends_before_the_next_one(interval: int, timeout: str) -> None:
    annotations = told({"service": {"nlb": {"healthCheckInterval": interval}}})
    assert annotations["healthcheck-interval"] == str(interval)
    assert annotations["healthcheck-timeout"] == timeout


def test_targets_are_pods_and_no_port_of_a_node_is_open() -> None:
    service = render({"listeners": LISTENERS}).one("Service")["spec"]
    assert service["type"] == "LoadBalancer"
    assert service["allocateLoadBalancerNodePorts"] is False
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [
        (443, "tls"),
        (7000, "plain"),
    ]


def test_the_port_that_is_checked_is_the_status_port() -> None:
    pod = render().one("Deployment")["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports == {"tls": 8443, "status": STATUS_PORT}
    assert render().settings()["status"] == {"address": f"0.0.0.0:{STATUS_PORT}"}


@pytest.mark.parametrize("case", list(MATRIX))
def test_both_ends_say_proxy_or_neither(case: str) -> None:
    rendered = render(MATRIX[case])
    for annotations in [rendered.one("Service")["metadata"].get("annotations", {})]:
        sent = annotations.get(f"{AWS}proxy-protocol")
        group = annotations.get(f"{AWS}target-group-attributes")
        if group is not None:
            enabled = attributes(group)["proxy_protocol_v2.enabled"] == "true"
            assert enabled == (sent == "*")
            for listener in rendered.settings()["proxy"]["listeners"]:
                assert listener["proxy_protocol"] == enabled


@pytest.mark.parametrize("case", ["another load balancer", "no PROXY protocol", "target groups"])
def test_nothing_is_computed_where_there_is_no_nlb_of_ours(case: str) -> None:
    service = render(MATRIX[case]).one("Service")
    assert "annotations" not in service["metadata"]


def test_target_groups_that_were_made_beforehand() -> None:
    rendered = render(MATRIX["target groups"])
    bindings = rendered.kind("TargetGroupBinding")
    assert set(bindings) == {f"{NAME}-443", f"{NAME}-7000"}
    inside = {443: 8443, 7000: 7000}
    for target in TARGETS:
        port: Any = target["port"]
        binding = bindings[f"{NAME}-{port}"]
        assert binding["apiVersion"] == "elbv2.k8s.aws/v1beta1"
        assert binding["spec"] == {
            "targetGroupARN": target["arn"],
            "targetType": "ip",
            "serviceRef": {"name": NAME, "port": port},
            "networking": {
                "ingress": [
                    {
                        "from": [{"ipBlock": {"cidr": "10.0.0.0/16"}}],
                        "ports": [
                            {"port": inside[port], "protocol": "TCP"},
                            {"port": STATUS_PORT, "protocol": "TCP"},
                        ],
                    }
                ]
            },
        }


def test_the_admin_behind_an_alb() -> None:
    rendered = render(MATRIX["everything"])
    ingress = rendered.one("Ingress", f"{NAME}-admin")
    alb = "alb.ingress.kubernetes.io/"
    assert ingress["metadata"]["annotations"] == {
        "a": "b",
        f"{alb}scheme": "internal",
        f"{alb}target-type": "ip",
        f"{alb}listen-ports": '[{"HTTPS": 443}]',
        f"{alb}backend-protocol": "HTTPS",
        f"{alb}healthcheck-protocol": "HTTPS",
        f"{alb}healthcheck-path": "/readyz",
        f"{alb}success-codes": "200",
        f"{alb}certificate-arn": "arn:aws:acm:1",
    }
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert rule["host"] == "admin.x"
    assert path["backend"]["service"] == {"name": f"{NAME}-admin", "port": {"name": "admin"}}
    assert rendered.one("Service", f"{NAME}-admin")["spec"]["type"] == "ClusterIP"


def test_a_network_policy_lets_the_balancer_in_and_nobody_else() -> None:
    balancer = {"ipBlock": {"cidr": "10.0.0.0/16"}}
    rendered = render(MATRIX["everything"])
    players, status = rendered.one("NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for port in players["ports"]] == ["tls", "plain"]
    assert players["from"] == [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
    assert balancer in status["from"]
    assert rendered.one("NetworkPolicy")["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (admin,) = rendered.one("NetworkPolicy", f"{NAME}-admin")["spec"]["ingress"]
    assert balancer in admin["from"]
    (inside,) = render().one("NetworkPolicy", f"{NAME}-admin")["spec"]["ingress"]
    assert inside["from"] == [{"podSelector": {}}]  # no Ingress, no balancer


def test_where_a_network_policy_lets_proxies_go() -> None:
    """Everywhere, also where a namespace lets nobody out; or to the game servers that are named, etcd and DNS."""

    def egress(values: Values) -> list[Any]:
        spec = render(values).one("NetworkPolicy")["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        found: list[Any] = spec["egress"]
        return found

    assert egress({}) == [{}]
    games = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "game"}}}
    servers, dns, etcd = egress({"networkPolicy": {"upstreams": [games]}})
    assert servers == {"to": [games]}
    assert {port["port"] for port in dns["ports"]} == {53}
    assert [port["port"] for port in etcd["ports"]] == [2379]
    *_, elsewhere = egress({"networkPolicy": {"upstreams": [games]}, "etcd": EXTERNAL})
    assert elsewhere == {
        "ports": [{"port": 2379, "protocol": "TCP"}, {"port": 2380, "protocol": "TCP"}]
    }
