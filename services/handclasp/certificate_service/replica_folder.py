"""The data folder of a new replica, from before its CA is certified until it can be started.

The key of its CA is made there and stays there. What else the service keeps is in the database, which replicas share.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from handclasp.certificate_service.certificate_authority import COMPLETE, key_file_of
from handclasp.certificate_service.data_folder import (
    CA_FILE,
    CONTEXT_FILE,
    DATABASE,
    IGNORED,
    KEYS,
    DataFolderError,
    make_data_folder,
)
from handclasp.certificate_service.storage.installation import ISSUING, ROOT
from handclasp.certificate_service.x509.fingerprints import fingerprint
from handclasp.certificate_service.x509.issuing import generate_key, key_to_pem
from handclasp.serving.files import SecretFileError, read_secret, write_atomically, write_secret


def prepare_replica_folder(
    data_dir: Path, root: x509.Certificate, passphrase: bytes | None
) -> ec.EllipticCurvePrivateKey:
    """Makes the folder and the key of the replica's own issuing CA, or finds those of an earlier try.

    From here on the folder is not taken for that of a first start, should it be started with a database that is empty.

    Args:
        root: of the installation that it is to join.
        passphrase: encrypts the key.

    Returns:
        The key, to be certified.
    Raises:
        DataFolderError: it is an installation's data folder, or cannot be used.
    """
    make_data_folder(data_dir)
    keys = data_dir / KEYS
    found = sorted(keys.glob(f"{ISSUING}-*.pem"))
    in_use = (data_dir / CA_FILE, data_dir / CONTEXT_FILE, data_dir / DATABASE, *keys.glob(f"{ROOT}-*.pem"))
    if len(found) > 1 or any(path.exists() for path in in_use):
        raise DataFolderError(
            f"{data_dir} is the data folder of an installation already; choose another --out for this replica"
        )
    keys.mkdir(mode=0o700, exist_ok=True)
    write_atomically(keys / COMPLETE, f"{_fingerprint(root)}\n".encode(), 0o644)
    if found:
        return _read(found[0], passphrase)
    key = generate_key("EC P-256")
    write_secret(keys / key_file_of(ISSUING, key.public_key()), key_to_pem(key, passphrase))
    return key


def look_into_replica_folder(data_dir: Path) -> frozenset[Path]:
    """What is there of all that `prepare_replica_folder` makes in a folder."""
    keys = data_dir / KEYS
    made = (*keys.glob(f"{ISSUING}-*.pem"), keys / COMPLETE, keys, data_dir / IGNORED)
    return frozenset(path for path in made if path.exists())


def restore_replica_folder(data_dir: Path, before: frozenset[Path]) -> None:
    """Removes what `prepare_replica_folder` made, since the key was certainly not certified.

    Args:
        before: what was there before, from `look_into_replica_folder`.
    """
    for path in sorted(look_into_replica_folder(data_dir) - before, reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def finish_replica_folder(
    data_dir: Path, root: x509.Certificate, key: ec.EllipticCurvePrivateKey, authority: x509.Certificate
) -> None:
    """Makes the folder one that the service can be started with, now that the key is certified.

    Raises:
        DataFolderError: that is no certificate of this key under this root.
    """
    try:
        authority.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _not_ours("is not signed by the root", data_dir) from error
    if authority.public_key() != key.public_key():
        raise _not_ours("is for another key", data_dir)
    write_atomically(data_dir / CA_FILE, root.public_bytes(Encoding.PEM), 0o644)


def _not_ours(fault: str, data_dir: Path) -> DataFolderError:
    return DataFolderError(
        f"the CA certificate that came back {fault}; the key in {data_dir / KEYS} stays, since it may be a CA's by"
        " now: tell whoever runs the service, and choose another --out"
    )


def _read(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    try:
        pem = read_secret(path)
        key = load_pem_private_key(pem, passphrase if b"ENCRYPTED" in pem else None)
    except (SecretFileError, ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DataFolderError(
            f"the key {path}, of an earlier try, cannot be read; check key_passphrase, or choose another --out"
        )
    return key


def _fingerprint(root: x509.Certificate) -> str:
    return fingerprint(root.public_bytes(Encoding.DER))
