"""A certificate that lives as long as one coordinator, and that only its own processes trust."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bulkfetch.errors import EngineError

_NAME = "bulkfetch coordinator"
_LIFETIME = timedelta(days=3650)
"""Nobody looks at the dates: the fingerprint is what is compared."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a coordinator proves itself with."""

    context: ssl.SSLContext
    fingerprint: str


def make_identity() -> Identity:
    """Make a new key and its certificate. The key is in no file once this returns. Blocks."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with TemporaryDirectory() as folder:  # the ssl module takes keys from files only
        file = Path(folder, "identity.pem")
        file.touch(mode=0o600)
        file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(file)
    return Identity(context, _fingerprint_of(certificate.public_bytes(Encoding.DER)))


def client_context() -> ssl.SSLContext:
    """Return how to connect to a coordinator: `check_certificate` has to follow."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nobody has signed it: the fingerprint proves it
    return context


def check_certificate(der: bytes | None, fingerprint: str) -> None:
    """Raise EngineError if a server's certificate is not the one with that fingerprint."""
    if not hmac.compare_digest(_fingerprint_of(der or b""), fingerprint):
        raise EngineError("another program answers there: its certificate is not the coordinator's")


def _fingerprint_of(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()
