"""Which worker accepts from which socket. Pure.

Each listener has as many sockets as there are workers, and the kernel spreads those who come over them. The sockets belong
to the data plane, not to a worker: while a worker is away, others accept from its socket, so nobody waits for it.
"""

from collections.abc import Sequence


def assign(slots: int, ready: Sequence[int]) -> dict[int, list[int]]:
    """The slots of each worker that is ready; every slot is somebody's, if anybody is ready.

    Worker 2 has slot 2 while it is ready; slots whose worker is not are shared out.
    """
    shares: dict[int, list[int]] = {worker: [] for worker in ready}
    orphans = []
    for slot in range(slots):
        if slot in shares:
            shares[slot].append(slot)
        else:
            orphans.append(slot)
    for slot in orphans if ready else ():
        fewest = min(ready, key=lambda worker: (len(shares[worker]), worker))
        shares[fewest].append(slot)
    return shares
