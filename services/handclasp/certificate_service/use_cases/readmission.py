"""Callers as they are in the transaction that does what they asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from handclasp.certificate_service.domain.decisions import judge_certificate, judge_user
from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.storage.facts import peer_facts, user_facts
from handclasp.certificate_service.storage.users import find_password_hash
from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.errors import Reason, Unauthenticated


async def readmitted(transaction: Transaction, caller: Caller, now: datetime) -> Caller:
    """The caller with the grants of now, and of when the transaction is committed: nobody else commits a change from
    here on.

    Between a call's admission and its transaction the caller's certificate may be revoked, their user disabled, another
    password set, a grant taken away. Whoever did that was told that it is in force: so nothing is given by what was so
    before.

    Raises:
        Unauthenticated: CERTIFICATE_NOT_ACCEPTED, CREDENTIALS_INVALID.
    """
    await transaction.alone()
    if not caller.user_id:
        return caller  # the service itself
    if caller.fingerprint:
        found = await peer_facts(transaction, caller.fingerprint)
        if found is None or judge_certificate(found, now) is not None:
            raise Unauthenticated(
                Reason.CERTIFICATE_NOT_ACCEPTED,
                "the client certificate was taken away, or its user disabled, while the call ran; nothing was done",
            )
        return replace(caller, facts=found.user)
    user = (await user_facts(transaction, [caller.user_id])).get(caller.user_id)
    if user is None or judge_user(user) is not None:
        raise Unauthenticated(Reason.CREDENTIALS_INVALID, "the user was disabled while the call ran; nothing was done")
    if await find_password_hash(transaction, caller.user_id) != caller.password_hash:
        raise Unauthenticated(
            Reason.CREDENTIALS_INVALID,
            "another password was set while the call ran; nothing was done, so call again with that one",
        )
    return replace(caller, facts=user)
