"""Which integration holds up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import CodeType, FrameType

from handclasp.integration_execution.registry import Registry
from handclasp.integration_execution.runner import TASK_PREFIX


def integration_that_runs(registry: Registry, loop: asyncio.AbstractEventLoop, stack: Sequence[FrameType]) -> str:
    """The name of the integration that runs in that loop; empty if none does, or it cannot be told.

    For a thread that is not the loop's.

    Args:
        stack: of the loop's thread, innermost first.
    """
    task = asyncio.current_task(loop)
    if task is not None and task.get_name().startswith(TASK_PREFIX):
        return task.get_name().removeprefix(TASK_PREFIX)
    # A task or callback that an integration started has no name of ours. Its code is within that of the integration, or
    # beside it in the file of that integration alone.
    named = {name: code for name in registry.names if (code := _code(registry, name)) is not None}
    for frame in stack:
        near = {name: code for name, code in named.items() if code.co_filename == frame.f_code.co_filename}
        for name, code in near.items():
            if frame.f_code.co_qualname.startswith(f"{code.co_qualname}.<locals>."):
                return name
        if len(near) == 1:
            return next(iter(near))
    return ""


def _code(registry: Registry, name: str) -> CodeType | None:
    code = getattr(getattr(registry.get(name), "function", None), "__code__", None)
    return code if isinstance(code, CodeType) else None
