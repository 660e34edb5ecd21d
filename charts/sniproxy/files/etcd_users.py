"""Gives the bundled etcd its users and switches its authentication on. May be run again at any time.

root may do everything; `admin` reads and writes the objects and what is ours; `proxy` only reads the objects, and writes
what the data planes say of themselves. Asks etcd's JSON gateway; needs nothing but Python.
"""

import base64
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any

PATIENCE = 600.0  # seconds for etcd to come up
PAUSE = 2.0  # seconds between two tries
CALL = 10.0  # seconds for one request
NO_TOKEN = ("authentication is not enabled", "authentication failed")

Permission = dict[str, str]


class Refused(Exception):
    """etcd's own words."""


class Etcd:
    """The JSON gateway of an etcd, and who asks."""

    def __init__(self, url: str, authority: str) -> None:
        self._url = url
        self._tls = ssl.create_default_context(cafile=authority)
        self._token: str | None = None

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of one request; Refused, or OSError while etcd is not there."""
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = self._token
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=CALL, context=self._tls) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            words = _words(error)
            if error.code >= 500:  # no leader yet, or it took too long
                raise OSError(words) from None
            raise Refused(words) from None

    def token(self, user: str, password: str) -> str | None:
        """None where the password is another one, or where nobody needs a token yet."""
        try:
            answer = self.call("/v3/auth/authenticate", {"name": user, "password": password})
        except Refused as refused:
            if any(words in str(refused) for words in NO_TOKEN):
                return None
            raise
        token: str = answer["token"]
        return token

    def sign_in(self, user: str, password: str) -> bool:
        """Ask as this user from now on; whether there was a token for it."""
        self._token = self.token(user, password)
        return self._token is not None

    def add(self, path: str, body: dict[str, Any]) -> bool:
        """Make something, if it is not there; whether it was made."""
        try:
            self.call(path, body)
        except Refused as refused:
            if "already exists" not in str(refused):
                raise
            return False
        return True

    def make_user(self, name: str, password: str, permissions: list[Permission]) -> None:
        """The user with this password, whose role of the same name has these permissions and no others."""
        made = self.add("/v3/auth/user/add", {"name": name, "password": password})
        if not made and self.token(name, password) is None:
            self.call("/v3/auth/user/changepw", {"name": name, "password": password})
        self.add("/v3/auth/role/add", {"name": name})
        if name != "root":
            self._permit(name, permissions)
        self.call("/v3/auth/user/grant", {"user": name, "role": name})

    def _permit(self, role: str, permissions: list[Permission]) -> None:
        there = self.call("/v3/auth/role/get", {"role": role}).get("perm", [])
        for permission in there:
            if permission not in permissions:
                keys = {name: permission.get(name, "") for name in ("key", "range_end")}
                self.call("/v3/auth/role/revoke", {"role": role, **keys})
        for permission in permissions:
            if permission not in there:
                self.call("/v3/auth/role/grant", {"name": role, "perm": permission})


def _words(error: urllib.error.HTTPError) -> str:
    try:
        told = json.loads(error.read())
        return str(told.get("error") or told.get("message") or error)
    except ValueError:
        return str(error)


def under(prefix: str, kind: str) -> Permission:
    """A permission for all keys that begin with `prefix`, as etcd tells it."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    keys = {"key": prefix, "range_end": end}
    encoded = {name: base64.b64encode(key.encode()).decode() for name, key in keys.items()}
    return {"permType": kind, **encoded}


def make_users(etcd: Etcd, prefix: str) -> None:
    """All users, and authentication on, whatever of it is done already."""
    root, admin, proxy = (os.environ[f"{who}_PASSWORD"] for who in ("ROOT", "ADMIN", "PROXY"))
    on = etcd.sign_in("root", root)
    etcd.make_user("root", root, [])
    objects, own = under(f"{prefix}/", "READWRITE"), under("/sniproxy/", "READWRITE")
    etcd.make_user(os.environ["ADMIN_USER"], admin, [objects, own])
    objects, own = under(f"{prefix}/", "READ"), under(f"/sniproxy{prefix}/", "READWRITE")
    etcd.make_user(os.environ["PROXY_USER"], proxy, [objects, own])
    if not on:
        etcd.call("/v3/auth/enable", {})


def main() -> None:
    """Tries until etcd is there."""
    etcd = Etcd(os.environ["ETCD_URL"], os.environ["ETCD_CA"])
    until = time.monotonic() + PATIENCE
    while True:
        try:
            make_users(etcd, os.environ["ETCD_PREFIX"])
        except OSError as error:  # not up yet, or without a leader
            if time.monotonic() > until:
                sys.exit(f"etcd does not answer: {error}")
            print(f"waiting for etcd: {error}", flush=True)
            time.sleep(PAUSE)
        except Refused as refused:
            sys.exit(
                f"etcd refused: {refused}; is root's password in the Secret another one than in etcd?"
            )
        else:
            print("etcd asks for its users from now on: root, admin, proxy", flush=True)
            return


if __name__ == "__main__":
    main()
