"""`wardround-site data deidentify`: where the key is, the audit log, a bar on a terminal."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from wardround_client.deidentification.deidentify import deidentify
from wardround_client.deidentification.project_key import ProjectKey
from wardround_client.deidentification.report import Report
from wardround_client.deidentification.tables import kept
from wardround_client.enrolment.home import SiteHome
from wardround_shared.commands import log_in_order
from wardround_shared.errors import DataError

_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was typed.

    Attributes:
        home: of the site; may be missing if there is a key.
        project: its name.
        key: a key file in place of the home's.
        table: whether to keep the table of who is who.
        looked_at: modalities whose images hold no text.
    """

    home: Path | None
    project: str
    key: Path | None
    table: bool
    looked_at: tuple[str, ...]


def run(source: Path, output: Path, asked: Asked) -> tuple[Report, Path | None]:
    """De-identify, and note it in the site's audit log.

    Returns:
        The counts, and the table of who is who if it was asked for.

    Raises:
        DataError: an option is wrong, a folder cannot be used, or there is no DICOM file.
        EnrolmentError: the home or the key cannot be used.
        AuditError: the audit log cannot be written; nothing is done then.
    """
    _require_sense(asked)
    home = None if asked.home is None else SiteHome.open(asked.home)
    log = None if home is None else log_in_order(home.audit_log)
    if asked.key is not None:
        file, key = asked.key, ProjectKey.read(asked.key, asked.project)
    else:
        assert home is not None
        file = home.deidentification / f"{asked.project}.key"
        key = ProjectKey.read_or_make(file, asked.project)
    table = _table(file, asked.project) if asked.table else None
    if log is not None:
        log.append("deidentified", project=asked.project)
    with _bar() as watch:
        report = deidentify(
            source,
            output,
            key=key,
            looked_at=frozenset(asked.looked_at),
            table=table,
            watch=watch,
        )
    return report, table


def _require_sense(asked: Asked) -> None:
    if asked.home is None and asked.key is None:
        raise DataError(
            "There is no key to make pseudonyms with; name this site's folder with --home, or a "
            "key file with --key."
        )
    if not _PROJECT.fullmatch(asked.project):
        raise DataError(
            f"--project {asked.project!r}: take 1 to 64 letters a-z, digits and hyphens, with no "
            "hyphen in front."
        )
    known = kept().terms["Modality"]
    for modality in asked.looked_at:
        if modality not in known:
            raise DataError(f"--no-text-in {modality!r}: take one of {', '.join(sorted(known))}.")


def _table(key: Path, project: str) -> Path:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return key.parent / f"{project}-{now}.csv"


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and nothing elsewhere."""
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task("de-identifying", total=None)
        yield lambda done, whole: progress.update(task, completed=done, total=whole)
