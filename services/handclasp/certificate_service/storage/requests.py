"""Answers that a retry with the same request_id gets again (https://google.aip.dev/155)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select

from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import requests


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Who sent which request where: request ids of different callers, or for different methods, never meet."""

    caller: str
    method: str
    request_id: str


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    request_hash: str
    certificate_id: str


async def find_request(snapshot: Snapshot, key: RequestKey) -> AnsweredRequest | None:
    query = select(requests.c.request_hash, requests.c.certificate_id).where(
        requests.c.caller == key.caller,
        requests.c.method == key.method,
        requests.c.request_id == key.request_id,
    )
    row = (await snapshot.fetch(query)).one_or_none()
    return None if row is None else AnsweredRequest(row.request_hash, row.certificate_id)


async def add_request(transaction: Transaction, key: RequestKey, answered: AnsweredRequest, now: datetime) -> None:
    await transaction.execute(
        insert(requests).values(
            caller=key.caller,
            method=key.method,
            request_id=key.request_id,
            request_hash=answered.request_hash,
            certificate_id=answered.certificate_id,
            create_time=now,
        )
    )


async def forget_requests(transaction: Transaction, before: datetime) -> None:
    await transaction.execute(delete(requests).where(requests.c.create_time < before))
