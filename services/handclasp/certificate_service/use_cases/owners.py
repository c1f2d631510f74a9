"""The user that a certificate is to be mapped to."""

from __future__ import annotations

from handclasp.certificate_service.domain.decisions import UserFacts
from handclasp.certificate_service.domain.identifiers import not_found, user_name
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.database import Snapshot
from handclasp.certificate_service.storage.facts import user_facts
from handclasp.errors import FailedPrecondition, Reason, invalid_field


async def active_owner(snapshot: Snapshot, user_id: str) -> UserFacts:
    """The user, who must be there and active, as it is in the transaction that gives them a certificate.

    Raises:
        NotFound: USER_NOT_FOUND.
        FailedPrecondition: USER_IS_DISABLED.
    """
    owner = (await user_facts(snapshot, [user_id])).get(user_id)
    if owner is None:
        raise not_found(Reason.USER_NOT_FOUND, user_name(user_id))
    if not owner.active:
        raise FailedPrecondition(
            Reason.USER_IS_DISABLED,
            f"{user_name(user_id)} is disabled and cannot be given a certificate; enable it first",
        )
    return owner


def check_is_relying_party(owner: UserFacts) -> None:
    """Raises InvalidArgument unless the user, who is to have a certificate with server names, holds AUTHORIZE_PEERS."""
    if not any(item.grant.permission is Permission.AUTHORIZE_PEERS for item in owner.grants):
        raise invalid_field(
            "server_names",
            f"are for relying parties only, and {user_name(owner.id)} lacks AUTHORIZE_PEERS; give it an access profile"
            " such as relying-party",
        )
