"""The sites of a run: found once, at its beginning, and held on to.

With secure aggregation a run's roster cannot change: masks and shares are bound to it.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping

from wardround_server.daemon.introduction import Introduction
from wardround_server.greeting import Joined, greet
from wardround_server.observer import Observer
from wardround_server.run_folder import RunFolder
from wardround_shared.errors import RunFolderError
from wardround_shared.messages import Header
from wardround_shared.secure_aggregation.faults import SecureAggregationError
from wardround_shared.secure_aggregation.roster import SMALLEST_COHORT, Roster
from wardround_shared.study import Study

TERMS = "terms.json"
_PAUSE_SECONDS = 2.0


def known_roster(folder: RunFolder) -> Roster | None:
    """The roster of a run that has begun.

    Raises:
        RunFolderError: its file is damaged.
    """
    file = folder.path / TERMS
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Roster.from_bytes(bytes.fromhex(content["roster"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, SecureAggregationError) as error:
        raise RunFolderError(f"{file}: the terms of this run are damaged ({error}).") from error


def gather(
    introduction: Introduction,
    header: Header,
    *,
    study: Study,
    identities: Callable[[], Mapping[str, bytes]],
    wanted: Collection[str],
    folder: RunFolder,
    observer: Observer,
    check: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Roster:
    """Wait for the sites of a new run and form its roster; it is on disk when this returns.

    Args:
        introduction: greets them, and sends no terms yet.
        header: of round 0.
        study: what is learned.
        identities: of the consortium's roster as it is now, site -> Ed25519 key.
        wanted: the sites to wait for; none: whoever has approved the study when there are enough.
        folder: of the run.
        observer: is told whom the run waits for.
        check: called while waiting; raises to break off.
        sleep: waits so many seconds.
    """
    needed = len(wanted) or max(study.aggregation.minimum_sites, SMALLEST_COHORT)
    while True:
        check()
        joined = greet(
            introduction,
            header,
            minimum_sites=needed,
            deadline=study.aggregation.deadline,
            connecting=_PAUSE_SECONDS,
            members=wanted or None,
        )
        known = identities()
        # A site may have been revoked since it greeted.
        names = tuple(name for name in joined.names.values() if name in known)
        if len(names) >= needed:
            break
        observer.waiting(0, _missing(joined, wanted), _sentence(len(names), needed))
        sleep(_PAUSE_SECONDS)
    roster = Roster.of(
        {name: known[name] for name in names},
        minimum_sites=study.aggregation.minimum_sites,
    )
    folder.write_json(TERMS, {"sites": list(roster.sites), "roster": roster.to_bytes().hex()})
    return roster


def _missing(joined: Joined, wanted: Collection[str]) -> dict[str, str]:
    missing = dict.fromkeys(
        (site for site in sorted(wanted) if site not in joined.names.values()), "not connected"
    )
    return missing | {one.site: one.why for one in joined.absent}


def _sentence(there: int, needed: int) -> str:
    return f"{there} of {needed} sites are there to begin with."
