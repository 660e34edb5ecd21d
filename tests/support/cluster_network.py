"""The network of a Kubernetes of one node: addresses, pods' bridge, names by CoreDNS, and Services by kube-proxy.

All of it in the test's network namespace, which has no way out and goes with the test.
"""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import if_nameindex

from tests.support.kube_server import SERVICES

ADDRESS = "192.0.2.10"  # the node's (RFC 5737); DNS answers there, too
PODS = "10.244.0.0/24"
GATEWAY = "10.244.0.1"  # the node, as pods see it
DOMAIN = "cluster.local"
LIBRARIES = "usr/lib/x86_64-linux-gnu"  # of Debian's programs, as they are unpacked

Start = Callable[..., None]  # starts a program: its words, and variables


def make_network() -> None:
    """The node's address."""
    names = [name for _, name in if_nameindex()]
    assert names == ["lo"], f"{names}: not in a network namespace of its own, as in make cluster"
    for command in (
        "ip link set lo up",
        "ip link add node type bridge",
        f"ip addr add {ADDRESS}/24 dev node",
        "ip link set node up",
        "ip route add default via 192.0.2.1 dev node",
        "sysctl -qw net.ipv4.ip_forward=1",
        # A Service's answer to a pod comes from the same bridge, and would not pass by kube-proxy's rules.
        "sysctl -qw net.bridge.bridge-nf-call-iptables=1",
    ):
        subprocess.run(command.split(), check=True)


def write_pod_network(folder: Path, addresses: Path) -> None:
    """The configuration of containers' networks."""
    network = {
        "cniVersion": "0.3.1", "name": "pods", "type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]],
                 "routes": [{"dst": "0.0.0.0/0"}], "dataDir": str(addresses)},
    }  # fmt: skip
    folder.mkdir()
    (folder / "pods.conf").write_text(json.dumps(network))


def start_dns(start: Start, program: Path, folder: Path, kubeconfig: Path) -> None:
    """Names of Services and pods, and no others."""
    (folder / "Corefile").write_text(
        f"{DOMAIN} in-addr.arpa {{\n bind {ADDRESS}\n errors\n"
        f" kubernetes {DOMAIN} in-addr.arpa {{\n  kubeconfig {kubeconfig}\n  pods insecure\n }}\n}}\n"
    )
    start(program, "-conf", folder / "Corefile")


def start_policies(start: Start, node: Path, folder: Path, kubeconfig: Path) -> None:
    """NetworkPolicies, by kube-router with iptables and ipset: without somebody who does that they are only objects."""
    links = folder / "netfilter"
    links.mkdir()
    for name in ("iptables", "iptables-save", "iptables-restore"):
        (links / name).symlink_to(node / "usr/sbin/xtables-legacy-multi")
    variables = {
        "PATH": f"{links}:{node}/usr/sbin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{node}/{LIBRARIES}",
        "XTABLES_LIBDIR": f"{node}/{LIBRARIES}/xtables",
        "XTABLES_LOCKFILE": f"{folder}/xtables.lock",
    }
    start(node / "bin/kube-router", "--kubeconfig", kubeconfig, "--hostname-override", "node",
          "--run-router=false", "--run-service-proxy=false", "--service-cluster-ip-range", SERVICES,
          variables=variables)  # fmt: skip


def start_services(start: Start, programs: Path, node: Path, common: Sequence[str | Path]) -> None:
    """Addresses of Services, by rules of nftables."""
    libraries = {"LD_LIBRARY_PATH": f"{node}/{LIBRARIES}"}
    start(programs / "kube-proxy", *common, "--proxy-mode", "nftables", "--cluster-cidr", PODS,
          "--hostname-override", "node", "--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0",
          "--conntrack-tcp-timeout-close-wait", "0", variables=libraries)  # fmt: skip
