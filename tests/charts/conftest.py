"""One Kubernetes for all tests that need one: it takes a minute to start."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, cluster


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Of one node, in the network namespace that `make cluster` has made."""
    if "SNIPROXY_CLUSTER" not in os.environ:
        pytest.skip("only in make cluster")
    node = Path(os.environ["SNIPROXY_CLUSTER"])
    with cluster(node, tmp_path_factory.mktemp("cluster")) as found:
        yield found
