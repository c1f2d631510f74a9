"""Command-line tools that some tests use and that need not be there."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def require_tool(name: str) -> str:
    """The path of a command: from the virtual environment (`make tools`), PATH, or where `go install` puts it.

    Skips the test where there is none.
    """
    go_binaries = os.environ.get("GOBIN") or str(Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin")
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), go_binaries]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found
