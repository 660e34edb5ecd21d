"""kube-score, kubeconform, and the schemas of all that the chart makes, as `make chart-tools` has them."""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.charts import ROOT, Object

CACHE = ROOT / ".cache"
PATIENCE = 120  # seconds for one run of kubeconform


def find_tool(name: str) -> str:
    """What has been built, else the one on PATH. Without it CI fails, and anybody else goes on without."""
    built = sorted(CACHE.glob(f"{name}-*/{name}"))
    found = str(built[-1]) if built else shutil.which(name)
    return found if found is not None else _left_out(f"{name} is not there")


def definitions() -> Iterator[Object]:
    """The CustomResourceDefinitions of others whose kinds the chart makes."""
    files = sorted((CACHE / "crds").glob("*.yaml"))
    if not files:
        _left_out("others' schemas are not there")
    for file in files:
        yield from (one for one in yaml.safe_load_all(file.read_text()) if one is not None)


def kubeconform(version: str, objects: Mapping[str, Sequence[Object]]) -> dict[str, list[str]]:
    """What is wrong with each of these, by name, for that version of Kubernetes."""
    with tempfile.TemporaryDirectory() as folder:
        schemas, given = Path(folder) / "schemas", Path(folder) / "objects"
        schemas.mkdir()
        given.mkdir()
        _write_schemas(version, schemas)
        for number, some in enumerate(objects.values()):
            (given / f"{number}.yaml").write_text(yaml.safe_dump_all(some))
        where = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        done = subprocess.run(
            [find_tool("kubeconform"), "-strict", "-verbose", "-output", "json", "-schema-location", where, given],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert not done.stderr
    resources = json.loads(done.stdout)["resources"]
    assert len(resources) == sum(map(len, objects.values()))
    names, wrong = list(objects), {name: list[str]() for name in objects}
    for one in resources:
        if one["status"] != "statusValid":
            why = f"{one['kind']} {one['name']}: {one['msg']}"
            wrong[names[int(Path(one["filename"]).stem)]].append(why)
    return wrong


def _write_schemas(version: str, folder: Path) -> None:
    """Every kind of that Kubernetes, and of others, in a file named as kubeconform asks for it. None may hold more than it
    names. What refers to another schema refers to it by the name of a file: nothing is asked of the web.
    """
    spec = importlib.util.find_spec("kubernetes_validate")
    assert spec is not None
    assert spec.origin is not None
    (source,) = (Path(spec.origin).parent / "kubernetes-json-schema").glob(
        f"v{version}.*-local-strict"
    )
    for file in source.glob("*.json"):
        text = file.read_text().replace('"/api/_definitions.json#', '"_definitions.json#')
        schema = json.loads(text)
        schema.pop("$id", None)  # it would be where the reference leads to
        (folder / file.name).write_text(json.dumps(schema))
    for definition in definitions():
        names = definition["spec"]["names"]
        group = definition["spec"]["group"].partition(".")[0]
        for one in definition["spec"]["versions"]:
            schema = _strict(one["schema"]["openAPIV3Schema"])
            name = "-".join((names["kind"].lower(), group, one["name"]))
            (folder / f"{name}.json").write_text(json.dumps(schema))


def _strict(schema: Any) -> Any:
    """The schema, in which no object has a member that is not named. An object's metadata is Kubernetes' own."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        strict["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
    return strict


def _left_out(why: str) -> Any:
    if os.environ.get("CI"):
        pytest.fail(f"{why}, and CI must not leave out the chart's tests: make chart-tools")
    pytest.skip(f"{why}: make chart-tools builds it where Go is installed")
