"""The server's certificate authority, and certificates for the server (RFC 5280).

The authority is our own: sites trust it and nothing else, so no public authority can make a
certificate that they would take for this server's. EC P-384 with SHA-384.
"""

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wardround_shared.consortium.signatures import private_pem
from wardround_shared.errors import EnrolmentError

AUTHORITY_LIFE = timedelta(days=3652)
SERVER_LIFE = timedelta(days=365)

# A hospital's clock may be behind; a new certificate must not look unborn to it.
_BACKDATED = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key in PEM, not encrypted."""
        return private_pem(self.key)


@dataclass(frozen=True, kw_only=True)
class CertificateFacts:
    """What a person wants to know of a server certificate.

    Attributes:
        names: host names and IP addresses that it is for.
        serial: in hex.
        begins: first moment at which it is valid.
        ends: last moment.
        authority_ends: last moment of the authority that has signed it.
    """

    names: tuple[str, ...]
    serial: str
    begins: datetime
    ends: datetime
    authority_ends: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate, authority: x509.Certificate) -> Self:
        """The facts of a certificate."""
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return cls(
            names=tuple(str(name.value) for name in names),
            serial=f"{certificate.serial_number:x}",
            begins=certificate.not_valid_before_utc,
            ends=certificate.not_valid_after_utc,
            authority_ends=authority.not_valid_after_utc,
        )


def new_authority(*, now: datetime) -> Issued:
    """A certificate authority for ten years, which may sign servers and no further authorities."""
    key = ec.generate_private_key(ec.SECP384R1())
    serial = x509.random_serial_number()
    # Old and new authority have to differ by name, so that chains are found by it.
    name = _name(f"Wardround server authority {serial:040x}"[:64])
    builder = (
        _builder(name, issuer=name, key=key, serial=serial)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
    )
    return Issued(certificate=builder.sign(key, hashes.SHA384()), key=key)


def new_server_certificate(
    authority: Issued, *, names: tuple[str, ...], now: datetime, life: timedelta = SERVER_LIFE
) -> Issued:
    """A certificate for the server, with a key of its own.

    Args:
        authority: that signs it.
        names: host names and IP addresses.
        now: it is valid from a day before.
        life: and until so long after, or the end of its authority if that comes first.

    Raises:
        EnrolmentError: the authority is not valid any more.
    """
    signed_by = authority.certificate
    if not signed_by.not_valid_before_utc <= now < signed_by.not_valid_after_utc:
        raise EnrolmentError(
            "The certificate authority of this server is not valid today; see to the clock, or "
            "replace it: wardround-server certificates rotate."
        )
    key = ec.generate_private_key(ec.SECP384R1())
    serial = x509.random_serial_number()
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(_name("Wardround server"), issuer=signed_by.subject, key=key, serial=serial)
        .not_valid_before(max(now - _BACKDATED, signed_by.not_valid_before_utc))
        .not_valid_after(min(now + life, signed_by.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    return Issued(certificate=builder.sign(authority.key, hashes.SHA384()), key=key)


def load_key(pem: bytes, *, origin: str) -> ec.EllipticCurvePrivateKey:
    """An EC private key.

    Raises:
        EnrolmentError: damaged, or another kind of key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrolmentError(
            f"{origin}: this is no EC private key in PEM; bring it back from a backup."
        )
    return key


def load_certificate(pem: bytes, *, origin: str) -> x509.Certificate:
    """A certificate.

    Raises:
        EnrolmentError: damaged.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise EnrolmentError(
            f"{origin}: this is no certificate in PEM; bring it back from a backup."
        ) from error


def _builder(
    subject: x509.Name, *, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, serial: int
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
