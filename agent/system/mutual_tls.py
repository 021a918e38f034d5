"""Certificates for one server and its one client, by an authority that signs nothing else."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Clocks differ.
_BEFORE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class MutualTls:
    """Both sides of a connection: PEM files `ca.pem`, `cert.pem` and `key.pem`."""

    server: dict[str, bytes] = field(repr=False)
    client: dict[str, bytes] = field(repr=False)


def make_mutual_tls(server_name: str, lifetime: timedelta) -> MutualTls:
    """Certificates for a server of that name; the authority's key is forgotten."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("launch-agent build")
    authority = (
        _builder(name, name, key.public_key(), lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_SIGNS, critical=True)
        .sign(key, hashes.SHA256())
    )

    def bearer(subject: str, usage: x509.ObjectIdentifier) -> dict[str, bytes]:
        own = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(subject), name, own.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(key, hashes.SHA256())
        )
        secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {
            "ca.pem": authority.public_bytes(Encoding.PEM),
            "cert.pem": certificate.public_bytes(Encoding.PEM),
            "key.pem": secret,
        }

    return MutualTls(
        bearer(server_name, ExtendedKeyUsageOID.SERVER_AUTH),
        bearer("client", ExtendedKeyUsageOID.CLIENT_AUTH),
    )


_SIGNS: Final = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=False,
    encipher_only=False, decipher_only=False,
)  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + lifetime)
    )
