"""Which game server of an upstream a session gets. Pure: who picks says who comes, what was tried, and what time it is.

    nodes           game servers, and what this process knows of each of them
    callers         who comes -> the key that is hashed
    drawing         a node by chance, as often as its weight says
    round_robin     evenly, one after the other
    two_choices     fewest sessions, or the quickest to answer
    ring            the same client, the same node
    balancer        upstream object -> balancer

Nodes of a lower priority are asked only when those of a higher one were all tried; one of weight 0 gets no new sessions.
"""

from sniproxy.balancing.balancer import Balancer, balancer_for
from sniproxy.balancing.callers import NOBODY, Caller
from sniproxy.balancing.nodes import Node, NodeState, state_of
from sniproxy.balancing.round_robin import MOST_PICKS

__all__ = [
    "MOST_PICKS",
    "NOBODY",
    "Balancer",
    "Caller",
    "Node",
    "NodeState",
    "balancer_for",
    "state_of",
]
