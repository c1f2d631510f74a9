"""What is to be typed on the other machine, with a token that was made for it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from handclasp.certificates.v1.certificate_service_pb2 import TrustBundle
from handclasp.certificates.v1.enrollment_token_pb2 import EnrollmentToken
from handclasp.cli.enrolling import mutual_address
from handclasp.cli.output import moment, print_line
from handclasp.client.addresses import is_loopback, split_addresses
from handclasp.client.context import Context
from handclasp.client.names import resource_id

_NOT_KNOWN = "HOST:PORT"
_DATA_FOLDER = "handclasp-data"


@dataclass(frozen=True, slots=True)
class Instructions:
    """How to use a token.

    Attributes:
        bundle: what the service says of itself.
        context: of whoever made it; it says where the services are, seen from there.
    """

    made: EnrollmentToken
    bundle: TrustBundle
    context: Context

    @property
    def ca_fingerprint(self) -> str:
        """Of the root, in hexadecimal. It comes first in the trust bundle."""
        root = x509.load_pem_x509_certificate(self.bundle.authorities[0].encode())
        return root.fingerprint(hashes.SHA256()).hex()

    @property
    def for_replica(self) -> bool:
        """Whether it makes another replica."""
        return self.made.purpose == EnrollmentToken.PURPOSE_REPLICA

    @property
    def url(self) -> str:
        """Where the other machine is to go, as far as that is known here: to one of several services."""
        known = self.context.certificates_tls
        return _NOT_KNOWN if known is None else split_addresses(known)[0]

    @property
    def command(self) -> str:
        """The command for the other machine. The token is no part of it: whoever looks at the processes there would see
        it, and so would whoever reads the shell's history."""
        replica = ["--replica"] if self.for_replica else []
        words = ["handclasp", "enroll", *replica, "--token-file", "-"]
        words += ["--ca-fingerprint", self.ca_fingerprint, "--url", self.url]
        if self.for_replica:
            return shlex.join([*words, "--out", _DATA_FOLDER])
        words += ["--out", resource_id(self.made.user)]
        mutual = self.context.certificates_mtls
        if mutual is not None and mutual != mutual_address(self.url, self.bundle):
            words += ["--certificates-mtls", mutual]
        if self.context.executions is not None:
            words += ["--executions", self.context.executions]
        return shlex.join(words)

    def fields(self) -> dict[str, str]:
        """What goes into the JSON, beside the token."""
        return {"ca_fingerprint": self.ca_fingerprint, "url": self.url, "command": self.command}

    def show(self) -> None:
        """Prints all of it, for people."""
        made = self.made
        print_line(f"Token: {made.token}")
        what = (
            "makes one machine a CA of this service, which can issue certificates for anybody"
            if self.for_replica
            else f"gives one certificate of {made.user}"
        )
        print_line(f"It is shown once and stored nowhere. It {what}, until {moment(made.expire_time)}.")
        print_line("On the other machine, where the command asks for the token, or reads it from standard input:")
        print_line(f"  {self.command}")
        if self.for_replica:
            print_line("The address must lead to the service where the installation was made: it has the root's key.")
        if self.context.certificates_tls is None:
            print_line(
                f"{_NOT_KNOWN} is the certificate service's one-way TLS listener, which your context does not say."
            )
        elif is_loopback(self.url):
            print_line(
                "Your context has the service on this machine: put in the name by which that machine reaches it."
            )
