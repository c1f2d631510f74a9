"""Limits what processes take of the processors, by Linux's control groups: cpu.max, in version 1 cpu.cfs_quota_us."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PERIOD = 100_000  # microseconds; the default of Linux
_VERSION_1 = Path("/sys/fs/cgroup/cpu")
_VERSION_2 = Path("/sys/fs/cgroup")


class QuotasUnavailableError(Exception):
    """Control groups cannot be made here; the message says why."""


@contextmanager
def limited(process_ids: Sequence[int], share: float) -> Iterator[None]:
    """While this is entered, each of those processes gets at most that share of one processor.

    Raises:
        QuotasUnavailableError: there are no control groups, or no right to make some.
    """
    root = _VERSION_1 if (_VERSION_1 / "cpu.cfs_quota_us").exists() or _VERSION_1.is_symlink() else _VERSION_2
    groups = [root / f"handclasp-bench-{os.getpid()}-{number}" for number in process_ids]
    try:
        for group, process_id in zip(groups, process_ids, strict=True):
            group.mkdir()
            _limit(group, int(share * _PERIOD))
            (group / "cgroup.procs").write_text(str(process_id))
    except OSError as error:
        _remove(groups, root)
        raise QuotasUnavailableError(f"no control groups for the processor here: {error}") from error
    try:
        yield
    finally:
        _remove(groups, root)


def _limit(group: Path, quota: int) -> None:
    if group.parent == _VERSION_2:
        (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
        return
    (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
    (group / "cpu.cfs_quota_us").write_text(str(quota))


def _remove(groups: Sequence[Path], root: Path) -> None:
    for group in groups:
        if not group.exists():
            continue
        # A group can be removed once nothing is in it. Its processes go back to where they came from on most machines.
        for process_id in (group / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(process_id)
        group.rmdir()
