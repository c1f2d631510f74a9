"""What holds for the tree as a whole, and would otherwise be noticed late: layout, protos, locks."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("protos", "services", "clients")
SERVICE = "handclasp.certificate_service"
WIRE = ("grpc", "google", "grpc_status")
DATABASE = ("sqlalchemy", "alembic")
LOCKS = (ROOT / "requirements/runtime.lock", ROOT / "requirements/dev.lock")
SECRET_NAME = re.compile("password|private_key|secret")


def tracked_files() -> list[Path]:
    """The files that git has, or would take; where this is no repository, all but what tools made."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        return [path for name in names if name and (path := ROOT / name).is_file()]
    made = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not made & set(path.relative_to(ROOT).parts)]


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} line {node.lineno}: write the whole name instead of a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def descriptors() -> Iterator[FileDescriptor]:
    for path in sorted((ROOT / "protos").rglob("*.proto")):
        module = ".".join(path.relative_to(ROOT / "protos").with_suffix("").parts) + "_pb2"
        descriptor = importlib.import_module(module).DESCRIPTOR
        assert isinstance(descriptor, FileDescriptor)
        yield descriptor


def fields(message: Descriptor) -> Iterator[FieldDescriptor]:
    yield from message.fields
    for nested in message.nested_types:
        yield from fields(nested)


def locked_versions(lock: Path) -> dict[str, str]:
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(pins)


def versions_in(paths: list[Path], pattern: str) -> set[Version]:
    return {Version(found) for path in paths for found in re.findall(pattern, path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_the_three_roots_share_one_namespace(root: str) -> None:
    # One __init__.py here, and an editable install can import only this root.
    assert not (ROOT / root / "handclasp" / "__init__.py").exists()


@pytest.mark.parametrize("root", ["services", "clients"])
def test_every_package_below_the_namespace_is_a_regular_one(root: str) -> None:
    namespace = ROOT / root / "handclasp"
    folders = {path.parent for path in namespace.rglob("*.py")} - {namespace}
    assert folders, f"{namespace} is empty"
    missing = [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()]
    assert not missing, f"these folders need an __init__.py: {missing}"


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("domain", (*WIRE, *DATABASE, "storage", "rpc", "use_cases", "x509", "passwords")),
        ("x509", (*WIRE, *DATABASE, "storage", "rpc", "use_cases", "passwords")),
        ("passwords", (*WIRE, *DATABASE, "storage", "rpc", "use_cases", "x509")),
        ("storage", (*WIRE, "rpc", "use_cases", "x509", "passwords")),
        ("use_cases", (*WIRE, "rpc", "handclasp.transport", "handclasp.serving")),
    ],
)
def test_each_layer_knows_only_those_below(folder: str, forbidden: tuple[str, ...]) -> None:
    generated = re.compile(r"handclasp\.\w+\.v\d+(\.|$)")
    names = {name if "." in name or name in (*WIRE, *DATABASE) else f"{SERVICE}.{name}" for name in forbidden}
    modules = sorted((ROOT / "services" / SERVICE.replace(".", "/") / folder).rglob("*.py"))
    assert modules, f"{folder} has moved: tell this test where to"
    offences = [
        f"{path.relative_to(ROOT)} imports {found}"
        for path in modules
        for found in imported_modules(path)
        if generated.match(found) or any(found == name or found.startswith(f"{name}.") for name in names)
    ]
    assert not offences


def test_fields_with_secrets_are_redacted_in_debug_output() -> None:
    secret = [
        field
        for file in descriptors()
        for message in file.message_types_by_name.values()
        for field in fields(message)
        if SECRET_NAME.search(field.name) and field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    ]
    assert len(secret) >= 5, "the name pattern finds too little"
    shown = [field.full_name for field in secret if not field.GetOptions().debug_redact]
    assert not shown


def test_generated_code_is_what_the_protos_generate() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "tools/protos.py", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


def test_the_floors_are_what_generated_code_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = {}
    for line in project["project"]["dependencies"]:
        requirement = Requirement(line)
        floors[requirement.name] = max(Version(item.version) for item in requirement.specifier if item.operator == ">=")
    stubs = sorted((ROOT / "protos").rglob("*_pb2_grpc.py"))
    needed = versions_in(stubs, r"GRPC_GENERATED_VERSION = '([^']+)'")
    assert needed == {Version(version("grpcio-tools"))}, "run `make protos`"
    for package in ("grpcio", "grpcio-health-checking", "grpcio-reflection", "grpcio-status"):
        assert floors[package] >= max(needed), f"raise the floor of {package} in pyproject.toml"
    messages = sorted((ROOT / "protos").rglob("*_pb2.py"))
    assert floors["protobuf"] >= max(versions_in(messages, r"# Protobuf Python Version: (\S+)")), (
        "raise the floor of protobuf in pyproject.toml"
    )


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_name_no_index_and_hash_everything(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text)
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_development_lock_holds_the_runtime_lock() -> None:
    runtime, development = (locked_versions(lock) for lock in LOCKS)
    different = {name: pin for name, pin in runtime.items() if development.get(name) != pin}
    assert not different, "run `make lock`"


def test_the_locks_satisfy_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["postgresql"]]
    pins = locked_versions(LOCKS[0])
    stale = [
        line
        for line in wanted
        if (requirement := Requirement(line)).name not in pins or pins[requirement.name] not in requirement.specifier
    ]
    assert not stale, "run `make lock`"


def test_no_private_key_is_in_the_tree() -> None:
    # Put together here, so that this file does not hold one itself.
    mark = re.compile(rb"-----BEGIN " + rb"([A-Z0-9]+ )*PRIVATE KEY-----\s*[A-Za-z0-9+/=]{40}")
    assert [str(path.relative_to(ROOT)) for path in tracked_files() if mark.search(path.read_bytes())] == []


def test_every_runtime_dependency_is_accounted_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["postgresql"]]
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    assert [line for line in wanted if f"`{Requirement(line).name}`" not in text] == []
