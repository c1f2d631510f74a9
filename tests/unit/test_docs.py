"""Holds the documentation against what it is about, so that it cannot fall behind unnoticed."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from tools import settings_doc
from typer.exceptions import TyperException

from handclasp.certificate_service.domain.access_profiles import built_in_profiles
from handclasp.certificate_service.domain.decisions import DecisionReason
from handclasp.certificate_service.domain.permissions import ADMINISTRATIVE, Permission
from handclasp.certificate_service.rpc.admission import ADMISSIONS, Admission
from handclasp.cli.main import app
from handclasp.errors import Reason
from handclasp.errors.status import CODES
from handclasp.integration_execution.conversion import validated
from handclasp.integration_execution.registry import Registry, find_integrations
from handclasp.integration_execution.runner import IntegrationRunner
from handclasp.serving.refused_handshakes import HandshakeReason
from tests.support.markdown import (
    ROOT,
    anchors,
    fenced,
    indented,
    inline_code,
    links,
    rows,
    section,
)

DOCUMENTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Files that an installation has, and not the tree.
NOT_IN_THE_TREE = re.compile(r"^(\.venv|handclasp-data|alice|issued|keys|identities|logs|execution-server)/")
PROTO_COMMENT = re.compile(r"((?:^ *//.*\n)+) *rpc (\w+)\(", re.MULTILINE)


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def code_in(cell: str) -> str:
    """The one piece of code in a cell of a table."""
    (code,) = inline_code(cell)
    return code


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(read(document)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / document).parent / name if name else ROOT / document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_files_that_are_named_are_there(document: Path) -> None:
    certificate_service = ROOT / "services/handclasp/certificate_service"
    for code in inline_code(read(document)):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*(/|\.(py|md|toml|proto|lock|example))", code) is None:
            continue
        if NOT_IN_THE_TREE.match(code) or code in ("handclasp.toml", "context.toml", "handclasp/", "__init__.py"):
            continue
        places = (ROOT, (ROOT / document).parent, certificate_service, ROOT / "services/handclasp")
        assert any((place / code).exists() for place in places), code


def test_each_reason_of_a_refused_handshake_is_documented() -> None:
    table = rows(section(read("docs/troubleshooting.md"), "Handshakes, by reason"))
    assert [code_in(cells[0]) for cells in table] == [reason.value for reason in HandshakeReason]


def fault_of(words: list[str]) -> str:
    """What `handclasp` would say against a command line, which is not run; empty if nothing."""
    try:
        parse_command(words)
    except TyperException as error:
        return str(error)
    return ""


def parse_command(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    path = words[0]
    context = command.make_context(path, words[1:])
    while rest := [*context._protected_args, *context.args]:
        name, command, arguments = command.resolve_command(context, rest)
        if not arguments and hasattr(command, "commands"):
            return  # a group by itself
        context = command.make_context(name, arguments, parent=context)
        if not hasattr(command, "commands"):
            return


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_commands_in_blocks_can_be_run(document: Path) -> None:
    for block in indented(read(document)):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0].removeprefix(".venv/bin/") == "handclasp":
                assert fault_of(words) == "", line


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_commands_in_running_text_exist(document: Path) -> None:
    for code in inline_code(read(document)):
        if not code.startswith("handclasp "):
            continue
        words = shlex.split(code)
        # In running text a command may stand without what it requires; all that stands there has to exist.
        fault = fault_of(words)
        assert not fault or fault.startswith("Missing"), code


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    for line in ("cert issue --no-such-option", "no-such-command", "cert no-such-command", "run echo too many"):
        assert fault_of(["handclasp", *line.split()]), line


def raised_codes() -> dict[str, set[str]]:
    """The status codes that the code raises each reason with, where the two stand in one expression."""
    names = {kind.__name__: code.name for kind, code in CODES.items()}
    names |= {"invalid_field": "INVALID_ARGUMENT", "not_found": "NOT_FOUND"}
    found: dict[str, set[str]] = defaultdict(set)
    for source in (*ROOT.glob("services/**/*.py"), *ROOT.glob("clients/**/*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names):
                continue
            for argument in node.args:
                if (reason := ast.unparse(argument)).startswith("Reason."):
                    found[reason.removeprefix("Reason.")].add(names[node.func.id])
    return found


def test_every_reason_is_documented_with_its_code() -> None:
    documented = {code_in(row[0]): set(row[1].split(", ")) for row in rows(read("docs/errors.md"))}
    assert list(documented) == list(dict.fromkeys(documented))
    assert set(documented) == {reason.value for reason in Reason}
    codes = {code.name for code in CODES.values()}
    assert all(row <= codes for row in documented.values())
    raised = raised_codes()
    assert len(raised) > 50
    assert {reason: documented[reason] for reason in raised} == raised


def test_reasons_stand_in_the_table_once() -> None:
    names = [code_in(row[0]) for row in rows(read("docs/errors.md"))]
    assert len(names) == len(set(names))


def test_permissions_are_those_that_there_are() -> None:
    table = list(rows(section(read("docs/permissions.md"), "Permissions and resources")))
    assert [code_in(row[0]) for row in table] == [permission.value for permission in Permission]
    assert {code_in(row[0]) for row in table if row[3] == "administrative"} == ADMINISTRATIVE


def test_built_in_profiles_are_those_that_there_are() -> None:
    table = {code_in(row[0]): row[1] for row in rows(section(read("docs/permissions.md"), "Built-in access profiles"))}
    for profile in built_in_profiles(datetime.now(UTC)):
        permissions = {grant.permission.value for grant in profile.grants}
        assert {grant.pattern for grant in profile.grants} == {"*"}
        said = table.pop(profile.id)
        assert set(inline_code(said)) == permissions or (said == "all permissions" and permissions == set(Permission))
    assert not table


def test_decision_reasons_are_those_that_there_are() -> None:
    table = [code_in(row[0]) for row in rows(section(read("docs/permissions.md"), "Decisions"))]
    assert sorted(table) == sorted(reason.value for reason in DecisionReason)


def proto_callers() -> dict[str, str]:
    """What the protos say of who may call each method, by `Service.Method`."""
    found = {}
    for path in (ROOT / "protos").rglob("*_service.proto"):
        text = path.read_text(encoding="utf-8")
        (service,) = re.findall(r"^service (\w+)", text, re.MULTILINE)
        for comment, method in PROTO_COMMENT.findall(text):
            words = " ".join(comment.replace("//", "").split())
            found[f"{service}.{method}"] = words.partition("Who may call: ")[2].partition(" Errors: ")[0]
    return found


def test_who_may_call_is_what_the_protos_and_the_service_say() -> None:
    table = {
        code_in(row[0]): (row[1], row[2]) for row in rows(section(read("docs/permissions.md"), "Who may call what"))
    }
    callers = proto_callers()
    assert set(table) == set(callers)
    permissions = re.compile("|".join(permission.value for permission in Permission))
    for method, (_, said) in table.items():
        assert set(permissions.findall(callers[method])) <= set(permissions.findall(said)), method
        assert ("the owner's manager" in callers[method]) == ("the owner's manager" in said), method
    needs = {
        Admission.ANYBODY: "nothing",
        Admission.AUTHENTICATED: "certificate or password",
        Admission.MUTUAL_TLS: "certificate",
    }
    admitted = {name.rpartition(".")[2].replace("/", "."): needs[kind] for name, kind in ADMISSIONS.items()}
    # The execution server takes nobody without a certificate.
    admitted |= {method: "certificate" for method in callers if method.startswith("IntegrationService.")}
    assert {method: needed for method, (needed, _) in table.items()} == admitted


def test_the_layout_has_each_folder_of_the_certificate_service() -> None:
    named = {path for row in rows(section(read("docs/architecture.md"), "Layout")) for path in inline_code(row[0])}
    folder = ROOT / "services/handclasp/certificate_service"
    assert {f"{found.parent.name}/" for found in folder.glob("*/__init__.py")} <= named


def test_rules_that_code_and_tests_refer_to_are_there() -> None:
    there = re.findall(r"^- \*\*(\d+)\.\*\* ", section(read("docs/revocation.md"), "The rules"), re.MULTILINE)
    assert len(there) == len(set(there))
    for root in ("clients", "services", "tests"):
        for source in (ROOT / root).glob("**/*.py"):
            for numbers in re.findall(r"\b[Rr]ules? (\d+(?:(?:, | and )\d+)*)", source.read_text(encoding="utf-8")):
                assert set(re.findall(r"\d+", numbers)) <= set(there), source


def test_the_log_of_a_relying_party_is_documented() -> None:
    table = [row[0] for row in rows(section(read("docs/relying-parties.md"), "In the log"))]
    logged = {
        event
        for source in (ROOT / "clients/handclasp/relying_party").glob("*.py")
        for event in re.findall(r'_LOG\.\w+\(\s*"(\w+)"', source.read_text(encoding="utf-8"))
    }
    assert sorted(event for cell in table for event in inline_code(cell)) == sorted(logged)


def test_the_settings_reference_is_up_to_date() -> None:
    assert read("docs/settings.md") == settings_doc.reference(), "run tools/settings_doc.py"
    assert read("handclasp.toml.example") == settings_doc.example(), "run tools/settings_doc.py"


def test_the_example_file_fits_without_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "handclasp.toml"
    path.write_text(re.sub(r"^# ([a-z_.]+ = )", r"\1", read("handclasp.toml.example"), flags=re.MULTILINE))
    monkeypatch.setenv("HANDCLASP_SETTINGS_FILE", str(path))
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    for kind, _ in settings_doc.SECTIONS:
        assert set(written[kind.section]) == set(kind.model_fields)
        read_back = kind()
        for setting in settings_doc.settings_of(kind):
            value: Any = read_back
            for part in setting.name.split("."):
                value = getattr(value, part)
            assert value is not None, setting.name


def test_settings_that_are_named_exist() -> None:
    settings = [setting for kind, _ in settings_doc.SECTIONS for setting in settings_doc.settings_of(kind)]
    variables = {setting.variable for setting in settings} | {
        "HANDCLASP_CONTEXT",
        "HANDCLASP_SETTINGS_FILE",
        "HANDCLASP_TEST_POSTGRES_BIN",
    }
    for document in DOCUMENTS:
        text = read(document)
        assert set(re.findall(r"\bHANDCLASP_[A-Z_]+", text)) <= variables, document
        for block in fenced(text, "toml"):
            for kind, _ in settings_doc.SECTIONS:
                assert set(tomllib.loads(block).get(kind.section, {})) <= set(kind.model_fields), document


async def test_the_example_of_an_integration_runs(tmp_path: Path) -> None:
    (example,) = fenced(read("docs/integrations.md"), "python")
    (tmp_path / "taxes.py").write_text(example, encoding="utf-8")
    registry = Registry(find_integrations(tmp_path))
    taxes = registry.get("taxes.add")
    assert taxes is not None
    output = await IntegrationRunner().run(taxes, validated(taxes, {"net": "19.99", "rate": Decimal("0.19")}))
    assert output.model_dump(mode="json") == {"tax": "3.80", "gross": "23.79"}


def test_dependencies_are_those_of_the_lock() -> None:
    pins = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", read("requirements/runtime.lock"), re.MULTILINE))
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = {
        re.split(r"[\[<>=]", line, maxsplit=1)[0]
        for line in [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]
    }
    assert {code_in(row[0]): row[1] for row in rows(read("docs/dependencies.md"))} == {
        name: pins[name] for name in wanted
    }
