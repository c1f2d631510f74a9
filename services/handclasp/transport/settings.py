"""Where settings come from: arguments, then `HANDCLASP_*` variables, then a section of `handclasp.toml`."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

SETTINGS_FILE = Path("handclasp.toml")
SETTINGS_FILE_VARIABLE = "HANDCLASP_SETTINGS_FILE"

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
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_section(cls.section))


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
        ValueError: the file is not TOML, or the section is no table; or it lies in the working folder by itself, and
            somebody else could have put it there.
        OSError: a file that was named cannot be read.
    """
    named = os.environ.get(SETTINGS_FILE_VARIABLE)
    path = Path(named) if named else SETTINGS_FILE
    if not named and not path.exists():
        return {}
    if not named:
        _refuse_foreign(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get(section, {})
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{section} in {path} must be a table: [{section}]")  # noqa: TRY004 a fault of the file
    return found
