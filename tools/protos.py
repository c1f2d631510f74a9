"""Generates the Python code of `protos/`, or checks that what is committed is what would be generated.

python tools/protos.py            write the generated files
python tools/protos.py --check    exit 1 if a committed file differs, is missing, or is left over
python tools/protos.py --descriptors FILE    write the descriptor set, with comments, for `buf lint`
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.api import field_behavior_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
# Beside the running Python, and not on PATH, so that a virtual environment need not be activated.
PLUGINS = Path(sys.executable).parent
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def proto_files() -> list[str]:
    return sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))


def run_protoc(*options: str) -> None:
    well_known = str(files("grpc_tools") / "_proto")
    google_api = str(Path(field_behavior_pb2.__file__).parents[2])
    plugins = [f"--plugin={name}={PLUGINS / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    includes = [f"-I{SOURCES}", f"-I{google_api}", f"-I{well_known}"]
    arguments = ["protoc", *plugins, *includes, *options, *proto_files()]
    if (status := protoc.main(arguments)) != 0:
        raise SystemExit(f"protoc failed with status {status}")


def generate(target: Path) -> None:
    run_protoc(
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet,only_async:{target}",
    )


def generated_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for glob in GENERATED for path in root.rglob(glob)}


def drift(committed: dict[str, bytes], fresh: dict[str, bytes]) -> list[str]:
    """The names of the files that differ, in order."""
    return sorted(name for name in committed.keys() | fresh.keys() if committed.get(name) != fresh.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--descriptors", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.descriptors:
        run_protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={arguments.descriptors}")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = generated_files(Path(scratch))
    committed = generated_files(SOURCES)
    changed = drift(committed, fresh)
    if arguments.check:
        for name in changed:
            print(f"protos/{name} is not what protos/ generates: run `make protos`", file=sys.stderr)
        return 1 if changed else 0
    for name in changed:
        if name in fresh:
            (SOURCES / name).write_bytes(fresh[name])
        else:
            (SOURCES / name).unlink()
        print(f"wrote protos/{name}" if name in fresh else f"removed protos/{name}")
    return 0


if __name__ == "__main__":
    if not (PLUGINS / "protoc-gen-mypy").exists():
        raise SystemExit(f"protoc-gen-mypy is not installed in {PLUGINS}: run `make dev`, and use .venv/bin/python")
    sys.exit(main())
