"""A program that becomes itself: as `sniproxy proxy` does in an upgrade, and tells what it finds then.

python heir.py CHANNEL        asks its standard input what to do, a word per line

leave       becomes the next version, with a listening socket and the channel
late        as leave, but all signals come to another thread at the last moment
hold, hear  as the data plane does at its start; what is heard is told
accept      lets one in, and tells what he has said
read        tells the next message of the channel
end         ends, with exit code 0
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import trio

from sniproxy.channel import Channel
from sniproxy.upgrade import LEFT, SIGNALS, Estate, OldWorker, hear, hold

heard: list[int] = []


def tell(**members: Any) -> None:
    """A line."""
    print(json.dumps(members), flush=True)


def come_late() -> None:
    """When nothing but the call of the kernel is left to do, signals come."""
    execute = os.execve

    def last_moment(*args: Any) -> None:
        for one in SIGNALS:
            os.kill(os.getpid(), one)  # to whichever thread does not block it
        execute(*args)

    os.execve = last_moment  # type: ignore[assignment]


async def read(channel: Channel) -> dict[str, Any]:
    """One message."""
    return await anext(channel)


def main() -> None:
    left = Estate.inherited()
    # A thread that signals may come to: a data plane has some.
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    if left is None:
        doors = socket.create_server(("127.0.0.1", 0))
        channel = Channel(socket.socket(fileno=int(sys.argv[1])), b"")
        tell(port=doors.getsockname()[1], pid=os.getpid())
        generation, drained, unhealthy = 0, ["7"], ["10.0.0.5:1/x"]
        counted, statistics = [{"name": "sessions"}], {"seen": {"7": [1, 2, 3, 4]}}
    else:
        ((address, (number,)),) = left.doors.items()
        doors = socket.socket(fileno=number)
        (worker,) = left.workers
        channel = Channel(socket.socket(fileno=worker.channel), worker.unread.encode())
        generation, drained, unhealthy = left.generation, left.drained, left.unhealthy
        counted, statistics = worker.counted, left.statistics
        tell(
            pid=os.getpid(),
            version=left.version,
            address=address,
            status=left.status[0],
            worker=[worker.worker, worker.pid],
            drained=drained,
            unhealthy=unhealthy,
            counted=counted,
            statistics=statistics,
            generation=generation,
            again=Estate.inherited() is None and LEFT not in os.environ,
            inheritable=[os.get_inheritable(one) for one in left.descriptors],
            argv=sys.argv[1:],
        )
    for line in sys.stdin:
        match line.strip():
            case "hold":
                hold()
                tell(held=True)
            case "hear":
                for one in SIGNALS:
                    signal.signal(one, lambda number, _: heard.append(number))
                hear()
                tell(heard=sorted(heard))
            case "accept":
                doors.setblocking(True)
                sock, _ = doors.accept()
                tell(said=sock.recv(100).decode())
                sock.close()
            case "read":
                tell(message=trio.run(read, channel))
            case "leave" | "late" as how:
                if how == "late":
                    come_late()
                Estate(
                    version=f"v{generation}",
                    doors={"127.0.0.1:0": [os.dup(doors.fileno())]},
                    status=("127.0.0.1:7085", os.dup(doors.fileno())),
                    workers=[
                        OldWorker(
                            3,
                            12345,
                            os.dup(channel.fileno()),
                            channel.unread.decode(),
                            counted=counted,
                        )
                    ],
                    drained=drained,
                    generation=generation + 1,
                    counted=[],
                    unhealthy=unhealthy,
                    statistics=statistics,
                ).execute()
            case "end":
                return


if __name__ == "__main__":
    main()
