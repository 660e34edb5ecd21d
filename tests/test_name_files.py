"""What a machine says of names: its two files, sound, odd and changing."""

import os
from pathlib import Path

import pytest

from sniproxy.name_files import (
    LOOK_EVERY,
    Followed,
    ResolvConf,
    parse_hosts,
    parse_resolv_conf,
)

POD = """\
# as the kubelet writes it
search games.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.96.0.10
options ndots:5
"""


@pytest.mark.parametrize(
    ("text", "conf"),
    [
        ("", ResolvConf(("127.0.0.1",), (), 1)),
        (
            POD,
            ResolvConf(
                ("10.96.0.10",),
                ("games.svc.cluster.local", "svc.cluster.local", "cluster.local"),
                5,
            ),
        ),
        (
            "nameserver 10.0.0.1\nnameserver fd00::1\nnameserver fe80::1%eth0\n",
            ResolvConf(("10.0.0.1", "fd00::1", "fe80::1%eth0")),
        ),
        ("domain a.example\nsearch B.example. c", ResolvConf(search=("b.example", "c"))),
        ("search b\ndomain a.example", ResolvConf(search=("a.example",))),
        ("search a\nsearch", ResolvConf()),
        ("search .", ResolvConf()),
        ("options rotate ndots:2 timeout:1 ndots:x ndots: edns0", ResolvConf(ndots=2)),
        ("options ndots:99", ResolvConf(ndots=15)),
        (";nameserver 1.1.1.1\nnameserver dns.example\nnameserver\n\x00\nwhat", ResolvConf()),
        ("nameserver 9.9.9.9 # why", ResolvConf(("9.9.9.9",))),
    ],
)
def test_resolv_conf(text: str, conf: ResolvConf) -> None:
    assert parse_resolv_conf(text) == conf


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("gs-1", ("gs-1.a.b.", "gs-1.b.", "gs-1.")),
        ("gs-1.ns", ("gs-1.ns.a.b.", "gs-1.ns.b.", "gs-1.ns.")),
        ("x.gs-1.ns", ("x.gs-1.ns.", "x.gs-1.ns.a.b.", "x.gs-1.ns.b.")),
        ("gs-1.", ("gs-1.",)),
    ],
)
def test_names_are_completed_as_ndots_says(name: str, candidates: tuple[str, ...]) -> None:
    assert ResolvConf(search=("a.b", "b"), ndots=2).candidates(name) == candidates


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", {}),
        ("127.0.0.1 localhost\n::1 localhost", {"localhost": ("127.0.0.1", "::1")}),
        ("10.0.0.1\tGS-1  gs-1 # gs-2", {"gs-1": ("10.0.0.1",)}),
        ("#10.0.0.1 a\n10.0.0.2\nno.address b\n256.0.0.1 c\n", {}),
    ],
)
def test_hosts(text: str, hosts: dict[str, tuple[str, ...]]) -> None:
    assert parse_hosts(text) == hosts


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    """Written in place, replaced as Kubernetes does, gone, and back."""
    file = tmp_path / "hosts"
    followed = Followed(file, parse_hosts)
    assert followed.value(0) == {}
    file.write_text("10.0.0.1 a")
    assert followed.value(LOOK_EVERY - 0.01) == {}  # not looked at so soon
    assert followed.value(1) == {"a": ("10.0.0.1",)}
    file.write_text("10.0.0.2 a b")
    assert followed.value(2) == {"a": ("10.0.0.2",), "b": ("10.0.0.2",)}
    (tmp_path / "other").write_text("10.0.0.3 a c")
    os.replace(tmp_path / "other", file)
    assert followed.value(3) == {"a": ("10.0.0.3",), "c": ("10.0.0.3",)}
    file.unlink()
    assert followed.value(4) == {}
    file.write_text("10.0.0.4 a")
    assert followed.value(5) == {"a": ("10.0.0.4",)}


def test_a_file_that_cannot_be_read_any_more_says_what_it_said(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("10.0.0.1 a")
    followed = Followed(file, parse_hosts)
    assert followed.value(0) == {"a": ("10.0.0.1",)}
    file.unlink()
    file.mkdir()
    assert followed.value(1) == {"a": ("10.0.0.1",)}


def test_a_file_is_parsed_once_while_it_stays_as_it_is(tmp_path: Path) -> None:
    file, parsed = tmp_path / "hosts", list[str]()
    file.write_text("x\xff")
    followed = Followed(file, parsed.append)
    for now in range(5):
        followed.value(now)
    assert len(parsed) == 2  # the empty one, and the file
