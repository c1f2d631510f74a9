"""Where settings come from: arguments, then `HANDCLASP_*` variables, then a section of `handclasp.toml`."""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

SETTINGS_FILE = Path("handclasp.toml")
SETTINGS_FILE_VARIABLE = "HANDCLASP_SETTINGS_FILE"
SECTIONS = ("certificates", "executions")
"""What the settings file may have: one file can be for both services."""

_MISSPELT = 0.8
"""How much a variable must be like a setting to be taken for one. Kubernetes sets some for a service named
`handclasp-certificates`, such as `HANDCLASP_CERTIFICATES_SERVICE_HOST`, which nobody meant."""

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 for any that is free."""
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class SectionSettings(BaseSettings):
    """Settings with a section of their own in the settings file.

    Nested ones have two underscores in the environment: `HANDCLASP_EXECUTIONS_LIMITS__MAX_CONNECTIONS=500`.
    """

    section: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 part of the signature that pydantic calls
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        _refuse_misspelt(cls)
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_section(cls.section))


def _refuse_misspelt(kind: type[SectionSettings]) -> None:
    """A variable that means a setting and misses its name would leave it at its default without a word."""
    prefix = kind.model_config["env_prefix"]
    names = {name.upper() for name in kind.model_fields}
    for variable in sorted(os.environ):
        if not variable.upper().startswith(prefix):
            continue
        name = variable[len(prefix) :].upper().partition("__")[0]
        near = difflib.get_close_matches(name, names, n=1, cutoff=_MISSPELT)
        if name not in names and near:
            raise ValueError(f"no setting has the variable {variable}; did you mean {prefix}{near[0]}?")


def _refuse_foreign(path: Path) -> None:
    """Settings name code to run, so a folder that others can write to must not bring along its own."""
    found = path.stat()
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
        raise ValueError(
            f"{path.absolute()} belongs to another user, or anybody can write to it; run this in another folder, or"
            f" name the file in {SETTINGS_FILE_VARIABLE} if you trust it"
        )


def read_section(section: str) -> dict[str, Any]:
    """A section of the settings file; empty if there is no file, or no such section in it.

    Raises:
        ValueError: the file is not TOML, has anything but sections that exist, or one that is no table; or it lies in
            the working folder by itself, and somebody else could have put it there.
        OSError: a file that was named cannot be read.
    """
    named = os.environ.get(SETTINGS_FILE_VARIABLE)
    path = Path(named) if named else SETTINGS_FILE
    if not named and not path.exists():
        return {}
    if not named:
        _refuse_foreign(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for name, value in content.items():
        if name not in SECTIONS:
            raise ValueError(f"{path} has {_unknown(name, value)}")
    found = content.get(section, {})
    if not isinstance(found, dict):
        raise ValueError(f"{section} in {path} must be a table: [{section}]")  # noqa: TRY004 a fault of the file
    return found


def _unknown(name: str, value: object) -> str:
    """What stands in the settings file, outside of its sections, and what was most likely meant."""
    if isinstance(value, dict) and (near := difflib.get_close_matches(name, SECTIONS, n=1)):
        return f"a section [{name}], which there is not; did you mean [{near[0]}]?"
    what = f"a section [{name}]" if isinstance(value, dict) else f"`{name}` outside of a section"
    return f"{what}; all settings are in {' and '.join(f'[{section}]' for section in SECTIONS)}"
