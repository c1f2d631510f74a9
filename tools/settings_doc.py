"""Writes docs/settings.md and handclasp.toml.example from the settings themselves.

`python tools/settings_doc.py` after a change of settings; a test fails while the two files are behind.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.integration_execution.settings import ExecutionSettings
from handclasp.transport.settings import SectionSettings

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs/settings.md"
EXAMPLE = ROOT / "handclasp.toml.example"

SECTIONS: tuple[tuple[type[SectionSettings], str], ...] = (
    (CertificateServiceSettings, "The certificate service"),
    (ExecutionSettings, "The execution server"),
)

# What stands in the example file for settings without a default.
_EXAMPLES: dict[str, object] = {
    "certificates.database_url": "postgresql+psycopg://handclasp@db.example.org/handclasp",
    "certificates.key_passphrase": "better set by HANDCLASP_CERTIFICATES_KEY_PASSPHRASE",
    "certificates.limits.max_connection_age": 3600.0,
    "certificates.ready_file": "/run/handclasp/certificates.json",
    "certificates.log.file": "/var/log/handclasp/certificates.log",
    "executions.ca_file": "/etc/handclasp/ca.pem",
    "executions.identity_cert": "/etc/handclasp/execution-server/cert.pem",
    "executions.identity_key": "/etc/handclasp/execution-server/key.pem",
    "executions.integrations_folder": "/srv/handclasp/integrations",
    "executions.limits.max_connection_age": 3600.0,
    "executions.ready_file": "/run/handclasp/executions.json",
    "executions.log.file": "/var/log/handclasp/executions.log",
}

_REFERENCE_HEAD = """\
# Settings

Made by `python tools/settings_doc.py` from the settings in the code; do not edit it by hand.

Each service looks for a setting in this order and takes the first that it finds: an option of `handclasp serve`, if
there is one for it, an environment variable, the service's section in the settings file. The settings file is
`handclasp.toml` in the working folder, or the file that `HANDCLASP_SETTINGS_FILE` names; `handclasp.toml.example` has
every setting, commented out. A section with a setting that does not exist keeps the service from starting, and
so do other sections, and a variable that is a letter away from one that exists.

- Names of nested settings are joined by a dot here. In a variable the dot becomes two underscores.
- A duration is an ISO 8601 text, such as `P90D` or `PT30S`, or a number of seconds. Other times are numbers of seconds,
  sizes are bytes.
- A list or set is a TOML array; in a variable it is JSON: `["localhost", "db.example.org"]`.
- `handclasp up` takes all of these too, but sets itself: data folder, ready files, log files, the ports under
  `--free-ports`, and how its execution server reaches the certificate service.
"""

_EXAMPLE_HEAD = """\
# Settings of both services, each with its default or, where there is none, an example. Made by tools/settings_doc.py.
# Copy it to handclasp.toml and take the `# ` off those that you change; docs/settings.md says more.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `name` is its path within the section; `default` is None if there is none."""

    section: str
    name: str
    description: str
    default: object
    required: bool

    @property
    def variable(self) -> str:
        return f"HANDCLASP_{self.section}_{self.name.replace('.', '__')}".upper()

    @property
    def example(self) -> object:
        return _EXAMPLES[f"{self.section}.{self.name}"] if self.default is None else self.default


def settings_of(kind: type[SectionSettings]) -> Iterator[Setting]:
    """All settings of a section, nested ones one by one."""
    for name, field in kind.model_fields.items():
        default = _default(field)
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            for nested, value, description in _nested(default):
                yield Setting(kind.section, f"{name}.{nested}", description, _plain(value), required=False)
        else:
            if not field.description:
                raise ValueError(f"{kind.section}.{name} has no description; give its Field one")
            yield Setting(kind.section, name, field.description, _plain(default), required=field.is_required())


def reference() -> str:
    """The text of docs/settings.md."""
    parts = [_REFERENCE_HEAD]
    for kind, title in SECTIONS:
        parts.append(f"\n## {title}: `[{kind.section}]`\n\n| setting | variable | default | |\n|---|---|---|---|\n")
        parts += [
            f"| `{setting.name}` | `{setting.variable}` | {_cell(setting)} | {setting.description} |\n"
            for setting in settings_of(kind)
        ]
    return "".join(parts)


def example() -> str:
    """The text of handclasp.toml.example."""
    parts = [_EXAMPLE_HEAD]
    for kind, title in SECTIONS:
        parts.append(f"\n# {title}.\n[{kind.section}]\n")
        parts += [
            f"\n# {setting.description}{_note(setting)}\n# {setting.name} = {_toml(setting.example)}\n"
            for setting in settings_of(kind)
        ]
    return "".join(parts)


def _default(field: FieldInfo) -> object:
    value = field.get_default(call_default_factory=True, validated_data={})
    return None if value is PydanticUndefined else value


def _nested(value: Any) -> Iterator[tuple[str, object, str]]:
    """Name, default and description of each field of a dataclass; the descriptions are those of the docstrings."""
    described: dict[str, str] = {}
    for kind in reversed(type(value).__mro__):
        for names, text in re.findall(
            r"^ {4}([a-z_]+(?:, [a-z_]+)*): (.*(?:\n {8}.*)*)", inspect.cleandoc(kind.__doc__ or ""), re.MULTILINE
        ):
            described |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    for name in get_type_hints(type(value)):
        text = described[name]
        yield name, getattr(value, name), text[:1].upper() + text[1:].rstrip(".") + "."


def _plain(value: object) -> object:
    """The value as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        value = sorted(value)
    return None if value is None else TypeAdapter(type(value)).dump_python(value, mode="json")


def _toml(value: object) -> str:
    """JSON texts, numbers, booleans and arrays of them are TOML too."""
    return json.dumps(value, ensure_ascii=False)


def _cell(setting: Setting) -> str:
    if setting.required:
        return "required"
    return "" if setting.default is None else f"`{_toml(setting.default)}`"


def _note(setting: Setting) -> str:
    if setting.required:
        return " Required."
    return " No default." if setting.default is None else ""


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
    EXAMPLE.write_text(example(), encoding="utf-8")
