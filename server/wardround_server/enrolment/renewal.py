"""Replacing the server's certificate, and its authority, without cutting anybody off.

A new server certificate is by the same authority, which sites trust already. A new authority
takes two steps: `rotate_ca` has sites trust both, by a new version of the roster, while the server
goes on with the old one; `finish_rotation`, once the sites have that version, changes over and
drops the old one. After a theft both are done at once, and sites get the roster as a file.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from wardround_server.enrolment.certificates import (
    CertificateFacts,
    Issued,
    load_certificate,
    load_key,
    new_authority,
    new_server_certificate,
)
from wardround_server.enrolment.heard import heard
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import current_roster, following, history, storing
from wardround_shared.consortium import files
from wardround_shared.consortium.authorities import authorities_of, bundle
from wardround_shared.errors import EnrolmentError


@dataclass(frozen=True, kw_only=True)
class RotationFacts:
    """Where a change of authority stands.

    Attributes:
        version: of the roster that says it; sites have to have it before the next step.
        certificate: that the server shows from now on.
    """

    version: int
    certificate: CertificateFacts


def certificate_facts(home: ServerHome) -> CertificateFacts:
    """What the server shows to sites.

    Raises:
        EnrolmentError: a certificate or key is damaged, or they do not belong together.
    """
    certificate = load_certificate(files.read_file(home.certificate), origin=str(home.certificate))
    key = _key(home.certificate_key)
    authority = _authority(home, home.authority_key).certificate
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise EnrolmentError(
            f"{home.certificate}: not signed by the authority in {home.authorities}; run "
            "wardround-server certificates renew."
        ) from error
    if certificate.public_key() != key.public_key():
        raise EnrolmentError(
            f"{home.certificate_key}: this is not the key of {home.certificate}; run "
            "wardround-server certificates renew."
        )
    return CertificateFacts.of(certificate, authority)


def rotating(home: ServerHome) -> bool:
    """Whether a change of authority was begun and not finished."""
    return home.next_authority_key.exists()


def without_authorities(home: ServerHome) -> tuple[str, ...]:
    """Sites of the roster that are not known to have the authorities in force.

    Raises:
        EnrolmentError, TrustError: as for `history`.
    """
    versions = history(home)
    newest, known = versions[-1], heard(home)
    since = len(versions) - 1
    while since and versions[since - 1].authorities == newest.authorities:
        since -= 1
    if since == 0:
        return ()
    # Who was admitted after that has them from its answer.
    concerned = [line.site for line in newest.lines if versions[since - 1].line(line.site)]
    return tuple(site for site in concerned if known.get(site, 0) < versions[since].version)


def renew_server(home: ServerHome, *, now: datetime) -> CertificateFacts:
    """A new server certificate and key by the same authority, for the names in server.toml.

    Raises:
        EnrolmentError: the authority is not valid any more, or a file cannot be used.
    """
    names = home.settings().certificate.names
    with files.changing(home.folder):
        authority = _authority(home, home.authority_key)
        server = new_server_certificate(authority, names=names, now=now)
        files.change_together(home.folder, _showing(home, server))
    return CertificateFacts.of(server.certificate, authority.certificate)


def rotate_ca(
    home: ServerHome, *, now: datetime, consortium_key: Path | None = None
) -> RotationFacts:
    """Begin a change of authority: sites shall trust the old and the new one.

    Raises:
        EnrolmentError: one was begun before, or a file cannot be used.
        TrustError: not the consortium's key.
    """
    key = home.consortium_key(consortium_key)
    with files.changing(home.folder):
        if rotating(home):
            raise EnrolmentError(
                f"{home.folder}: a change of the certificate authority is under way since version "
                f"{current_roster(home).version} of the roster or before; end it first with "
                "wardround-server certificates finish."
            )
        old, new = _authority(home, home.authority_key), new_authority(now=now)
        authorities = bundle([old.certificate, new.certificate])
        roster = following(home, key, now=now, authorities=authorities)
        changes = storing(home, roster)
        changes[home.authorities] = authorities.encode()
        changes[home.next_authority_key] = new.key_pem
        files.change_together(home.folder, changes)
    return RotationFacts(version=roster.version, certificate=certificate_facts(home))


def finish_rotation(
    home: ServerHome,
    *,
    now: datetime,
    consortium_key: Path | None = None,
    at_once: bool = False,
) -> RotationFacts:
    """End a change of authority: the server shows a certificate by the new one, the old one goes.

    A site that does not have the version of the roster with both of them is cut off; it gets the
    newest roster as a file then.

    Args:
        home: of the server.
        now: the time.
        consortium_key: where it is kept, if not in the home.
        at_once: whether sites may be cut off.

    Raises:
        EnrolmentError: none was begun, a site would be cut off, or a file cannot be used.
        TrustError: not the consortium's key.
    """
    key = home.consortium_key(consortium_key)
    names = home.settings().certificate.names
    with files.changing(home.folder):
        if not rotating(home):
            raise EnrolmentError(
                f"{home.folder}: no change of the certificate authority is under way; begin one "
                "with wardround-server certificates rotate."
            )
        left = () if at_once else without_authorities(home)
        if left:
            raise EnrolmentError(
                f"{', '.join(left)}: not known to have the roster with the new authority, which "
                "the next run brings; without it a site is cut off. Wait for a run, or finish "
                "with --at-once."
            )
        new = _authority(home, home.next_authority_key)
        server = new_server_certificate(new, names=names, now=now)
        authorities = bundle([new.certificate])
        roster = following(home, key, now=now, authorities=authorities)
        changes = storing(home, roster) | _showing(home, server)
        changes[home.authorities] = authorities.encode()
        changes[home.authority_key] = new.key_pem
        changes[home.next_authority_key] = None
        files.change_together(home.folder, changes)
    return RotationFacts(
        version=roster.version,
        certificate=CertificateFacts.of(server.certificate, new.certificate),
    )


def _showing(home: ServerHome, server: Issued) -> dict[Path, bytes | None]:
    return {home.certificate: server.certificate_pem, home.certificate_key: server.key_pem}


def _authority(home: ServerHome, key_file: Path) -> Issued:
    """The authority with that key."""
    key = _key(key_file)
    return Issued(certificate=_certificate_of(home, key_file, key.public_key()), key=key)


def _certificate_of(home: ServerHome, key_file: Path, public: object) -> x509.Certificate:
    try:
        found = authorities_of(files.read_file(home.authorities).decode())
    except ValueError as error:
        raise EnrolmentError(
            f"{home.authorities}: {error}; bring it back from a backup."
        ) from error
    for certificate in found:
        if certificate.public_key() == public:
            return certificate
    raise EnrolmentError(
        f"{key_file}: no certificate in {home.authorities} belongs to this key; bring both back "
        "from a backup."
    )


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    return load_key(files.read_secret(file), origin=str(file))
