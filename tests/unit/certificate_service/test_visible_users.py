"""What somebody may see, as a condition that a database filters by."""

from __future__ import annotations

import pytest

from handclasp.certificate_service.domain.visibility import Visible
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.users import list_users
from tests.unit.certificate_service.records import put_user

IDS = ["acme", "acme-1", "acme-10", "acme_2", "firm-1999-a", "firm-1999.b", "firm-1999", "firm-2", "zebra"]


@pytest.mark.parametrize("others", [0, 5_000])
@pytest.mark.parametrize("prefixes", [{"acme-"}, {"acme-1", "firm-1999"}, {"f", "acme-10", "nobody-"}, {""}, set()])
async def test_a_list_has_exactly_what_may_be_seen(database: Database, prefixes: set[str], others: int) -> None:
    """Also with as many prefixes as 50 access profiles of 100 grants have."""
    for user_id in IDS:
        await put_user(database, user_id)
    more = {f"partner-{number}-" for number in range(others)}
    visible = Visible(ids=frozenset({"zebra"}), prefixes=frozenset(prefixes | more))
    found = await database.read(lambda snapshot: list_users(snapshot, visible, after="", limit=100))
    assert [user.id for user in found] == sorted(user_id for user_id in IDS if visible.sees(user_id))
