"""Finding integrations, and refusing to start with broken ones."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from handclasp.integration_execution.registry import (
    ENTRY_POINT_GROUP,
    Found,
    IntegrationLoadError,
    Registry,
    find_integrations,
)

TEMPLATE = """
from pydantic import BaseModel
from handclasp.authoring import integration

class Empty(BaseModel):
    pass

@integration(name="{name}", version="{version}")
async def run(value: Empty) -> Empty:
    return value
"""


def write(folder: Path, file: str, name: str, version: str = "1.0.0") -> None:
    (folder / file).write_text(TEMPLATE.format(name=name, version=version))


def found_in(folder: Path) -> list[Found]:
    return [item for item in find_integrations(folder) if str(folder) in item.source]


def test_what_is_installed_is_found() -> None:
    registry = Registry(find_integrations(None))
    assert {"echo", "orders.summarize"} <= set(registry.names)


def test_the_newest_version_is_the_highest_by_number(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.30"):
        write(tmp_path, f"v{version.replace('.', '_')}.py", "t.one", version)
    registry = Registry(found_in(tmp_path))
    newest = registry.get("t.one")
    assert newest is not None
    assert newest.version == "1.10.0"
    older = registry.get("t.one", "1.2.30")
    assert older is not None
    assert older.version == "1.2.30"
    assert registry.get("t.one", "9.9.9") is None
    assert registry.get("t.two") is None
    assert registry.names == ["t.one"]


def test_the_same_version_twice_names_both_files(tmp_path: Path) -> None:
    write(tmp_path, "first.py", "t.one")
    write(tmp_path, "second.py", "t.one")
    with pytest.raises(IntegrationLoadError, match=r"first\.py.*second\.py"):
        Registry(found_in(tmp_path))


def test_one_that_is_installed_cannot_be_shadowed(tmp_path: Path) -> None:
    write(tmp_path, "mine.py", "echo")
    with pytest.raises(IntegrationLoadError, match=r"entry point echo.*mine\.py"):
        Registry(find_integrations(tmp_path))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def (", "SyntaxError"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("raise SystemExit(3)", "SystemExit"),
        (TEMPLATE.format(name="Bad Name", version="1.0.0"), "Bad Name"),
        (TEMPLATE.format(name="t.one", version="1"), "MAJOR"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, source: str, fault: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(IntegrationLoadError, match=rf"broken\.py.*{fault}"):
        find_integrations(tmp_path)


def test_what_a_file_imports_from_elsewhere_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "uses.py").write_text("from handclasp.integration_execution.builtin.echo import echo\n")
    assert found_in(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrationLoadError, match="nowhere"):
        find_integrations(tmp_path / "nowhere")


def test_files_that_anybody_can_write_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "open.py", "t.one")
    (tmp_path / "open.py").chmod(0o646)
    with pytest.raises(IntegrationLoadError, match="chmod o-w"):
        find_integrations(tmp_path)


def test_integrations_are_disabled_by_name_or_version(tmp_path: Path) -> None:
    write(tmp_path, "a1.py", "t.a", "1.0.0")
    write(tmp_path, "b1.py", "t.b", "1.0.0")
    write(tmp_path, "b2.py", "t.b", "2.0.0")
    registry = Registry(found_in(tmp_path), disabled=["t.a", "t.b@1.0.0"])
    enabled = {
        (integration.name, integration.version): integration.enabled
        for integration in (registry.get("t.a"), registry.get("t.b", "1.0.0"), registry.get("t.b"))
        if integration is not None
    }
    assert enabled == {("t.a", "1.0.0"): False, ("t.b", "1.0.0"): False, ("t.b", "2.0.0"): True}


def test_disabling_what_is_not_there_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "t.a")
    with pytest.raises(IntegrationLoadError, match=r"t\.typo"):
        Registry(found_in(tmp_path), disabled=["t.typo"])


def test_one_that_is_installed_and_exits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = EntryPoint("leaving", "tests.no_module:run", ENTRY_POINT_GROUP)

    def leave(_self: EntryPoint) -> None:
        sys.exit()

    monkeypatch.setattr(EntryPoint, "load", leave)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (leaving,))
    with pytest.raises(IntegrationLoadError, match=r"entry point leaving .*: SystemExit"):
        find_integrations(None)
