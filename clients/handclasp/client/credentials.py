"""What a client presents, and what it checks servers with."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from handclasp.errors import InvalidArgument, Reason, invalid_field


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What a client checks servers with, and what it presents.

    Attributes:
        authorities: CA certificates as PEM; a server must chain to one of them.
        certificate: the client certificate and then its intermediates as PEM; None for one-way TLS.
        key: its private key as unencrypted PEM; None exactly if `certificate` is.

    Raises:
        InvalidArgument: one of them is empty (FILE_NOT_USABLE), or certificate and key are not both given.
    """

    authorities: bytes
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.authorities.strip():
            raise InvalidArgument(
                Reason.FILE_NOT_USABLE,
                "the CA file is empty; get the CA certificate again with `handclasp trust fetch`",
            )
        if (self.certificate is None) != (self.key is None):
            raise invalid_field("key", "a client certificate and its private key go together; give both or neither")
        # gRPC's core ends the process if it is given empty ones.
        for content, what in ((self.certificate, "the client certificate"), (self.key, "the private key")):
            if content is not None and not content.strip():
                raise InvalidArgument(
                    Reason.FILE_NOT_USABLE, f"{what} is empty; check that it was read from the right file"
                )


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """A user's id and password, as HTTP Basic (RFC 7617) carries them."""

    username: str
    password: str = field(repr=False)

    def header(self) -> str:
        """The value of the `authorization` metadata. A secret.

        Raises:
            InvalidArgument: a colon in the user's id, which Basic cannot carry.
        """
        if ":" in self.username:
            raise invalid_field("username", "a user's id has no colon; give the id, without `users/`")
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
