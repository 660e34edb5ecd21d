"""File descriptors: as many as the system lets a data plane have, and whether those suffice."""

import resource

from sniproxy.logs import Log

DESCRIPTORS_PER_SESSION = 2  # the player's socket and the game server's
SPARE_DESCRIPTORS = 200  # the store, listeners, files


def raise_descriptor_limit(max_sessions: int, log: Log) -> None:
    """Takes as many descriptors as the system lets us have, and says so when they are fewer than sessions may need."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = DESCRIPTORS_PER_SESSION * max_sessions + SPARE_DESCRIPTORS
    if most != resource.RLIM_INFINITY and most < needed:
        log.warning(
            "few descriptors",
            limit=most,
            needed=needed,
            advice="raise the limit of open files (ulimit -Hn, LimitNOFILE), or lower proxy.max_sessions",
        )
