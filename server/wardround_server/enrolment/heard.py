"""Which version of the roster each site is known to have: `heard.json` in the home.

A site that has answered the first message of a run has taken the roster that came with it.
"""

import json
from collections.abc import Mapping

from wardround_server.enrolment.home import ServerHome
from wardround_shared.consortium import files


def heard(home: ServerHome) -> dict[str, int]:
    """Site -> version; a site that has answered nothing yet is not in it."""
    try:
        content = json.loads(home.heard.read_text(encoding="utf-8"))
        return {str(site): int(version) for site, version in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # the next run brings it again


def note_heard(home: ServerHome, versions: Mapping[str, int]) -> None:
    """Note the versions of sites; what was said late lowers none.

    Raises:
        EnrolmentError: the home cannot be written.
    """
    known = heard(home)
    if all(known.get(site, 0) >= version for site, version in versions.items()):
        return
    with files.changing(home.folder):
        known = heard(home)
        newer = {site: max(version, known.get(site, 0)) for site, version in versions.items()}
        content = json.dumps(known | newer).encode()
        files.change_together(home.folder, {home.heard: content})
