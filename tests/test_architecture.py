"""The shape of the sources, read from their syntax trees: who may import whom, and how large a file may grow."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 400

# From the bottom up: a module may import what stands in its own line or above it. A package stands for its modules.
LAYERS = (
    (
        "errors",
        "histogram",
        "networks",
        "settings",
        "objects",
        "store",
        "keyring",
        "keyring_file",
        "logs",
        "log_text",
        "log_queue",
        "corpus",
    ),
    ("balancing",),
    (
        "client_hello",
        "proxy_protocol",
        "tls",
        "stick_table",
        "tallies",
        "refusals",
        "forbidden",
    ),
    ("upstream_tls", "health"),
    ("balancer", "accounting"),
    ("fair_queue", "forecast", "reload", "name_cache", "name_files", "statistics"),
    ("access", "router", "limits", "snapshot"),
    ("plan", "following"),
    (
        "_relay",
        "relay",
        "deadline",
        "cgroup",
        "turns",
        "metrics",
        "defects",
        "references",
        "vitals",
    ),
    ("descriptors", "dns_client", "eyeballs"),
    ("names",),
    ("discovery",),
    ("upstream", "probes"),
    ("config", "agent", "presence"),
    ("first_flight", "journal"),
    ("tracing",),
    ("worker_state",),
    ("session", "probing"),
    ("listener",),
    ("reception",),
    ("channel", "scrape", "slots", "crashes", "small_http"),
    ("orders", "status"),
    ("worker",),
    ("doors", "member", "drain", "upgrade", "folding", "bookkeeping"),
    ("crew",),
    ("pressure",),
    ("control",),
    ("parent", "commands"),
    ("quickstart", "conformance", "explain", "operating"),
    ("proxy_command", "quickstart_command", "conformance_command", "explain_command"),
    ("cli",),
)

ADMIN_MAY_IMPORT = (
    "admin.",
    *("sniproxy.objects", "sniproxy.store", "sniproxy.settings"),
    *("sniproxy.errors", "sniproxy.keyring", "sniproxy.logs", "sniproxy.networks"),
    "sniproxy.forbidden",
)
ITS_COMMANDS_MAY_IMPORT = (*ADMIN_MAY_IMPORT, "sniproxy.commands", "sniproxy.listener")
OURS = ("sniproxy", "admin", "certs", "examples")
LET_CHAIN = re.compile(r"(?:if|while) let [^{;]*&&|&&\s*let\b")


def name_of(file: Path) -> str:
    """sniproxy.store.sqlite of sniproxy/store/sqlite.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {  # every module under sniproxy and admin
    name_of(file): file
    for package in ("sniproxy", "admin")
    for file in sorted(ROOT.glob(f"{package}/**/*.py"))
}


@cache
def tree(module: str) -> ast.Module:
    """What is in its file."""
    return ast.parse(FILES[module].read_text(), str(FILES[module]))


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of ours that a module names in its imports, wherever in it they stand."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            for alias in node.names:  # a module, or a name in one
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
    return frozenset(name for name in found if name.partition(".")[0] in OURS)


def layer(module: str) -> int:
    """How high a module of sniproxy stands; KeyError for one that has no place yet."""
    places = {name: height for height, names in enumerate(LAYERS) for name in names}
    return places[module.split(".")[1]]


SNIPROXY = [name for name in FILES if name.startswith("sniproxy.")]
ADMIN = [name for name in FILES if name.partition(".")[0] == "admin"]


def test_there_is_something_to_look_at() -> None:
    assert "sniproxy.parent" in imported("sniproxy.proxy_command")
    assert "sniproxy.balancer" in imported("sniproxy.snapshot")
    assert "sniproxy.store" in imported("sniproxy.store.sqlite")
    assert ADMIN


@pytest.mark.parametrize("module", SNIPROXY)
def test_imports_go_one_way(module: str) -> None:
    for name in imported(module):
        package = name.partition(".")[0]
        if package != "sniproxy":
            assert module == "sniproxy.quickstart", f"{module} imports {name}"
        elif name != "sniproxy":
            assert layer(name) <= layer(module), f"{module} imports {name}, which stands above it"


def test_a_data_plane_holds_nothing_of_the_admin() -> None:
    """Nor of what only commands of people need, or traces. The cli names modules, and imports one when it is asked for."""
    looks = (
        "import sys, sniproxy.worker; from sniproxy.cli import main; main.get_command(None, 'proxy');"
        "print([name for name in sys.modules if name.partition('.')[0] in"
        " ('admin', 'starlette', 'uvicorn', 'pytest', 'opentelemetry', 'google', 'requests')])"
    )
    done = subprocess.run([sys.executable, "-c", looks], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_map_imports_nothing() -> None:
    assert imported("sniproxy") == frozenset()


@pytest.mark.parametrize("module", ADMIN)
def test_admin_imports_only_what_is_shared(module: str) -> None:
    may = ITS_COMMANDS_MAY_IMPORT if module.endswith("commands") else ADMIN_MAY_IMPORT
    foreign = {name for name in imported(module) - {"sniproxy"} if not name.startswith(may)}
    assert foreign == set()


@pytest.mark.parametrize(
    ("module", "alone"), [("sniproxy.errors", ()), ("sniproxy.objects", ("sniproxy.objects",))]
)
def test_the_ground_floor_imports_nothing_of_ours(module: str, alone: tuple[str, ...]) -> None:
    for one in SNIPROXY:
        if one == module or one.startswith(module + "."):
            assert all(name.startswith(alone) for name in imported(one)), one


def test_there_is_no_cycle() -> None:
    graph = {module: imported(module) & FILES.keys() for module in FILES}
    assert set(TopologicalSorter(graph).static_order()) == set(FILES)  # CycleError otherwise


@pytest.mark.parametrize("module", FILES)
def test_no_import_inside_a_function(module: str) -> None:
    functions = [
        node
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for function in functions:
        for node in ast.walk(function):
            assert not isinstance(node, ast.Import | ast.ImportFrom), (
                f"{module}: {function.name} imports at line {node.lineno}"
            )


@pytest.mark.parametrize("module", FILES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(tree(module))


@pytest.mark.parametrize("file", FILES.values(), ids=name_of)
def test_no_file_outgrows_its_duty(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MAX_LINES


def test_the_map_names_every_module() -> None:
    docstring = ast.get_docstring(tree("sniproxy")) or ""
    named = [
        line.split()[0].rstrip("/") for line in docstring.splitlines() if line.startswith("    ")
    ]
    top = {module.split(".")[1] for module in SNIPROXY}
    assert sorted(named) == sorted(top)


@pytest.mark.parametrize("file", sorted(ROOT.glob("relay/src/**/*.rs")), ids=lambda file: file.stem)
def test_the_crate_needs_no_newer_rust_than_it_says(file: Path) -> None:
    """Clippy minds the library's functions, not the syntax: chains of `let` came with 1.88, and editions allow them."""
    assert LET_CHAIN.findall(file.read_text()) == []


def test_chains_of_let_are_found() -> None:
    first, later = "if let Some(a) = b && a.c() {", "while a.c()\n    && let Some(b) = a.b() {"
    assert [bool(LET_CHAIN.search(one)) for one in (first, later)] == [True, True]
    assert not LET_CHAIN.search("if let Some(a) = b { a && c }; let d = a && b;")
