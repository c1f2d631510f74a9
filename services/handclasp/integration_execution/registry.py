"""Finds integrations: through entry points, and in the files of a folder."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import stat
import sys
import types
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from handclasp.authoring import Integration

ENTRY_POINT_GROUP = "handclasp.integrations"
_FOLDER_MODULE = "handclasp_integrations_folder"

AnyIntegration = Integration[Any, Any]
_LOG = structlog.stdlib.get_logger(__name__)


class IntegrationLoadError(Exception):
    """Integrations that cannot be loaded. The server does not start with them: it names the file, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Found:
    """An integration, and where it came from, for people."""

    integration: AnyIntegration
    source: str


class Registry:
    """The integrations of this server by name and version. Does not change once it is made.

    Args:
        found: what there is.
        disabled: `name`, or `name@version`, of those that cannot be run here.
    Raises:
        IntegrationLoadError: two have the same name and version, or one that is to be disabled is not there.
    """

    def __init__(self, found: Iterable[Found], *, disabled: Collection[str] = ()) -> None:
        by_key: dict[tuple[str, str], Found] = {}
        for item in found:
            key = (item.integration.name, item.integration.version)
            other = by_key.setdefault(key, item)
            if other is not item:
                raise IntegrationLoadError(
                    f"integration {key[0]} {key[1]} is in {other.source} and in {item.source}; give one of them "
                    "another name or version"
                )
        unknown = set(disabled) - {name for name, _ in by_key} - {f"{name}@{version}" for name, version in by_key}
        if unknown:
            raise IntegrationLoadError(
                f"the setting disabled_integrations names {', '.join(sorted(unknown))}, which is not there; correct it"
            )
        self._versions: dict[str, dict[str, AnyIntegration]] = {}
        for (name, version), item in sorted(by_key.items(), key=lambda entry: entry[1].integration.version_key):
            integration = item.integration
            if name in disabled or f"{name}@{version}" in disabled:
                integration = replace(integration, enabled=False)
            self._versions.setdefault(name, {})[version] = integration
        self.names = sorted(self._versions)
        """In order."""

    def get(self, name: str, version: str = "") -> AnyIntegration | None:
        """One version of an integration, the newest if `version` is empty; None if there is none."""
        versions = self._versions.get(name)
        if versions is None:
            return None
        return versions.get(version) if version else next(reversed(versions.values()))


def find_integrations(folder: Path | None) -> list[Found]:
    """Everything that is installed, and everything in the folder.

    Raises:
        IntegrationLoadError: one cannot be loaded.
    """
    found = list(_from_entry_points())
    if folder is not None:
        found += _from_folder(folder)
    return found


def _from_entry_points() -> Iterator[Found]:
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        source = f"entry point {entry_point.name} = {entry_point.value}"
        try:
            loaded = entry_point.load()
        except (Exception, SystemExit) as error:
            raise _broken(source, error) from error
        if not isinstance(loaded, Integration):
            raise IntegrationLoadError(
                f"{source} is a {type(loaded).__name__}, and no integration; decorate it with @integration"
            )
        yield Found(loaded, source)


def _from_folder(folder: Path) -> Iterator[Found]:
    if not folder.is_dir():
        raise IntegrationLoadError(f"the integrations folder {folder} does not exist; make it, or unset the setting")
    _refuse_writable_by_all(folder)
    # Pickles of what the files define are read by the name of their module, and so by that of its package.
    sys.modules.setdefault(_FOLDER_MODULE, types.ModuleType(_FOLDER_MODULE))
    for path in sorted(folder.glob("*.py")):
        _refuse_writable_by_all(path)
        integrations = _from_file(path)
        if not integrations:
            _LOG.warning("file_without_integrations", file=str(path))
        for integration in integrations:
            yield Found(integration, str(path))


def _from_file(path: Path) -> list[AnyIntegration]:
    name = f"{_FOLDER_MODULE}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise IntegrationLoadError(f"{path} cannot be loaded as a Python module; rename it or take it out")
    module = importlib.util.module_from_spec(spec)
    # Pydantic looks up annotations, and tracebacks their lines, by the module's name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _broken(str(path), error) from error
    defined = {id(value): value for value in vars(module).values() if isinstance(value, Integration)}
    # What a file imports from elsewhere is registered there.
    return [value for value in defined.values() if getattr(value.function, "__module__", None) == name]


def _broken(source: str, error: BaseException) -> IntegrationLoadError:
    return IntegrationLoadError(f"{source} cannot be loaded: {type(error).__name__}: {error}; repair it or take it out")


def _refuse_writable_by_all(path: Path) -> None:
    if path.stat().st_mode & stat.S_IWOTH:
        raise IntegrationLoadError(f"anybody on this machine can write to {path}; run `chmod o-w {path}`")
