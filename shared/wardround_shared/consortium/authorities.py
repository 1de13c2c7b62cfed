"""The certificate authorities that a site trusts: one, or two while one takes over."""

from datetime import datetime
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, Field

from wardround_shared.consortium.fields import iso_time
from wardround_shared.errors import EnrolmentError

_MOST = 2


def bundle(certificates: list[x509.Certificate]) -> str:
    """Certificates one after the other in PEM, as TLS libraries read them."""
    return "".join(one.public_bytes(Encoding.PEM).decode("ascii") for one in certificates)


def authorities_of(pem: str) -> list[x509.Certificate]:
    """The certificates of a bundle.

    Raises:
        ValueError: not one or two different CA certificates of EC keys, each good for signing
            certificates of servers and no further authorities; or anything else between them.
    """
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
        sound = all(map(_is_authority, found))
    except (ValueError, x509.ExtensionNotFound):
        raise ValueError("this is no bundle of CA certificates in PEM") from None
    # One encoding, so that nothing travels along, a private key say, that nobody looked at.
    if not sound or bundle(found) != pem:
        raise ValueError("only CA certificates with EC keys and path length 0 may stand here")
    if not 1 <= len(found) <= _MOST or len(set(found)) != len(found):
        raise ValueError(f"there must be 1 to {_MOST} different CA certificates")
    return found


def require_in_force(pem: str, *, now: datetime, origin: str) -> None:
    """Refuse a bundle of which nothing can be used today.

    Raises:
        EnrolmentError: every certificate has expired, or none is valid yet.
    """
    found = authorities_of(pem)
    if any(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in found):
        return
    spans = " and ".join(
        f"{iso_time(one.not_valid_before_utc)} to {iso_time(one.not_valid_after_utc)}"
        for one in found
    )
    raise EnrolmentError(
        f"{origin}: its CA certificate is valid from {spans}, and here it is {iso_time(now)}; see "
        "to this machine's clock, or ask for a new answer file."
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    signs = constraints.ca and constraints.path_length == 0 and usage.key_cert_sign
    return signs and isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def _checked(pem: str) -> str:
    authorities_of(pem)
    return pem


AuthoritiesPem = Annotated[str, Field(max_length=16384), AfterValidator(_checked)]
