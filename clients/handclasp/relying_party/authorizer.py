"""Says whether a peer may do something, and has the call that it is about end if that is taken away.

docs/revocation.md has the rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from handclasp.relying_party.asking import ACCEPTED, Asking, Filtered
from handclasp.relying_party.calls import CallsInProgress, Permit
from handclasp.relying_party.decisions import Allowed, Yes
from handclasp.relying_party.judging import Permission
from handclasp.serving.interceptor import current_call
from handclasp.serving.peer import Peer

_ACCESS_PROFILES = "accessProfiles/"


class Authorizer:
    """Decides for peers of a server.

    Within a call that `CallInterceptor` handles, a yes also registers the call: it is ended if that yes is taken away
    while it runs.
    """

    def __init__(self, asking: Asking, calls: CallsInProgress) -> None:
        self._asking = asking
        self._calls = calls

    async def authenticate(self, peer: Peer) -> Allowed:
        """Returns if the peer's certificate is in force and its user active, now; whatever they may do.

        Credentials that were sent along are not looked at.

        Raises:
            Unauthenticated: CERTIFICATE_NOT_ACCEPTED, CREDENTIALS_MISSING.
            Unavailable: AUTHORIZER_UNAVAILABLE, as `require`.
        """
        yes = await self._asking.accepted(peer)
        # Nothing was awaited since it was found good (rule 5).
        call = current_call()
        if call is not None:
            self._calls.permit(call, Permit(yes, ACCEPTED, "", filtered=True))
            call.user = yes.allowed.user
        return yes.allowed

    async def require(self, peer: Peer, permission: Permission, resource: str) -> Allowed:
        """Returns if the peer may, now.

        Raises:
            Unauthenticated: CERTIFICATE_NOT_ACCEPTED, CREDENTIALS_INVALID, CREDENTIALS_MISMATCH, CREDENTIALS_MISSING.
            PermissionDenied: ACCESS_DENIED.
            ResourceExhausted: CREDENTIALS_THROTTLED, PASSWORD_CHECKS_BUSY.
            Unavailable: AUTHORIZER_UNAVAILABLE, if the service could not be asked, or there is no lease.
        """
        yes = await self._asking.one(peer, permission, resource)
        # From the look at the clock to here nothing was awaited (rule 5), so no change can come in between.
        call = current_call()
        if call is not None:
            self._calls.permit(call, Permit(yes, permission, resource))
            # For the log of this call, and of what runs in it.
            call.user = yes.allowed.user
        return yes.allowed

    async def allowed(self, peer: Peer, permission: Permission, resources: Sequence[str]) -> list[bool]:
        """For each of the resources, whether the peer may, now. To filter lists with.

        Raises:
            Unauthenticated, ResourceExhausted, Unavailable: as `require`.
        """
        filtered = await self._asking.several(peer, permission, resources)
        # Nor was anything awaited here.
        self._register_filter(permission, resources, filtered)
        return [yes is not None for yes in filtered.yeses]

    def _register_filter(self, permission: Permission, resources: Sequence[str], filtered: Filtered) -> None:
        """A call that had a list filtered ends with its certificate and its user. What became of single entries since
        does not matter: the list was right when it was made."""
        call = current_call()
        if call is None:
            return
        yeses, seen = [yes for yes in filtered.yeses if yes is not None], filtered.seen
        if yeses:
            first = yeses[0]
            names = tuple(name for name in first.rests_on if not name.startswith(_ACCESS_PROFILES))
            revision, expires, allowed = min(yes.revision for yes in yeses), first.expires, first.allowed
        elif seen is not None:
            decision = seen.decision
            names = tuple(name for name in (decision.certificate, decision.user) if name)
            revision, expires = decision.revision, None
            allowed = Allowed(decision.user, decision.certificate, decision.name)
        else:
            return
        self._calls.permit(
            call, Permit(Yes(allowed, revision, names, expires), permission, resources[0], filtered=True)
        )
        call.user = allowed.user
