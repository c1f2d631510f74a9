"""Has what this service refuses by itself recorded: handshakes, and calls that nothing was decided about."""

from __future__ import annotations

from collections.abc import Mapping

from handclasp.certificate_service.domain.refusals import RefusalKind, Refused
from handclasp.certificate_service.rpc.admission import ADMISSIONS
from handclasp.certificate_service.use_cases.refusal_records import RefusalRecords
from handclasp.serving.refusal_log import is_refused_call
from handclasp.serving.refused_handshakes import RefusedHandshakes


class RefusalsHere:
    """Takes both from where they are noticed."""

    def __init__(self, records: RefusalRecords) -> None:
        self._records = records

    def handshake(self, refused: RefusedHandshakes) -> None:
        """Records refused handshakes."""
        self._records.record(
            Refused(RefusalKind.HANDSHAKE, refused.reason.value, listener=refused.listener), refused.count
        )

    def call(self, event: str, fields: Mapping[str, str], more: Mapping[str, str], count: int) -> None:
        """Records a refused call, as the log has it; unless it is on record as a decision, or another service's."""
        if is_refused_call(event, fields, more) and fields["method"] in ADMISSIONS:
            refused = Refused(
                RefusalKind.CALL,
                fields["reason"],
                method=fields["method"],
                peer_address=fields.get("peer", ""),
                fingerprint=fields.get("fingerprint", ""),
            )
            self._records.record(refused, count)
