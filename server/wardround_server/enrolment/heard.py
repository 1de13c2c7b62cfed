"""Which version of the roster each site is known to have: `heard.json` in the home.

A site that has answered the first message of a run has taken the roster that came with it.
"""

import json
from collections.abc import Mapping

from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import current_roster, history
from wardround_shared.consortium import files


def heard(home: ServerHome) -> dict[str, int]:
    """Site -> version; a site that has answered nothing yet is not in it."""
    try:
        content = json.loads(home.heard.read_text(encoding="utf-8"))
        return {str(site): int(version) for site, version in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # the next run brings it again


def note_heard(home: ServerHome, versions: Mapping[str, int]) -> None:
    """Note the versions of sites.

    Raises:
        EnrolmentError: the home cannot be written.
    """
    if versions.items() <= heard(home).items():
        return
    with files.changing(home.folder):
        known = heard(home) | dict(versions)
        files.change_together(home.folder, {home.heard: json.dumps(known).encode()})


def without_authorities(home: ServerHome) -> tuple[str, ...]:
    """Sites of the roster that are not known to have the authorities in force.

    Raises:
        EnrolmentError, TrustError: as for `history`.
    """
    current = current_roster(home)
    since = current.version
    for earlier in reversed(history(home)):
        if earlier.authorities != current.authorities:
            break
        since = earlier.version
    known = heard(home)
    return tuple(line.site for line in current.lines if known.get(line.site, 0) < since)
