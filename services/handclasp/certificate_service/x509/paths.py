"""From a leaf to a trust anchor (RFC 5280, section 6), in bounded work.

Not `cryptography.x509.verification`: that one follows the web PKI's profile, which knows no Ed25519 CAs, and it does
not say which issuer was missing. What is accepted here is what gRPC's TLS stack accepts in the handshake, less what the
policy forbids (weak keys and hashes, CAs that do not say so).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from handclasp.certificate_service.x509.certificates import extension, is_self_issued, shown
from handclasp.certificate_service.x509.keys import check_ca_key, read_public_key
from handclasp.certificate_service.x509.name_constraints import name_constraints_fault
from handclasp.certificate_service.x509.rules import (
    ca_fault,
    client_purpose_fault,
    critical_extension_fault,
    signature_fault,
    validity_fault,
)
from handclasp.errors import InvalidArgument, Reason

# Issuers looked at for one leaf. Straight chains need one for each certificate; only chains made to tie the search in
# knots, of CAs with one name that sign each other, come near it.
_MAX_CANDIDATES = 100


def build_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    *,
    now: datetime,
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    """The leaf with the intermediates that lead to an anchor, in order, and that anchor.

    Of the leaf itself only the signature, and its names under name constraints, are checked: `check_leaf` does the
    rest.

    Raises:
        InvalidArgument: `CHAIN_NOT_TRUSTED`, with the issuer that was not found, or why the one found will not do.
    """
    search = _Search(_by_subject(intermediates), _by_subject(anchors), now)
    found = search.extend((leaf,))
    if found is None:
        raise InvalidArgument(Reason.CHAIN_NOT_TRUSTED, search.explanation())
    _check_name_constraints(*found)
    return found


def _by_subject(certificates: Sequence[x509.Certificate]) -> dict[x509.Name, list[x509.Certificate]]:
    found: dict[x509.Name, list[x509.Certificate]] = {}
    for certificate in certificates:
        found.setdefault(certificate.subject, []).append(certificate)
    return found


@dataclass(slots=True)
class _Search:
    intermediates: dict[x509.Name, list[x509.Certificate]]
    anchors: dict[x509.Name, list[x509.Certificate]]
    now: datetime
    candidates_left: int = _MAX_CANDIDATES
    # Depth and text: what kept the search from going on, to be told if it fails.
    dead_ends: list[tuple[int, str]] = field(default_factory=list)

    def extend(
        self, path: tuple[x509.Certificate, ...]
    ) -> tuple[tuple[x509.Certificate, ...], x509.Certificate] | None:
        child = path[-1]
        fault = signature_fault(child)
        if fault is not None:
            self.dead_ends.append((len(path), f"The certificate of {shown(child.subject)} {fault}."))
            return None
        named = False
        for issuer, is_anchor in self._named_issuers(child):
            if issuer in path:
                continue
            named = True
            if self.candidates_left == 0:
                return None
            self.candidates_left -= 1
            fault = _issuer_fault(issuer, path, self.now)
            if fault is not None:
                self.dead_ends.append((len(path), fault))
            elif is_anchor:
                return path, issuer
            else:
                found = self.extend((*path, issuer))
                if found is not None:
                    return found
        if not named:
            text = (
                f"Nothing was found for {shown(child.issuer)}, which issued the certificate of {shown(child.subject)}. "
                "Send the intermediate certificates along with the leaf, or have that CA added as a trust anchor."
            )
            self.dead_ends.append((len(path), text))
        return None

    def _named_issuers(self, child: x509.Certificate) -> Iterator[tuple[x509.Certificate, bool]]:
        # Anchors first: then a chain sent with its root, or with more than it needs, ends as early as it can.
        for anchor in self.anchors.get(child.issuer, ()):
            yield anchor, True
        for intermediate in self.intermediates.get(child.issuer, ()):
            yield intermediate, False

    def explanation(self) -> str:
        if self.candidates_left == 0:
            return (
                "No way from the certificate to a trust anchor was found in bounded time: too many CAs with one name "
                "sign each other. Send one straight chain."
            )
        # What the longest path ran into is the likeliest to be what somebody has to put right.
        deepest = max(depth for depth, _ in self.dead_ends)
        reason = next(text for depth, text in self.dead_ends if depth == deepest)
        return f"The certificate does not chain to a trust anchor. {reason}"


def _issuer_fault(issuer: x509.Certificate, path: Sequence[x509.Certificate], now: datetime) -> str | None:
    """Why a certificate whose subject is the wanted issuer cannot be the next in the path; a whole sentence."""
    child, who = path[-1], f"The CA certificate of {shown(issuer.subject)}"
    fault = (
        ca_fault(issuer)
        or validity_fault(issuer, now)
        or client_purpose_fault(issuer)
        or critical_extension_fault(issuer)
        or _path_length_fault(issuer, path)
    )
    if fault is not None:
        return f"{who} {fault}."
    if not _is_meant(issuer, child):
        return f"{who} is not the one meant: another key identifier, or serial number, is named as the issuer's."
    try:
        check_ca_key(read_public_key(issuer))
    except InvalidArgument as error:
        return f"{who} cannot be used. {error.message}"
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return (
            f"{who} did not sign the certificate of {shown(child.subject)}: the signature is not by its key. "
            "Another CA may have the same name."
        )
    return None


def _check_name_constraints(path: Sequence[x509.Certificate], anchor: x509.Certificate) -> None:
    # Once, on the path found, as TLS stacks do, and not while searching: until the path has reached an anchor, all of
    # it may be made by whoever sent it, to keep the service busy.
    whole = (*path, anchor)
    for position, ca in enumerate(whole[1:], start=1):
        for below in whole[:position]:
            if below is not path[0] and is_self_issued(below):
                continue
            fault = name_constraints_fault(ca, below)
            if fault is not None:
                text = f"The certificate of {shown(below.subject)} {fault}. Its CA is {shown(ca.subject)}."
                raise InvalidArgument(Reason.CHAIN_NOT_TRUSTED, text)


def _path_length_fault(issuer: x509.Certificate, path: Sequence[x509.Certificate]) -> str | None:
    constraints = extension(issuer, x509.BasicConstraints)
    if constraints is None or constraints.path_length is None:
        return None
    # Self-issued intermediates do not count, nor does the leaf (RFC 5280, section 4.2.1.9).
    intermediates = sum(not is_self_issued(certificate) for certificate in path[1:])
    if intermediates > constraints.path_length:
        return f"allows {constraints.path_length} CAs below it, and there are {intermediates} (pathLenConstraint)"
    return None


def _is_meant(issuer: x509.Certificate, child: x509.Certificate) -> bool:
    """Whether the child's authority key identifier, as far as it has one, points at this issuer."""
    authority = extension(child, x509.AuthorityKeyIdentifier)
    if authority is None:
        return True
    own = extension(issuer, x509.SubjectKeyIdentifier)
    if authority.key_identifier is not None and own is not None and authority.key_identifier != own.digest:
        return False
    serial = authority.authority_cert_serial_number
    if serial is not None and serial != issuer.serial_number:
        return False
    names = [name.value for name in authority.authority_cert_issuer or () if isinstance(name, x509.DirectoryName)]
    return not names or issuer.issuer in names
