"""Settings: which layer wins, what is refused and by which name, and that no secret is shown."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from annotated_types import Ge, Gt

from sniproxy.errors import SettingsError
from sniproxy.settings import (
    PUBLISHED_KEYS,
    Admin,
    AdminKey,
    Encryption,
    Etcd,
    EtcdUrl,
    Listener,
    Proxy,
    Settings,
    SqliteUrl,
    keyring_secret,
    load_settings,
    new_admin_key,
    split_address,
    store_url,
)

SECRET = "sesame-open-thyself"
GOOD_KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("SNIPROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test may write its settings file."""
    return tmp_path / "sniproxy.yaml"


def refusal(file: Path | None = None, flags: dict[str, Any] | None = None) -> str:
    """The message with which settings are refused, without the file's name before it."""
    with pytest.raises(SettingsError) as refused:
        load_settings(file, flags)
    return str(refused.value).removeprefix(f"{file}: ")


def test_without_anything_the_defaults_hold() -> None:
    assert load_settings() == Settings()


def test_flags_over_environment_over_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("proxy: {hello_timeout: 1, connect_timeout: 1, idle_timeout: 1, backlog: 1}")
    monkeypatch.setenv("SNIPROXY_PROXY__CONNECT_TIMEOUT", "2")
    monkeypatch.setenv("SNIPROXY_PROXY__IDLE_TIMEOUT", "2")
    settings = load_settings(file, {"proxy": {"idle_timeout": 3}})
    proxy = settings.proxy
    assert (proxy.hello_timeout, proxy.connect_timeout, proxy.idle_timeout) == (1, 2, 3)
    assert proxy.backlog == 1
    assert proxy.max_hello == Proxy().max_hello
    assert settings.status == Settings().status


def test_the_environment_gives_lists_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    listeners = [{"address": "[::]:1", "tls": True}]
    monkeypatch.setenv("SNIPROXY_PROXY__LISTENERS", json.dumps(listeners))
    monkeypatch.setenv("SNIPROXY_STORE", "etcd://h:2379")
    monkeypatch.setenv("SNIPROXY_ENCRYPTION__KEYRING", json.dumps([GOOD_KEY]))
    settings = load_settings()
    assert settings.proxy.listeners == (Listener(address="[::]:1", tls=True),)
    assert settings.where == EtcdUrl(endpoints=("http://h:2379",), prefix="/apisix")
    assert settings.encryption.keyring == (GOOD_KEY,)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}", "---\n"])
def test_an_empty_file_sets_nothing(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_settings(file) == Settings()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("store: [", "cannot be read: while parsing a flow node"),
        ("a: b: c", "cannot be read: mapping values are not allowed here"),
        ("store: 2020-13-45", "cannot be read: month must be in 1..12"),
        ("!!python/name:os.system x", "cannot be read: could not determine a constructor"),
        ("- store", "expected keys and values, got list"),
        ("store", "expected keys and values, got str"),
        ("1: 2", "1 is not the name of a setting"),
        ("on: x", "True is not the name of a setting"),
    ],
)
def test_a_file_that_says_nothing(file: Path, text: str, why: str) -> None:
    file.write_text(text)
    assert refusal(file).startswith(why)


def test_files_that_cannot_be_read(file: Path) -> None:
    assert refusal(file) == f"cannot be read: [Errno 2] No such file or directory: '{file}'"
    assert refusal(file.parent).startswith("cannot be read: [Errno 21] Is a directory")
    file.write_bytes(b"store: \xff")
    assert refusal(file).startswith("cannot be read: 'utf-8' codec can't decode byte 0xff")


LIMITS = [name for name, value in Proxy().model_dump().items() if isinstance(value, int | float)]
MAY_BE_OFF = {
    "notsent_lowat",
    "refused_log_interval",
    "refused_kept",
    "relay_pipes",
    "defer_accept",
}  # by 0
NOT_AN_ADDRESS = "expected HOST:PORT, such as 127.0.0.1:8888 or [::]:8888"
NOT_A_NETWORK = "does not appear to be an IPv4 or IPv6 network"
OURS = "/sniproxy/ is where sniproxy keeps its own keys: name another prefix"
NOT_A_STORE = "expected sqlite:///PATH, etcd://HOST:PORT/PREFIX or etcds://HOST:PORT/PREFIX"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"proxi": {}}, "proxi: Extra inputs are not permitted"),
        ({"proxy": {"helo_timeout": 1}}, "proxy.helo_timeout: Extra inputs are not permitted"),
        ({"proxy": 5}, "proxy: Input should be a valid dictionary or instance of Proxy"),
        ({"proxy": None}, "proxy: Input should be a valid dictionary or instance of Proxy"),
        ({"proxy": {1: 2}}, "proxy.1: Keys should be strings"),
        (
            {"proxy": {"hello_timeout": "soon"}},
            "proxy.hello_timeout: Input should be a valid number, unable to parse string as a number",
        ),
        ({"proxy": {"hello_timeout": float("nan")}}, "proxy.hello_timeout: Input should be a finite number"),
        (
            {"proxy": {"max_sessions": 1.5}},
            "proxy.max_sessions: Input should be a valid integer, got a number with a fractional part",
        ),
        ({"proxy": {"max_hello": 16 * 1024 - 1}}, "proxy.max_hello: Input should be greater than or equal to 16384"),
        ({"proxy": {"max_hello": 2**24 + 1}}, "proxy.max_hello: Input should be less than or equal to 16777216"),
        ({"proxy": {"listeners": [{}]}}, "proxy.listeners.0.address: Field required"),
        ({"proxy": {"listeners": [{"address": "x"}]}}, f"proxy.listeners.0.address: {NOT_AN_ADDRESS}"),
        ({"proxy": {"listeners": [{"address": "h:1", "ssl": 1}]}}, "proxy.listeners.0.ssl: Extra inputs are not permitted"),
        ({"proxy": {"listeners": "h:1"}}, "proxy.listeners: Input should be a valid tuple"),
        ({"admin": {"address": ""}}, f"admin.address: {NOT_AN_ADDRESS}"),
        (
            {"admin": {"keys": [{"name": "ops", "key": "k" * 15}]}},
            "admin.keys.0.key: String should have at least 16 characters",
        ),
        (
            {"admin": {"keys": [{"name": "ops", "key": "k" * 16, "role": "root"}]}},
            "admin.keys.0.role: Input should be 'admin' or 'viewer'",
        ),
        ({"admin": {"keys": [{"name": "ops", "key": "k" * 16}, {"key": "k" * 16}]}}, "admin.keys.1.name: Field required"),
        ({"admin": {"allow": ["10.0.0.0/33"]}}, f"admin.allow.0: '10.0.0.0/33' {NOT_A_NETWORK}"),
        ({"admin": {"cert_file": "c.pem"}}, "admin: cert_file and key_file are given together, or neither"),
        ({"admin": {"key_file": "k.pem"}}, "admin: cert_file and key_file are given together, or neither"),
        (
            {"admin": {"client_ca_file": "ca.pem"}},
            "admin: client_ca_file needs cert_file and key_file: without them it is HTTP",
        ),
        ({"status": {"address": "h"}}, f"status.address: {NOT_AN_ADDRESS}"),
        ({"store": "redis://h"}, f"store: {NOT_A_STORE}"),
        ({"store": 5}, "store: Input should be a valid string"),
        ({"state_dir": 5}, "state_dir: Input is not a valid path for <class 'pathlib.Path'>"),
        ({"etcd": {"timeout": 0}}, "etcd.timeout: Input should be greater than 0"),
        (
            {"encryption": {"keyring": ["short"]}},
            "encryption.keyring.0: expected base64 of 32 bytes; make one with: openssl rand -base64 32",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(file: Path, flags: dict[str, Any], why: str) -> None:
    assert refusal(None, flags) == why
    file.write_text(yaml.safe_dump(flags))
    assert refusal(file) == why


NOT_JSON = (
    'environment: error parsing value for field "{}" from source "EnvSettingsSource": '
    "lists and objects are given as JSON"
)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SNIPROXY_STORE", "x", f"store: {NOT_A_STORE}"),
        ("sniproxy_store", "x", f"store: {NOT_A_STORE}"),
        ("SNIPROXY_PROXY__HELO_TIMEOUT", "1", "proxy.helo_timeout: Extra inputs are not permitted"),
        ("SNIPROXY_PROXY__BACKLOG", "0", "proxy.backlog: Input should be greater than or equal to 1"),
        (
            "SNIPROXY_PROXY",
            "{",
            NOT_JSON.format("proxy"),
        ),
        (
            "SNIPROXY_ADMIN__KEYS",
            f"[{SECRET}]",
            NOT_JSON.format("admin"),
        ),
    ],
)  # fmt: skip
def test_what_the_environment_gets_wrong(
    name: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal() == why


@pytest.mark.parametrize("key", sorted(PUBLISHED_KEYS))
def test_a_key_that_apisix_published_is_refused(key: str) -> None:
    assert refusal(None, {"admin": {"keys": [{"name": "ops", "key": key}]}}) == (
        "admin.keys.0.key: this is a default key of APISIX that everybody knows; make your own"
    )


def test_every_limit_has_a_positive_default_and_refuses_zero() -> None:
    assert {"max_sessions", "hello_timeout", "idle_timeout", "relay_buffer"} <= set(LIMITS)
    for name in LIMITS:
        assert getattr(Proxy(), name) > 0
        if name not in MAY_BE_OFF:
            assert refusal(None, {"proxy": {name: 0}}).startswith(
                f"proxy.{name}: Input should be g"
            )
        assert refusal(None, {"proxy": {name: -1}}).startswith(f"proxy.{name}: Input should be g")
        bounds = Proxy.model_fields[name].metadata
        assert any(isinstance(bound, Gt | Ge) for bound in bounds)


def test_what_bounds_another_limit_leaves_it_room() -> None:
    proxy = Proxy()
    assert proxy.max_hello_raw > proxy.max_hello  # record headers
    assert proxy.store_retry_max >= proxy.store_retry


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///var/lib/x.db", SqliteUrl(path=Path("/var/lib/x.db"))),
        ("sqlite:///x", SqliteUrl(path=Path("/x"))),
        ("etcd://h:2379", EtcdUrl(endpoints=("http://h:2379",), prefix="/apisix")),
        ("etcd://h:2379/", EtcdUrl(endpoints=("http://h:2379",), prefix="/apisix")),
        ("etcd://h:1,10.0.0.1:2/a/b/", EtcdUrl(endpoints=("http://h:1", "http://10.0.0.1:2"), prefix="/a/b")),
        ("etcds://[::1]:2379/x", EtcdUrl(endpoints=("https://[::1]:2379",), prefix="/x")),
        ("etcd://h:1,", EtcdUrl(endpoints=("http://h:1",), prefix="/apisix")),
    ],
)  # fmt: skip
def test_stores(url: str, expected: SqliteUrl | EtcdUrl) -> None:
    assert store_url(url) == expected
    assert Settings(store=url).where == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", NOT_A_STORE),
        ("x.db", NOT_A_STORE),
        ("/var/lib/x.db", NOT_A_STORE),
        ("http://h:2379", NOT_A_STORE),
        ("sqlite://", "expected sqlite:///absolute/path/config.db, with three slashes"),
        ("sqlite:///", "expected sqlite:///absolute/path/config.db, with three slashes"),
        ("sqlite://x.db", "expected sqlite:///absolute/path/config.db, with three slashes"),
        ("sqlite://var/x.db", "expected sqlite:///absolute/path/config.db, with three slashes"),
        ("sqlite:x.db", "expected sqlite:///absolute/path/config.db, with three slashes"),
        ("etcd://", "expected etcd://HOST:2379,HOST:2379/apisix"),
        ("etcd:///apisix", "expected etcd://HOST:2379,HOST:2379/apisix"),
        ("etcd://h:1/sniproxy", OURS),
        ("etcd://h:1/sniproxy/apisix/", OURS),
        ("etcd://h", NOT_AN_ADDRESS),
        ("etcd://h:1,k", NOT_AN_ADDRESS),
        ("etcd://h:65536", NOT_AN_ADDRESS),
        ("etcd://[::1", "Invalid IPv6 URL"),
        (f"etcd://u:{SECRET}@h:1", "user and password stand in etcd.user and etcd.password"),
    ],
)
def test_not_a_store(url: str, why: str) -> None:
    assert refusal(None, {"store": url}) == f"store: {why}"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("0.0.0.0:8888", ("0.0.0.0", 8888)),
        ("[::]:8888", ("::", 8888)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        *("", ":", "h", "h:", ":80", "[]:80", "[::1]", "[::g]:1", "a:b:1"),
        *("h:x", "h:65536", "h:-1", "h:+1", "h: 1", "h:1 ", "h:٨", "h:1_0"),
    ],
)
def test_not_an_address(address: str) -> None:
    assert refusal(None, {"admin": {"address": address}}).startswith("admin.address: ")


@pytest.mark.parametrize(
    ("entry", "secret"),
    [
        (GOOD_KEY, b"k" * 32),
        ("qeddd145sfvddff3", b"qeddd145sfvddff3"),
        ("0123456789abcdef" * 2, b"0123456789abcdef" * 2),
    ],
)
def test_keyring_entries(entry: str, secret: bytes) -> None:
    assert keyring_secret(entry) == secret


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "x" * 15,
        "x" * 31,
        "x" * 33,
        "é" * 16,
        "é" * 32,
        GOOD_KEY[:-1],
        GOOD_KEY + "\n",
        "%" * 44,
    ],
)
def test_not_a_keyring_entry(entry: str) -> None:
    why = "expected base64 of 32 bytes; make one with: openssl rand -base64 32"
    assert refusal(None, {"encryption": {"keyring": [GOOD_KEY, entry]}}) == (
        f"encryption.keyring.1: {why}"
    )


@pytest.mark.parametrize(
    ("tls", "tls_passthrough", "asked", "is_tls", "passes"),
    [
        (True, True, True, True, True),
        (True, True, False, True, False),
        (True, False, True, True, False),
        (True, False, False, True, False),
        (False, True, True, True, True),
        (False, True, False, True, True),
        (False, False, True, False, False),
        (False, False, False, False, False),
    ],
)
def test_what_a_listener_does_with_tls(
    tls: bool, tls_passthrough: bool, asked: bool, is_tls: bool, passes: bool
) -> None:
    listener = Listener(address="h:1", tls=tls, tls_passthrough=tls_passthrough)
    assert (listener.is_tls, listener.passes_through(asked=asked)) == (is_tls, passes)


def test_secrets_are_not_shown() -> None:
    secret = SECRET[:16]
    settings = Settings(
        admin=Admin(keys=(AdminKey(name="ops", key=secret),)),
        etcd=Etcd(password=secret),
        encryption=Encryption(keyring=(secret,)),
    )
    assert secret not in repr(settings)
    assert secret not in str(settings)
    assert "ops" in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        f"admin: {{keys: [{{name: ops, key: '{SECRET}}}]}}",
        f"etcd: {{password: {SECRET}: x}}",
        f"admin: {{keys: [{{name: ops, key: [{SECRET}]}}]}}",
        f"encryption: {{keyring: [{SECRET}]}}",
        f"store: etcd://root:{SECRET}@h:2379",
    ],
)
def test_a_message_quotes_no_secret(file: Path, text: str) -> None:
    file.write_text(text)
    assert SECRET not in refusal(file)


def test_settings_are_never_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().proxy.backlog = 1  # type: ignore[misc]


def test_a_new_admin_key_is_one_that_is_accepted() -> None:
    keys = {new_admin_key() for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        assert AdminKey(name="ops", key=key).key == key
