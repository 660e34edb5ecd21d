"""What workers and their parent count. Label values come from our own enums and the configuration, never from a client.

`catalogue` says what there is. What every session moves are plain numbers (`counts`, and by route `sniproxy.tallies`); the
rest are the library's. Routes travel and are scraped as `rows`; what is told of single objects is found when it is asked for
(`objects`).
"""

from sniproxy.metrics.pod_metrics import HasFreshness, PodMetrics
from sniproxy.metrics.worker_metrics import Metrics

__all__ = ["HasFreshness", "Metrics", "PodMetrics"]
