"""New keys for a site, without stopping a run.

The new pair lies in keys/next, and the old one goes on, until a version of the roster has the new
one. Then they change places at once: the old pair goes to keys/retired, since a run that began with
the old identity ends with it. It is written over by the next rotation.
"""

from datetime import datetime
from pathlib import Path

from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.joining import RequestFacts, send_request
from wardround_client.enrolment.keys import SiteKeys
from wardround_shared.consortium import files


def rotate(home: SiteHome, file: Path, *, now: datetime, afresh: bool = False) -> RequestFacts:
    """Make new keys, or take those that were made before and are not in force yet; write a request.

    Args:
        home: of this site.
        file: the request, to be sent to the coordinating centre.
        now: the time.
        afresh: for keys that were stolen, or a site that was revoked: always new keys, since those
            made before may be stolen too, and the old identity is not asked to agree. The centre
            has to revoke the site first.

    Raises:
        EnrolmentError: a key cannot be used, or a file cannot be written.
    """
    files.require_place(file)
    with files.changing(home.folder):
        if afresh or not home.next_keys.exist():
            files.change_together(home.folder, SiteKeys.generate().content(home.next_keys))
        new = SiteKeys.read(home.next_keys)
    previous = None if afresh else home.own_keys()
    return send_request(home, file, new, now=now, previous=previous)


def abandon(home: SiteHome) -> bool:
    """Forget new keys that are not in force: the centre did not admit them, say.

    Returns:
        Whether there were any.

    Raises:
        EnrolmentError: the home cannot be written.
    """
    with files.changing(home.folder):
        if not home.next_keys.exist():
            return False
        files.change_together(home.folder, dict.fromkeys(home.next_keys.all()))
    return True
