"""What of docs/eks.md runs here, in place of what, and what is only checked.

A command of the page is either in RUN or in NEEDS_A_CLUSTER; one that is in neither, or in both, fails a test.
"""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2]
PAGE = FOLDER / "docs" / "eks.md"
RELEASE = NAMESPACE = "sniproxy"  # what the page calls both

# What runs, by how it begins.
RUN = (
    "export IMAGE=",
    "export SAVED=",
    "sed ",  # up to where it goes into kubectl
    "openssl ",
    "curl ",
    "(echo hello; sleep 2) | openssl s_client ",
    "kubectl -n sniproxy exec deployment/sniproxy -- sniproxy explain ",
    "kubectl -n sniproxy exec deployment/sniproxy-admin -- sniproxy dump ",
    "kubectl -n sniproxy exec -i deployment/sniproxy-admin -- sniproxy restore ",
)
# What is only checked, and why it cannot be run.
NEEDS_A_CLUSTER = {
    "make image ": "needs Docker",
    "kubectl create namespace ": "",
    "kubectl -n sniproxy create job ": "",
    "kubectl label namespace ": "",
    "kubectl delete namespace ": "",
    "kubectl -n game wait ": "",
    "kubectl -n sniproxy wait ": "",
    "kubectl -n sniproxy get ": "",
    "kubectl -n sniproxy logs ": "",
    "kubectl -n sniproxy rollout status ": "",
    "kubectl -n sniproxy port-forward ": "its port is substituted",
    "kubectl -n sniproxy scale ": "",
    "kubectl -n sniproxy delete ": "",
    "kubectl -n sniproxy exec read-snapshot ": "test_a_snapshot_becomes_a_backup runs what is in its manifest",
    "kill %1": "the port-forward",
    "export KEY=$(kubectl ": "substituted",
    "export NLB=$(kubectl ": "substituted",
    "helm install ": "rendered by test_what_helm_is_given",
    "helm upgrade ": "rendered by test_what_helm_is_given",
    "helm history ": "",
    "helm rollback ": "",
    "helm uninstall ": "",
}
# What kubectl is asked for by name, and who has made it: the page itself, or the chart.
NAMED = {
    "namespace/game": "page",
    "namespace/sniproxy": "page",
    "pod/read-snapshot": "page",
    "job/snapshot-now": "page",
    "deployment/sniproxy": "chart",
    "deployment/sniproxy-admin": "chart",
    "deployment/sniproxy-canary": "chart, with a canary",
    "service/sniproxy": "chart",
    "service/sniproxy-admin": "chart",
    "secret/sniproxy-keyring": "chart",
    "secret/sniproxy-admin": "chart",
    "cronjob/sniproxy-etcd-snapshots": "chart",
    "statefulset/sniproxy-etcd": "chart",
    **{f"pvc/data-sniproxy-etcd-{n}": "its StatefulSet" for n in range(3)},
}


def runs(command: str) -> bool:
    """Whether the test runs it; AssertionError for one that the tables do not know."""
    found = [one for one in (*RUN, *NEEDS_A_CLUSTER) if command.startswith(one)]
    assert len(found) == 1, f"{found} for {command}: put it into one table of tests/support/eks.py"
    return found[0] in RUN


def substituted(command: str, table: dict[str, str]) -> str:
    """With what is here in place of what is there."""
    for written, real in table.items():
        command = command.replace(written, real)
    return command


def named(command: str) -> set[str]:
    """What a kubectl command names: "deployment gs-1" and "deployment/gs-1" are one."""
    kinds = r"(namespace|pod|deployment|service|secret|statefulset|pvc|cronjob|job)"
    found = {f"{kind}/{name}" for kind, name in re.findall(rf"\b{kinds}/([a-z0-9-]+)", command)}
    for kind, names in re.findall(rf" {kinds}((?: [a-z0-9][a-z0-9-]*(?= |$))+)", command):
        found |= {f"{kind}/{name}" for name in names.split()}
    return found
