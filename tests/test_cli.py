"""The commands as an operator meets them: exit codes, one line on stderr, and what the line says."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sniproxy import __version__
from sniproxy.cli import main
from tests.admin.gateway import ADMIN_KEY, KEYS, NODES, key_lines, ssl_object
from tests.admin.processes import PATIENCE, SNIPROXY, environment, run, start, wait_http
from tests.support.certificates import pair
from tests.support.ports import free_ports

FILE = """
stream_routes: [{id: lobby, sni: lobby.example.com, upstream_id: lobby}]
upstreams: [{id: lobby, nodes: {"10.0.0.5:7777": 1}}]
"""
EMPTY = "ssls: []\nupstreams: []\nservices: []\nstream_routes: []\n# end: 0 objects\n"
Settings = dict[str, str]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A store in a directory of its own, on ports that are free; this process knows no other settings."""
    for name in os.environ.keys() - environment({}).keys():
        monkeypatch.delenv(name)
    listener, admin, status = free_ports(3)
    return {
        "SNIPROXY_STORE": f"sqlite://{tmp_path}/config.db",
        "SNIPROXY_STATE_DIR": str(tmp_path),
        "SNIPROXY_ADMIN__ADDRESS": f"127.0.0.1:{admin}",
        "SNIPROXY_ADMIN__KEYS": json.dumps(KEYS),
        "SNIPROXY_STATUS__ADDRESS": f"127.0.0.1:{status}",
        "SNIPROXY_PROXY__LISTENERS": json.dumps(
            [{"address": f"127.0.0.1:{port}", "tls": True} for port in (listener, 0)]
        ),
    }


def invoke(settings: Mapping[str, str], *args: str, stdin: str | bytes = "") -> Result:
    """A command inside this process: its errors must not be exceptions."""
    result = CliRunner().invoke(main, args, env=dict(settings), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def refused(result: Result, *, code: int = 2) -> str:
    """The one line on stderr of a command that did nothing."""
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("sniproxy: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("sniproxy: ").rstrip("\n")


@pytest.mark.parametrize("option", ["--version", "--help", "-h"])
def test_the_command_itself(option: str) -> None:
    script = Path(sys.executable).with_name("sniproxy")
    for command in ((str(script),), SNIPROXY):
        done = subprocess.run([*command, option], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert (__version__ in done.stdout) is (option == "--version")
        assert ("quickstart" in done.stdout) is (option != "--version")


@pytest.mark.parametrize(
    "args", [["nonsense"], ["admin", "--nonsense"], ["apply"], ["apply", "-f", "/none"],
             ["apply", "-f", "/"], ["quickstart", "--games-from", "65534"],
             ["quickstart", "--games-from", "0"], ["dump", "-c", "/"]],
)  # fmt: skip
def test_wrong_usage_is_2(settings: Settings, args: list[str]) -> None:
    result = invoke(settings, *args)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Error: " in result.stderr


# -- settings


@pytest.mark.parametrize("command", ["admin", "proxy", "dump", "quickstart"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: "),
        (b"\xff\xfe\x00", "cannot be read: "),
        (b"[]", "expected keys and values, got list"),
        (b"admin: {addres: '127.0.0.1:1'}", "admin.addres: "),
        (b"adminn: {}", "adminn"),
        (b"store: mysql://x", "store: expected sqlite:///PATH, etcd://"),
        (b"admin: {address: nowhere}", "admin.address: expected HOST:PORT"),
        (b"proxy: {hello_timeout: 0}", "proxy.hello_timeout: "),
        (b"encryption: {keyring: [short]}", "encryption.keyring.0: expected base64 of 32 bytes"),
        (b"admin: {keys: [{name: a, key: short}]}", "admin.keys.0.key: "),
    ],
)
def test_a_bad_settings_file(tmp_path: Path, command: str, text: bytes | None, why: str) -> None:
    file = tmp_path / "sniproxy.yaml"
    if text is not None:
        file.write_bytes(text)
    data = ["--data-dir", str(tmp_path / "data")] if command == "quickstart" else []
    assert why in refused(invoke({}, command, "-c", str(file), *data))


def test_a_bad_environment(settings: Settings) -> None:
    why = refused(invoke(settings | {"SNIPROXY_ADMIN__KEYS": "[{"}, "admin"))
    assert why.startswith("environment: ")
    assert "JSON" in why


def test_admin_without_a_key_says_how_to_make_one(settings: Settings) -> None:
    del settings["SNIPROXY_ADMIN__KEYS"]
    done = run("admin", settings=settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sniproxy: admin.keys: not set: ")
    export = next(line for line in done.stderr.splitlines() if "export " in line)
    # what it says works: the shell makes a key, and the key is taken
    shell = f'{export}; printf %s "$SNIPROXY_ADMIN__KEYS"'
    made = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    settings |= {"SNIPROXY_ADMIN__KEYS": made, "SNIPROXY_ADMIN__ADDRESS": "127.0.0.1:1"}
    assert len(json.loads(made)[0]["key"]) == 32
    assert (
        "admin.keys" not in invoke(settings | {"SNIPROXY_STATE_DIR": "/dev/null"}, "admin").stderr
    )


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (
            "edd1c9f034335f136f87ad84b625c8f1",
            "this is a default key of APISIX that everybody knows",
        ),
        (
            "4054f7cf07e344346cd3f287985e76a2",
            "this is a default key of APISIX that everybody knows",
        ),
        ("", "String should have at least 16 characters"),
        ("fifteen-letters", "String should have at least 16 characters"),
    ],
)
def test_admin_with_a_key_that_anybody_could_guess(settings: Settings, key: str, why: str) -> None:
    keys = [KEYS[0], {"name": "x", "key": key, "role": "viewer"}]
    result = invoke(settings | {"SNIPROXY_ADMIN__KEYS": json.dumps(keys)}, "admin")
    line = refused(result)
    assert line.startswith(f"admin.keys.1.key: {why}")
    assert not key or key not in line


@pytest.mark.parametrize("command", ["proxy", "admin", "dump"])
def test_etcd_without_a_keyring(settings: Settings, command: str) -> None:
    settings["SNIPROXY_STORE"] = "etcd://127.0.0.1:1/apisix"
    why = refused(invoke(settings, command))
    assert why.startswith("encryption.keyring: not set: ")
    assert "openssl rand -base64 32" in why
    assert "SNIPROXY_ENCRYPTION__KEYRING=" in why


@pytest.mark.parametrize("command", ["proxy", "admin", "apply"])
def test_a_state_directory_that_cannot_be_written(settings: Settings, command: str) -> None:
    settings["SNIPROXY_STATE_DIR"] = "/proc/none"
    options = ["-f", "-"] if command == "apply" else []
    why = refused(invoke(settings, command, *options, stdin=FILE))
    assert why.startswith("state_dir: the key file /proc/none/keyring cannot be used: ")


@pytest.mark.parametrize(
    ("command", "taken", "setting"),
    [
        ("admin", "SNIPROXY_ADMIN__ADDRESS", "admin.address"),
        ("proxy", "SNIPROXY_STATUS__ADDRESS", "status.address"),
        ("proxy", "SNIPROXY_PROXY__LISTENERS", "proxy.listeners.0.address"),
    ],
)
def test_a_port_that_is_taken(settings: Settings, command: str, taken: str, setting: str) -> None:
    text = settings[taken]
    address = json.loads(text)[0]["address"] if text.startswith("[") else text
    port = int(address.rpartition(":")[2])
    settings["SNIPROXY_PROXY__MAX_SESSIONS"] = "100"  # descriptors for these there are
    with socket.create_server(("127.0.0.1", port)):
        done = run(command, settings=settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"sniproxy: {setting}: port {port} is taken (127.0.0.1:{port}): "
        "end the program that uses it, or choose another port\n"
    )


# -- apply and dump


def test_apply_from_a_file_and_from_stdin(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(FILE)
    result = invoke(settings, "apply", "-f", str(file))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "created upstreams/lobby",
        "created stream_routes/lobby",
        "2 objects applied",
    ]
    result = invoke(settings, "apply", "-f", "-", stdin=FILE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "replaced upstreams/lobby"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected lists named ssls"),
        ("upstreams: [", "neither YAML nor JSON: "),
        (b"upstreams: [{id: 1, desc: \xff}]", "neither YAML nor JSON: "),
        ("upstreams: [{id: 1}]", "upstreams[0] (id 1): invalid configuration: "),
        ("upstreams: [{id: 1, nodes: {}, discovery_args: {d: 2024-01-01}}]",
         "upstreams[0]: cannot be written as JSON: "),
        ("services: [{id: 1, upstream_id: 2}]", "services[0] (id 1): failed to fetch upstream info"),
    ],
)  # fmt: skip
def test_a_file_that_is_refused(settings: Settings, text: str | bytes, why: str) -> None:
    assert invoke(settings, "keyring", "rotate").exit_code == 0  # makes a key and a store
    assert refused(invoke(settings, "apply", "-f", "-", stdin=text)).startswith(why)
    assert run("dump", settings=settings).stdout.endswith("Z, store revision 0\n" + EMPTY)


def test_dump_and_apply_with_the_same_keyring(settings: Settings, tmp_path: Path) -> None:
    objects = {"ssls": [ssl_object(id=1)], "upstreams": [{"id": 2, "nodes": NODES}]}
    assert invoke(settings, "apply", "-f", "-", stdin=json.dumps(objects)).exit_code == 0
    first = run("dump", settings=settings)
    assert (first.returncode, first.stderr) == (0, "")
    assert not any(line in first.stdout for line in key_lines("play.example.com"))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(tmp_path / "keyring", elsewhere)
    there = settings | {
        "SNIPROXY_STORE": f"sqlite://{elsewhere}/config.db",
        "SNIPROXY_STATE_DIR": str(elsewhere),
    }
    assert invoke(there, "apply", "-f", "-", stdin=first.stdout).exit_code == 0
    again = run("dump", settings=there)
    assert again.stdout.count("aes256gcm:") == 1
    assert without_ciphertext(again.stdout) == without_ciphertext(first.stdout)

    (elsewhere / "keyring").unlink()
    why = refused(invoke(there, "apply", "-f", "-", stdin=first.stdout))
    assert why.startswith("ssls[0] (id 1): invalid configuration: ssls/1/key: encrypted under key ")


def without_ciphertext(text: str) -> list[str]:
    """Nor times and revisions: what must be the same in two dumps."""
    fresh = ("aes256gcm:", "_time: ", "# sniproxy ")
    return [line for line in text.splitlines() if not any(word in line for word in fresh)]


def test_dump_into_a_reader_that_has_enough(settings: Settings) -> None:
    objects = {"upstreams": [{"id": n, "nodes": NODES, "desc": "x" * 256} for n in range(1, 400)]}
    assert invoke(settings, "apply", "-f", "-", stdin=json.dumps(objects)).exit_code == 0
    command = [*SNIPROXY, "dump"]
    with subprocess.Popen(
        command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"# sniproxy ")
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("store", ["/proc/none/config.db", "/etc/hostname"])
def test_a_store_that_cannot_be_used_is_1(settings: Settings, store: str) -> None:
    settings["SNIPROXY_STORE"] = f"sqlite://{store}"
    why = refused(invoke(settings, "apply", "-f", "-", stdin=FILE), code=1)
    assert why.startswith(f"0 of 2 written, then upstreams[0]: store file {store}: ")


@pytest.fixture
def running(settings: Settings) -> Iterator[str]:
    """The address of an admin API that runs."""
    process = start("admin", settings=settings)
    try:
        address = f"http://{settings['SNIPROXY_ADMIN__ADDRESS']}"
        wait_http(address, process)
        yield address
    finally:
        process.kill()
        process.communicate()


def test_apply_and_dump_through_the_api(settings: Settings, running: str) -> None:
    objects = json.dumps({"ssls": [ssl_object(id=1)]})
    for address in (running, running + "/", running + "/apisix/admin", running + "/apisix/admin/"):
        result = invoke(
            {"SNIPROXY_KEY": ADMIN_KEY}, "apply", "--admin", address, "-f", "-", stdin=objects
        )
        assert (result.exit_code, result.stderr) == (0, "")
    done = run("dump", "--admin", running, "--key", ADMIN_KEY, settings={})
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "gives out no private keys" in done.stderr
    assert "snis:" in done.stdout
    assert not re.search("^ +keys?:", done.stdout, re.MULTILINE)


def test_what_the_api_refuses(settings: Settings, running: str) -> None:
    def through(stdin: str, key: str = ADMIN_KEY) -> Result:
        return invoke({}, "apply", "--admin", running, "--key", key, "-f", "-", stdin=stdin)

    assert "HTTP 401: wrong apikey" in refused(through(FILE, "no-key-of-anybody"), code=1)
    viewer = refused(through(FILE, KEYS[1]["key"]), code=1)
    assert "0 of 2 written" in viewer
    assert "HTTP 401: invalid method for role viewer" in viewer
    wrong = json.dumps({"ssls": [ssl_object(id=1, key=pair("other.example.com")[1])]})
    assert "ssls[0] (id 1): " in refused(through(wrong))


@pytest.mark.parametrize(
    ("url", "key", "code", "why"),
    [
        (
            "http://127.0.0.1:1",
            None,
            2,
            "--key: not set: the admin API wants one; set SNIPROXY_KEY",
        ),
        ("http://127.0.0.1:1", "ключ", 2, "--key: a character that no header can carry"),
        ("http://127.0.0.1:1", "line\n", 2, "--key: a character that no header can carry"),
        ("http://127.0.0.1:1", "x", 1, "http://127.0.0.1:1/apisix/admin/: "),
        ("127.0.0.1:1", "x", 1, "127.0.0.1:1/apisix/admin/: "),
        ("", "x", 1, "/apisix/admin/: "),
    ],
)
def test_an_api_that_cannot_be_asked(url: str, key: str | None, code: int, why: str) -> None:
    given: list[Any] = [] if key is None else ["--key", key]
    result = invoke({}, "apply", "--admin", url, *given, "-f", "-", stdin=FILE)
    line = refused(result, code=code)
    assert line.removeprefix("0 of 2 written, then upstreams[0]: ").startswith(why)
    assert "ключ" not in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_proxy_with_0(settings: Settings, number: signal.Signals) -> None:
    process = start("proxy", settings=settings)
    try:
        wait_http(f"http://{settings['SNIPROXY_STATUS__ADDRESS']}", process)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    (stopping,) = (line for line in lines if line["event"] == "stopping")
    assert stopping["signal"] == number.name
    assert (lines[-1]["event"], lines[-1]["phase"]) == ("draining", "over")


def test_signals_that_come_while_a_proxy_ends_do_not_change_its_code(settings: Settings) -> None:
    process = start("proxy", settings=settings)
    try:
        wait_http(f"http://{settings['SNIPROXY_STATUS__ADDRESS']}", process)
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.002)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
    assert [json.loads(line)["event"] for line in out.splitlines()].count("stopping") == 1


def test_conformance_tells_the_names_to_route_without_a_proxy(settings: Settings) -> None:
    result = invoke(settings, "conformance", "--names")
    assert result.exit_code == 0
    assert "play.conformance.test" in result.output.splitlines()


def test_conformance_against_nobody_is_2(settings: Settings) -> None:
    result = invoke(settings, "conformance", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "no proxy at 127.0.0.1:1" in result.stderr
