"""The coordinating centre's folder: where everything lies, how it is made, and how it is opened."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround_server.enrolment.certificates import new_authority, new_server_certificate
from wardround_server.enrolment.settings import ServerSettings, parse_settings
from wardround_shared.consortium import files
from wardround_shared.consortium.authorities import bundle
from wardround_shared.consortium.fields import iso_time
from wardround_shared.consortium.roster_file import SignedRoster
from wardround_shared.consortium.signatures import (
    load_public_key,
    load_signing_key,
    private_pem,
    public_hex,
    public_pem,
)
from wardround_shared.errors import EnrolmentError, TrustError


@dataclass(frozen=True, kw_only=True)
class ServerHome:
    """The folder of a server, mode 0700; its files have mode 0600."""

    folder: Path

    @classmethod
    def init(
        cls, folder: Path, *, settings: str, now: datetime, consortium_key: Path | None = None
    ) -> Self:
        """Make a home, whole or not at all: keys, certificates, settings, an empty roster.

        Args:
            folder: not there, or empty.
            settings: text for server.toml, as `settings_text` gives it.
            now: the time.
            consortium_key: where the consortium's private key shall lie, if not in the home. One
                that lies there already is used: the consortium moves to another server.

        Raises:
            EnrolmentError: the folder is not empty, a setting is wrong, or the disk is full.
        """
        names = parse_settings(settings, origin="server.toml").certificate.names
        home = cls(folder=folder)
        files.make_folder(folder)
        with files.changing(folder):
            files.take_empty(folder)
            key, private = _consortium_key(consortium_key)
            authority = new_authority(now=now)
            server = new_server_certificate(authority, names=names, now=now)
            authorities = bundle([authority.certificate])
            first = SignedRoster.sign(
                key, version=1, issued=iso_time(now), authorities=authorities, lines=()
            )
            content: dict[Path, bytes | None] = {
                home.settings_file: settings.encode(),
                home.consortium_public: public_pem(public_hex(key)),
                home.authorities: authorities.encode(),
                home.authority_key: authority.key_pem,
                home.certificate: server.certificate_pem,
                home.certificate_key: server.key_pem,
                home.roster: first.to_bytes(),
                home.roster_version(1): first.to_bytes(),
            }
            if private is not None:
                content[home.consortium_private] = private
            files.change_together(folder, content)
        return home

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a home, and finish a change that a crash has interrupted.

        Raises:
            EnrolmentError: there is none, or it cannot be written.
        """
        home = cls(folder=folder)
        if not files.holds(folder, home.settings_file):
            raise EnrolmentError(
                f"{folder}: there is no server home here (no server.toml); make one with "
                "wardround-server init, or name another folder with --home."
            )
        with files.changing(folder):
            return home

    @property
    def settings_file(self) -> Path:
        """server.toml."""
        return self.folder / "server.toml"

    @property
    def consortium_private(self) -> Path:
        """Private key that signs the roster, unless it is kept elsewhere."""
        return self.folder / "consortium" / "private.pem"

    @property
    def consortium_public(self) -> Path:
        """Its public half."""
        return self.folder / "consortium" / "public.pem"

    @property
    def roster(self) -> Path:
        """The version in force."""
        return self.folder / "roster.json"

    def roster_version(self, version: int) -> Path:
        """Any version, the one in force too."""
        return self.folder / "rosters" / f"{version}.json"

    @property
    def heard(self) -> Path:
        """Which version each site is known to have."""
        return self.folder / "heard.json"

    @property
    def authorities(self) -> Path:
        """CA certificates that sites trust: one, or two during a rotation."""
        return self.folder / "tls" / "ca.pem"

    @property
    def authority_key(self) -> Path:
        """Key of the authority that signs the server's certificate now."""
        return self.folder / "tls" / "ca.key"

    @property
    def next_authority_key(self) -> Path:
        """During a rotation, key of the authority that will take over."""
        return self.folder / "tls" / "next-ca.key"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.folder / "tls" / "server.pem"

    @property
    def certificate_key(self) -> Path:
        """Its key."""
        return self.folder / "tls" / "server.key"

    @property
    def state(self) -> Path:
        """Database of the SuperLink."""
        return self.folder / "superlink" / "state.db"

    @property
    def runs(self) -> Path:
        """Run folders."""
        return self.folder / "runs"

    @property
    def audit_log(self) -> Path:
        """The audit log."""
        return self.folder / "audit.jsonl"

    def settings(self) -> ServerSettings:
        """What server.toml says now.

        Raises:
            EnrolmentError: it cannot be read, or a key or value is wrong.
        """
        try:
            text = files.read_file(self.settings_file).decode()
        except UnicodeDecodeError as error:
            raise EnrolmentError(f"{self.settings_file}: this is not UTF-8 text.") from error
        return parse_settings(text, origin=str(self.settings_file))

    def consortium(self) -> str:
        """The consortium's public key, Ed25519 in hex.

        Raises:
            EnrolmentError: it cannot be read.
        """
        file = self.consortium_public
        return load_public_key(files.read_file(file), origin=str(file))

    def consortium_key(self, file: Path | None = None) -> Ed25519PrivateKey:
        """The consortium's private key.

        Args:
            file: where it is kept, if not in the home.

        Raises:
            EnrolmentError: it is not there, damaged, or open to others.
            TrustError: it is another consortium's.
        """
        if file is None and not self.consortium_private.exists():
            raise EnrolmentError(
                f"{self.consortium_private}: the consortium's private key is kept elsewhere; name "
                "it with --consortium-key."
            )
        file = file or self.consortium_private
        key = load_signing_key(files.read_secret(file), origin=str(file))
        if public_hex(key) != self.consortium():
            raise TrustError(
                f"{file}: this is not the key of the consortium of {self.folder}; sites would "
                "refuse what it signs."
            )
        return key


def _consortium_key(file: Path | None) -> tuple[Ed25519PrivateKey, bytes | None]:
    """A key, and what is to be stored of it in the home."""
    if file is not None and file.exists():
        return load_signing_key(files.read_secret(file), origin=str(file)), None
    key = Ed25519PrivateKey.generate()
    if file is None:
        return key, private_pem(key)
    files.write_new_secret(file, private_pem(key))
    return key, None
