"""Shows the password of an administrator who was just made: once, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from handclasp.cli.output import print_line

if TYPE_CHECKING:
    from handclasp.certificate_service.first_start import Prepared


def announce(prepared: Prepared, data_dir: Path) -> None:
    """Prints who the administrator is, and their password if there is one; nothing if they are not new."""
    made = prepared.administrator
    if made is None:
        return
    print_line(f"Administrator: {made.user_id}")
    if not made.password:
        print_line(
            f"No password was set. {data_dir / 'context.toml'} works without; `handclasp user set-password"
            f" {made.user_id}` sets one, with --password-file or --password-stdin where there is no terminal."
        )
        return
    print_line(f"Password:      {made.password}")
    print_line(f"This password is shown once and stored nowhere. {data_dir / 'context.toml'} works without it.")
