"""Looks at our own ports.

httpx reads all the authorities of the web for each client that is not told otherwise, 25 ms of CPU even where no TLS is
spoken; and whoever waits for something looks many times.
"""

import httpx


def get(url: str, timeout: float = 5.0) -> httpx.Response:
    """The answer over plain HTTP; timeout: seconds for each step."""
    return httpx.get(url, timeout=timeout, trust_env=False, verify=False)
