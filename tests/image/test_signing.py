"""Scan, signature and its verification go by the digest, and by nothing else."""

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from tests.image.making import make, pinned
from tests.image.reading import FOLDER
from tests.support.ports import free_ports

DIGEST = "sha256:" + "5" * 64
PLATFORMS = ("linux/amd64", "linux/arm64")
PARTS = "opt/sniproxy/share/sniproxy.cdx.json"
NO_TOOLS = ("COSIGN=none", "CRANE=none", "GRYPE=none")  # those of PATH are taken


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for programs that only note what they are told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def stand_in(folder: Path, name: str, script: str = "") -> None:
    program = folder / name
    program.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/told\n{script}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def run(tools: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """With those programs in front of all others, and a folder of its own for what is made."""
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    build = f"IMAGE_BUILD={tools.parent / 'build'}"
    return make(*words, build, "IMAGE=r.example/sniproxy", *NO_TOOLS, environment=path)


def told(tools: Path) -> list[str]:
    file = tools / "told"
    return file.read_text().splitlines() if file.exists() else []


def buildx(digest: str) -> str:
    """What buildx writes where --metadata-file says, in its form."""
    said = {
        "buildx.build.ref": "default/default/x",
        "containerimage.descriptor": {"digest": "sha256:" + "9" * 64, "size": 1609},
        "containerimage.digest": digest,
        "image.name": "r.example/sniproxy:0.1.0",
    }
    return (
        'while [ "$1" != --metadata-file ]; do shift; done\n'
        f"cat > $2 <<'END'\n{json.dumps(said, indent=2)}\nEND"
    )


def test_the_digest_of_what_was_pushed_is_kept(tools: Path) -> None:
    stand_in(tools, "docker", buildx(DIGEST))
    stand_in(tools, "grype")
    done = run(tools, "image", "ARGUMENTS=--push")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"r.example/sniproxy@{DIGEST}"
    assert run(tools, "image-scan").returncode == 0
    assert [line.split()[-1] for line in told(tools) if line.startswith("grype")] == [
        f"registry:r.example/sniproxy@{DIGEST}"
    ] * len(PLATFORMS)
    # and a build that fails leaves none of an earlier one
    stand_in(tools, "docker", "exit 1")
    assert run(tools, "image", "ARGUMENTS=--push").returncode != 0
    done = run(tools, "image-scan")
    assert done.returncode != 0
    assert "no digest of the image: `make image ARGUMENTS=--push` comes first" in done.stderr


@pytest.mark.parametrize("target", ["image-scan", "image-sign", "image-verify"])
@pytest.mark.parametrize("digest", ["", "0.1.0", DIGEST[:-1], f"{DIGEST}0", "sha512:" + "5" * 64])
def test_what_is_no_digest_is_refused(tools: Path, target: str, digest: str) -> None:
    for name in ("cosign", "crane", "grype"):
        stand_in(tools, name)
    done = run(tools, target, f"DIGEST={digest}")
    assert done.returncode != 0
    assert "no digest of the image" in done.stderr
    assert told(tools) == []


@pytest.mark.parametrize(
    ("target", "tool"),
    [("image-scan", "grype"), ("image-sign", "cosign"), ("image-sign", "crane"), ("image-verify", "cosign")],
)  # fmt: skip
def test_a_tool_that_is_not_there(tools: Path, target: str, tool: str) -> None:
    for name in {"cosign", "crane", "grype"} - {tool}:
        stand_in(tools, name)
    for name in ("sed", "grep", "awk", "date", "mkdir", "tar"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    done = make(target, f"DIGEST={DIGEST}", *NO_TOOLS, environment={"PATH": str(tools)})
    assert done.returncode != 0
    assert (
        f"{tool} is not there: `make release-tools` builds it with Go, or install {pinned(tool)}"
        in done.stderr
    )
    assert told(tools) == []


@pytest.mark.parametrize("failing", PLATFORMS)
def test_each_platform_is_scanned(tools: Path, failing: str) -> None:
    stand_in(tools, "grype", f'case "$*" in *{failing}*) exit 2;; esac')
    done = run(tools, "image-scan", f"DIGEST={DIGEST}")
    assert done.returncode != 0
    assert [line for line in told(tools) if "--fail-on high" in line] == told(tools)
    assert [re.findall(r"--platform (\S+)", line) for line in told(tools)] == [[one] for one in PLATFORMS]  # fmt: skip


def test_what_is_signed_and_verified_goes_by_the_digest(tools: Path) -> None:
    """And the signature comes last, so that an image which is signed has all of its lists of parts."""
    reference = f"r.example/sniproxy@{DIGEST}"
    parts = tools / PARTS
    parts.parent.mkdir(parents=True)
    parts.write_text("{}")
    stand_in(tools, "crane", f"tar -C {tools} -c {PARTS}")
    stand_in(tools, "cosign")
    for target in ("image-sign", "image-verify"):
        done = run(tools, target, f"DIGEST={DIGEST}")
        assert done.returncode == 0, done.stderr
    assert [line for line in told(tools) if reference not in line.split()] == []
    assert [" ".join(line.split()[:2]) for line in told(tools)] == [
        *["crane export", "cosign attest"] * len(PLATFORMS),
        "cosign sign",
        "cosign verify",
        "cosign verify-attestation",
    ]


def test_accepted_findings_are_left_out_of_the_scan(tools: Path) -> None:
    (tools / "accepted").write_text("CVE-1 until:9999-01-01\nCVE-2 until:9999-01-01\nCVE-3\n")
    stand_in(tools, "grype", 'cat "$2"')
    done = run(tools, "image-scan", f"DIGEST={DIGEST}", f"ACCEPTED={tools / 'accepted'}")
    assert done.returncode == 0, done.stderr
    assert "ignore: [{vulnerability: CVE-1}, {vulnerability: CVE-2},]\n" in done.stdout


# -- With cosign and crane themselves. They take a minute to build, so CI goes without: `make release-tools` builds them --


def real(name: str) -> str:
    built = FOLDER / ".cache" / f"{name}-{pinned(name)}" / name
    found = str(built) if built.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}: make release-tools")
    return found


@dataclass
class Registry:
    """One on 127.0.0.1, with what is needed to sign what is in it."""

    repository: str
    folder: Path

    def crane(self, *words: str) -> str:
        return subprocess.run(
            [real("crane"), *words], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()  # fmt: skip

    def push(self, content: str, path: str = PARTS) -> str:
        """The digest of an index; each platform's image has one file in it, with its own name after the content."""
        images = []
        for platform in PLATFORMS:
            layer = self.folder / "layer.tar"
            with tarfile.open(layer, "w") as tar:
                file = tarfile.TarInfo(path)
                data = json.dumps({"bomFormat": "CycloneDX", "serialNumber": content + platform}).encode()  # fmt: skip
                file.size = len(data)
                tar.addfile(file, BytesIO(data))
            tag = f"{self.repository}:{platform.replace('/', '-')}"
            self.crane("append", "-f", str(layer), "-t", tag)
            images.append(self.crane("mutate", "--set-platform", platform, "-t", tag, tag))
        manifests = [word for image in images for word in ("-m", image)]
        index = self.crane("index", "append", *manifests, "-t", f"{self.repository}:0.1.0")
        return index.rpartition("@")[2]

    def make(self, target: str, digest: str, *words: str) -> subprocess.CompletedProcess[str]:
        return make(
            target,
            f"IMAGE={self.repository}",
            f"DIGEST={digest}",
            f"IMAGE_BUILD={self.folder / 'build'}",
            f"SIGN_KEY={self.folder / 'cosign.key'}",
            f"VERIFY_KEY={self.folder / 'cosign.pub'}",
            f"SIGN_FLAGS=--signing-config {self.folder / 'no-log.json'}",
            "VERIFY_FLAGS=--insecure-ignore-tlog",
            *words,
            environment={"COSIGN_PASSWORD": "secret", "TUF_ROOT": str(self.folder / "tuf")},
        )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    (port,) = free_ports(1)
    new_keys(folder, "cosign")
    make_config = [real("cosign"), "signing-config", "create", "--out", "no-log.json"]
    subprocess.run(make_config, cwd=folder, check=True, capture_output=True, timeout=60)
    serve = [real("crane"), "registry", "serve", "--address", f"127.0.0.1:{port}"]
    with (folder / "log").open("w") as log, subprocess.Popen(serve, stderr=log) as process:
        try:
            wait_for(folder / "log", "serving on port")
            yield Registry(f"127.0.0.1:{port}/sniproxy", folder)
        finally:
            process.terminate()


def new_keys(folder: Path, name: str) -> None:
    words = [real("cosign"), "generate-key-pair", "--output-key-prefix", name]
    environment = {**os.environ, "COSIGN_PASSWORD": "secret"}
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True, timeout=60)


def wait_for(log: Path, text: str) -> None:
    give_up = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.05)


def test_a_signed_image(registry: Registry) -> None:
    """It is verified, and each platform's own list of parts is attested to it."""
    digest = registry.push("signed")
    done = registry.make("image-sign", digest)
    assert done.returncode == 0, done.stderr
    done = registry.make("image-verify", digest)
    assert done.returncode == 0, done.stderr
    attested = (registry.folder / "build" / "attestations.json").read_text().splitlines()
    statements = [json.loads(base64.b64decode(json.loads(one)["payload"])) for one in attested]
    assert {one["predicate"]["serialNumber"] for one in statements} == {
        f"signed{platform}" for platform in PLATFORMS
    }
    for one in statements:
        assert one["predicateType"] == "https://cyclonedx.org/bom"
        assert one["subject"][0]["digest"] == {"sha256": digest.partition(":")[2]}


def test_an_image_in_its_place(registry: Registry) -> None:
    """Under the same tag: it has another digest, and no signature is for that."""
    assert registry.make("image-sign", registry.push("good")).returncode == 0
    done = registry.make("image-verify", registry.push("evil"))
    assert done.returncode != 0
    assert "no signatures found" in done.stderr


def test_a_signature_of_somebody_else(registry: Registry) -> None:
    digest = registry.push("theirs")
    new_keys(registry.folder, "other")
    other = f"SIGN_KEY={registry.folder / 'other.key'}"
    assert registry.make("image-sign", digest, other).returncode == 0
    done = registry.make("image-verify", digest)
    assert done.returncode != 0
    mine = f"VERIFY_KEY={registry.folder / 'other.pub'}"
    assert registry.make("image-verify", digest, mine).returncode == 0


def test_a_signature_without_a_list_of_parts(registry: Registry) -> None:
    digest = registry.push("bare")
    subprocess.run(
        [real("cosign"), "sign", "--yes", "--key", "cosign.key", "--signing-config", "no-log.json",
         f"{registry.repository}@{digest}"],
        cwd=registry.folder, env={**os.environ, "COSIGN_PASSWORD": "secret", "TUF_ROOT": "tuf"},
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    done = registry.make("image-verify", digest)
    assert done.returncode != 0
    assert "attestation" in done.stderr


def test_an_image_without_a_list_of_parts_is_not_signed(registry: Registry) -> None:
    digest = registry.push("without", path="opt/sniproxy/share/other.json")
    assert registry.make("image-sign", digest).returncode != 0
    done = registry.make("image-verify", digest)
    assert done.returncode != 0
    assert "no signatures found" in done.stderr
