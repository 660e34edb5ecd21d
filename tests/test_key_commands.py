"""`sniproxy keyring` as an operator meets it: what is shown, exit codes, and what stderr says."""

import json
import signal
import socket
from pathlib import Path

import pytest

from sniproxy.keyring import Keyring
from sniproxy.keyring_file import KeyFile
from tests.admin.gateway import NODES, key_lines, ssl_object
from tests.admin.processes import PATIENCE, start
from tests.test_cli import Settings, invoke, refused, settings
from tests.test_keyring import APISIX_16, OTHER, OURS

__all__ = ["settings"]
OBJECTS = {
    "ssls": [ssl_object(id=1), ssl_object("other.example.com", id=2)],
    "upstreams": [{"id": 2, "nodes": NODES}],
}


def under(*entries: str) -> dict[str, str]:
    """The setting."""
    return {"SNIPROXY_ENCRYPTION__KEYRING": json.dumps(entries)}


def id_of(entry: str) -> str:
    return Keyring([entry]).writer.id


def fill(settings: Settings) -> None:
    assert invoke(settings, "apply", "-f", "-", stdin=json.dumps(OBJECTS)).exit_code == 0


def shown(settings: Settings) -> list[list[str]]:
    """The table of `status`, by words."""
    result = invoke(settings, "keyring", "status")
    assert (result.exit_code, result.stderr) == (0, "")
    return [line.split() for line in result.stdout.splitlines()[1:]]


def done(settings: Settings, *options: str) -> str:
    """What `rotate` says."""
    result = invoke(settings, "keyring", "rotate", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_status_and_rotate_under_keys_that_are_set(settings: Settings) -> None:
    fill(settings | under(OURS))
    both = settings | under(OTHER, OURS, APISIX_16)
    result = invoke(both, "keyring", "status")
    assert result.stdout == (
        "key           form       private keys\n"
        f"{id_of(OTHER)}      aes256gcm             0  writes\n"
        f"{id_of(OURS)}      aes256gcm             2\n"
        f"{id_of(APISIX_16)}      apisix                0  a default of APISIX\n"
        "in clear                            0\n"
        "no key opens                        0\n"
    )
    said = done(both, "--dry-run")
    assert said == "2 private keys in 2 objects would be encrypted under the first key\n"
    assert shown(both)[1][2] == "2"
    assert done(both) == f"all 2 private keys are under key {id_of(OTHER)} (aes256gcm)\n"
    assert done(both) == f"all 2 private keys are under key {id_of(OTHER)} (aes256gcm)\n"
    assert done(both, "--dry-run").startswith("0 private keys in 0 objects")
    assert done(settings | under(APISIX_16, OTHER)).endswith(f"{id_of(APISIX_16)} (apisix)\n")
    rows = shown(settings | under(APISIX_16))
    assert rows[0] == f"{id_of(APISIX_16)} apisix 2 writes, a default of APISIX".split()


def test_a_new_key_in_the_kept_file(settings: Settings, tmp_path: Path) -> None:
    fill(settings)
    (first,) = KeyFile(tmp_path / "keyring").read()
    said = done(settings, "--new-key", "--dry-run")
    assert said == "2 private keys would be encrypted under a new key\n"
    assert KeyFile(tmp_path / "keyring").read() == [first]
    said = done(settings, "--new-key")
    new, old = KeyFile(tmp_path / "keyring").read()
    assert old == first
    assert said == f"all 2 private keys are under key {id_of(new)} (aes256gcm)\n"
    assert [row[:3] for row in shown(settings)[:2]] == [
        [id_of(new), "aes256gcm", "2"],
        [id_of(old), "aes256gcm", "0"],
    ]


LOOKS = [
    ["keyring", "status"],
    ["keyring", "rotate", "--dry-run"],
    ["keyring", "rotate", "--new-key", "--dry-run"],
    ["dump"],
    ["explain", "play.example.com"],
]


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_who_only_looks_makes_nothing(
    settings: Settings, tmp_path: Path, command: list[str]
) -> None:
    """What root makes before the first start, sniproxy could not use."""
    why = refused(invoke(settings, *command), code=1)
    assert why == (
        f"there is no key yet: no file {tmp_path}/keyring: it is made when sniproxy first starts"
    )
    if "--new-key" not in command:
        why = refused(invoke(settings | under(OURS), *command), code=1)
        assert why == f"store file {tmp_path}/config.db: there is none yet"
    assert list(tmp_path.iterdir()) == []


def test_settings_are_looked_at_before_the_first_start(settings: Settings, tmp_path: Path) -> None:
    assert invoke(settings, "proxy", "--check").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_new_key_where_the_keyring_is_set(settings: Settings, tmp_path: Path) -> None:
    why = refused(invoke(settings | under(OURS), "keyring", "rotate", "--new-key"))
    assert why.startswith("--new-key: encryption.keyring is set: ")
    assert not (tmp_path / "keyring").exists()


def test_a_damaged_file_gets_no_new_key(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "keyring").write_text("damaged\n")
    why = refused(invoke(settings, "keyring", "rotate", "--new-key"))
    assert why.startswith("encryption.keyring: the key file ")
    assert (tmp_path / "keyring").read_text() == "damaged\n"


def test_keys_that_do_not_open_are_named_and_left_alone(settings: Settings) -> None:
    fill(settings | under(OURS))
    lost = f"ssls/{{0}} is left as it is: ssls/{{0}}/key: encrypted under key {id_of(OURS)}, which "
    for command in (["rotate"], ["rotate", "--dry-run"], ["status"]):
        result = invoke(settings | under(OTHER), "keyring", *command)
        lines = result.stderr.splitlines()
        assert [line.startswith("sniproxy: ") for line in lines] == [True] * len(lines)
        for number, line in enumerate(lines[:2], 1):
            assert line.removeprefix("sniproxy: ").startswith(lost.format(number))
        fails = command == ["rotate"]
        assert result.exit_code == int(fails)
        assert len(lines) == 2 + fails
    result = invoke(settings | under(OTHER), "keyring", "rotate")
    assert result.stderr.splitlines()[-1].startswith(
        "sniproxy: 2 private keys do not open: add the key"
    )
    assert not any(line in result.output for line in key_lines("play.example.com"))
    assert shown(settings | under(OURS))[0][2] == "2"


@pytest.mark.parametrize("command", ["status", "rotate"])
def test_what_cannot_be_used_is_refused(settings: Settings, command: str) -> None:
    assert invoke(settings, "keyring", command, "extra").exit_code == 2
    etcd = settings | {"SNIPROXY_STORE": "etcd://127.0.0.1:1"}
    assert refused(invoke(etcd, "keyring", command)).startswith("encryption.keyring: not set: ")
    away = etcd | under(OURS)
    assert refused(invoke(away, "keyring", command), code=1).startswith("etcd does not answer: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped(settings: Settings, number: signal.Signals) -> None:
    """While an etcd is waited for that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        etcd = {
            "SNIPROXY_STORE": f"etcd://127.0.0.1:{silent.getsockname()[1]}",
            "SNIPROXY_ETCD__TIMEOUT": "60",
        }
        rotating = start("keyring", "rotate", settings=settings | under(OURS) | etcd)
        with silent.accept()[0]:
            rotating.send_signal(number)
            _, said = rotating.communicate(timeout=PATIENCE)
    assert rotating.returncode == 130, said
    assert said == "stopped; what is done is done: run again: sniproxy keyring rotate\n"
