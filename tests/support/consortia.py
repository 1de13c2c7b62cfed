"""A coordinating centre and its hospitals, as their people would bring them together."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.joining import accept, write_request
from wardround_server.enrolment.admission import Admitted, admit, read_request
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import current_roster
from wardround_server.enrolment.settings import settings_text

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADDRESS = "localhost:9092"
DAY = timedelta(days=1)


@dataclass
class Consortium:
    """Everything below one folder; each admission is a minute later than the one before."""

    folder: Path
    address: str = ADDRESS
    now: datetime = NOW
    home: ServerHome = field(init=False)

    def __post_init__(self):
        text = settings_text(address=self.address, names=("127.0.0.1",))
        self.home = ServerHome.init(self.folder / "server", settings=text, now=self.now)

    def site(self, name: str) -> SiteHome:
        return SiteHome.init(self.folder / name, name)

    def later(self, by: timedelta = timedelta(minutes=1)) -> datetime:
        self.now += by
        return self.now

    def request(self, site: SiteHome) -> Path:
        file = self.folder / f"{site.folder.name}.wardround-request"
        write_request(site, file, now=self.later())
        return file

    def admit(self, file: Path) -> Admitted:
        candidate = read_request(self.home, file)
        answer = self.folder / f"{file.stem}.wardround-answer"
        return admit(self.home, candidate, answer=answer, now=self.later())

    def join(self, site: SiteHome) -> Admitted:
        admitted = self.admit(self.request(site))
        accept(site, admitted.answer, fingerprint=admitted.fingerprint, now=self.later())
        return admitted

    def roster(self) -> bytes:
        return current_roster(self.home).to_bytes()


def edited(data: bytes, **changes: object) -> bytes:
    """A document with other values at its top."""
    return json.dumps(json.loads(data) | changes).encode()


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder but its lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "home.lock"
    }
