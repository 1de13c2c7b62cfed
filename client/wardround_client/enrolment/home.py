"""A site's folder: where everything lies, how it is made, and how it is opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wardround_client.enrolment.keys import KeyFiles, SiteKeys
from wardround_client.enrolment.settings import SiteSettings, parse_settings, settings_text
from wardround_client.ledger import Ledger
from wardround_client.policy import TEMPLATE
from wardround_shared.consortium import files
from wardround_shared.errors import EnrolmentError, LedgerError


@dataclass(frozen=True, kw_only=True)
class SiteHome:
    """The folder of a site, mode 0700; its files have mode 0600."""

    folder: Path

    @classmethod
    def init(cls, folder: Path, name: str) -> Self:
        """Make a home: keys, policy, settings, an empty ledger.

        One that was half made by a crash is completed if it is of the same name.

        Args:
            folder: not there, empty, or half made.
            name: of the site.

        Raises:
            EnrolmentError: the folder is not empty, or the name is none, or the disk is full.
            LedgerError: part of a ledger is there.
        """
        home = cls(folder=folder)
        text = settings_text(name)
        files.make_folder(folder)
        with files.changing(folder):
            if not home._half_made.exists():
                files.take_empty(folder)
                content = SiteKeys.generate().content(home.keys)
                content[home.settings_file] = text.encode()
                content[home.policy] = TEMPLATE.encode()
                content[home._half_made] = b"wardround-site init has not ended yet.\n"
                files.change_together(folder, content)
            home._complete(name)
        return home

    @classmethod
    def open(cls, folder: Path, *, keys: bool = True) -> Self:
        """Open a home, and finish a change that a crash has interrupted.

        Args:
            folder: of the home.
            keys: whether its keys have to be in order, too.

        Raises:
            EnrolmentError: there is none, it is half made, or its keys are missing, damaged, or
                open to others.
        """
        home = cls(folder=folder)
        if not files.holds(folder, home.settings_file):
            raise EnrolmentError(
                f"{folder}: there is no site home here (no site.toml); make one with "
                "wardround-site init, or name another folder with --home."
            )
        with files.changing(folder):
            if home._half_made.exists():
                raise EnrolmentError(
                    f"{folder}: this home is half made; run wardround-site init again, with the "
                    f"same name, {home.settings().name}."
                )
        if keys:
            home.own_keys()
        return home

    @property
    def settings_file(self) -> Path:
        """site.toml."""
        return self.folder / "site.toml"

    @property
    def policy(self) -> Path:
        """What the hospital allows."""
        return self.folder / "policy.toml"

    @property
    def keys(self) -> KeyFiles:
        """The keys in force."""
        return KeyFiles(folder=self.folder / "keys")

    @property
    def next_keys(self) -> KeyFiles:
        """New keys, until the roster has them."""
        return KeyFiles(folder=self.folder / "keys" / "next")

    @property
    def retired_keys(self) -> KeyFiles:
        """The keys before, for runs that began with them."""
        return KeyFiles(folder=self.folder / "keys" / "retired")

    @property
    def authorities(self) -> Path:
        """CA certificates by which this site knows the server."""
        return self.folder / "server" / "ca.pem"

    @property
    def consortium(self) -> Path:
        """The consortium's public key."""
        return self.folder / "server" / "consortium.pem"

    @property
    def roster(self) -> Path:
        """The newest version that this site has."""
        return self.folder / "server" / "roster.json"

    @property
    def data_sets(self) -> Path:
        """Where the data sets are."""
        return self.folder / "data.toml"

    @property
    def deidentification(self) -> Path:
        """The keys under which images were de-identified, one for each project."""
        return self.folder / "deidentification"

    @property
    def studies(self) -> Path:
        """Studies and what was decided about them."""
        return self.folder / "studies"

    @property
    def runs(self) -> Path:
        """What this site did in each run."""
        return self.folder / "runs"

    @property
    def cache(self) -> Path:
        """Decoded cohorts."""
        return self.folder / "cache"

    @property
    def audit_log(self) -> Path:
        """The audit log."""
        return self.folder / "audit.jsonl"

    @property
    def joined(self) -> bool:
        """Whether an answer was accepted."""
        return self.roster.exists()

    def settings(self) -> SiteSettings:
        """What site.toml says now.

        Raises:
            EnrolmentError: it cannot be read, or a key or value is wrong.
        """
        return parse_settings(self.settings_text(), origin=str(self.settings_file))

    def settings_text(self) -> str:
        """The text of site.toml.

        Raises:
            EnrolmentError: it cannot be read.
        """
        try:
            return files.read_file(self.settings_file).decode()
        except UnicodeDecodeError as error:
            raise EnrolmentError(f"{self.settings_file}: this is not UTF-8 text.") from error

    def own_keys(self) -> SiteKeys:
        """The keys in force.

        Raises:
            EnrolmentError: missing, damaged, or open to others than the site's user.
        """
        return SiteKeys.read(self.keys)

    def identity_file(self, identity: str) -> Path:
        """Where the private half of an identity lies, for a run that began with it.

        Args:
            identity: as the roster of that run has it, Ed25519 in hex.

        Raises:
            EnrolmentError: this site does not have it (any more), or cannot read it.
        """
        for known in (self.keys, self.retired_keys):
            if known.exist() and SiteKeys.read(known).identity_hex == identity:
                return known.identity
        raise EnrolmentError(
            f"{self.keys.folder}: the run wants this site's identity {identity[:16]}..., which is "
            "not here; its keys were replaced more than once since the run began."
        )

    @property
    def _half_made(self) -> Path:
        """Is there while `init` is under way. A home with it was never opened, so never used."""
        return self.folder / "init.unfinished"

    def _complete(self, name: str) -> None:
        known = self.settings().name
        if known != name:
            raise EnrolmentError(
                f"{self.folder}: a half-made home of the site {known} is here; name that site, or "
                "another folder."
            )
        if Ledger.traces(self.folder):
            self._require_unused_ledger(name)
        else:
            Ledger.create(self.folder, site=name)
        files.change_together(self.folder, {self._half_made: None})

    def _require_unused_ledger(self, name: str) -> None:
        try:
            used = Ledger.open(self.folder, site=name).entries()
        except LedgerError as error:
            raise EnrolmentError(
                f"{self.folder}: making this home was broken off inside the ledger; nothing was "
                "ever spent in it, so remove the folder and run wardround-site init again."
            ) from error
        if used:
            raise EnrolmentError(
                f"{self.folder}: this home is marked as half made (init.unfinished), and its "
                "ledger was used; bring the home back from a backup."
            )
