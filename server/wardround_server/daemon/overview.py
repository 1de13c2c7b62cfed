"""What a person wants to know of a server: sites, runs, who is waited for and since when."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wardround_server.daemon.runs import RECORD, RunRecord, Runs
from wardround_server.enrolment.heard import heard
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import current_roster
from wardround_shared.commands import add_row, console, plain, table
from wardround_shared.errors import RunFolderError
from wardround_shared.times import utc_now

DAEMON = "daemon.json"
"""What the daemon says of itself every few seconds."""

_STALE_SECONDS = 15.0
_AGAIN_SECONDS = 1.0


def overview(home: ServerHome) -> dict[str, Any]:
    """Sites of the roster and all runs, as JSON."""
    daemon = _daemon(home)
    online = daemon.get("sites", {})
    runs, roster, known = Runs(home.runs), current_roster(home), heard(home)
    return {
        "running": bool(daemon),
        "serving": bool(daemon.get("serving", False)),
        "roster_version": roster.version,
        "sites": [
            {
                "site": line.site,
                "admitted": line.admitted,
                "roster_version": known.get(line.site),
                "online": online.get(line.site, {}).get("online", False),
                "since": online.get(line.site, {}).get("since", ""),
            }
            for line in roster.lines
        ],
        "runs": [
            {
                "run": record.name,
                "study": record.study,
                "study_id": record.study_id,
                "state": record.state,
                "why": record.why,
            }
            | {"progress": runs.status(record.name), "participation": runs.took_part(record.name)}
            for record in (*runs.all(), *_unreadable(runs))
        ],
    }


def _unreadable(runs: Runs) -> list[RunRecord]:
    """Runs whose folder cannot be looked into; of them nothing is known but their name."""
    found = []
    for folder in _folders(runs):
        try:
            (folder / RECORD).stat()
        except (FileNotFoundError, NotADirectoryError):
            continue  # no run, or not yet
        except OSError as error:
            why = f"{folder}: this folder cannot be read ({error.strerror}); see who may read it."
            found.append(
                RunRecord(name=folder.name, study="", study_id="", state="failed", why=why)
            )
    return found


def _folders(runs: Runs) -> list[Path]:
    try:
        return sorted(runs.folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(
            f"{runs.folder}: this folder cannot be read ({error.strerror}); see who may read it."
        ) from error


def print_overview(content: dict[str, Any]) -> None:
    """The overview for a terminal or a file."""
    console().print(_drawn(content))


def watch_overview(home: ServerHome) -> None:
    """A live table, until it is interrupted."""
    with Live(_drawn(overview(home)), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(_AGAIN_SECONDS)
            live.update(_drawn(overview(home)), refresh=True)


def _drawn(content: dict[str, Any]) -> Group:
    parts: list[Text | Table] = [
        Text(f"{_standing(content)}; roster version {content['roster_version']}")
    ]
    sites = table("Sites", "site", "admitted", "roster", "connection", "since")
    for one in content["sites"]:
        state = "connected" if one["online"] else "not connected"
        version = str(one["roster_version"] or "")
        add_row(sites, one["site"], one["admitted"], version, state, _ago(one["since"]))
    parts.append(sites)
    if not content["runs"]:
        parts.append(Text("There is no run yet."))
    for run in content["runs"]:
        parts += _run(run)
    return Group(*parts)


def _standing(content: dict[str, Any]) -> str:
    if content["serving"]:
        return "serving"
    if content["running"]:
        return "the daemon is running, but sites cannot connect yet; if it stays so, see its log"
    return "the daemon is not running"


def _run(run: dict[str, Any]) -> list[Text | Table]:
    said = run["progress"]
    line = f"{run['run']} ({run['study']}, {run['study_id'][:12]}): {run['state']}"
    if run["state"] == "running" and said:
        line += f", round {said.get('round', 0)} of {said.get('rounds', 0)}, {said.get('stage')}"
        if said.get("attempt", 1) > 1:
            line += f", attempt {said['attempt']}"
    parts: list[Text | Table] = [plain(line)]
    if run["participation"]:
        parts.append(Text(f"  {run['participation']}"))
    if run["why"]:
        parts.append(plain(f"  {run['why']}"))
    if run["state"] != "running":
        return parts
    waiting = table("waited for", "site", "why", "progress", "since")
    for site, why in said.get("waiting_for", {}).items():
        at = said.get("sites", {}).get(site, {})
        # Since when it has moved: a site does not tell how much of its work is done.
        progress = f"{at['stage']}, moved {_ago(at['since'])} ago" if at else ""
        add_row(waiting, site, why, progress, _ago(said.get("since", "")))
    for site, one in said.get("missing", {}).items():
        if site not in said.get("waiting_for", {}):
            add_row(waiting, site, f"outside: {one['why']}", "", _ago(one["since"]))
    return [*parts, waiting] if waiting.row_count else parts


def _ago(moment: str) -> str:
    """How long ago, for people."""
    try:
        seconds = (utc_now() - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _daemon(home: ServerHome) -> dict[str, Any]:
    """What the daemon said last, if that is not long ago."""
    try:
        content: dict[str, Any] = json.loads((home.folder / DAEMON).read_text(encoding="utf-8"))
        age = (utc_now() - datetime.fromisoformat(content["updated"])).total_seconds()
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return content if age < _STALE_SECONDS else {}
