"""What the server learns of a failure at a site: a sentence that is fit to leave, or a class."""

import logging

from wardround_shared.errors import WardroundError

_log = logging.getLogger(__name__)


def reason_of(error: Exception, *, site: object) -> str:
    """The reason that goes to the server; sentence and traceback stay in the site's own log.

    An exception's text may quote a record or a path. Only errors of ours that say so are written
    to be read elsewhere (`WardroundError.may_leave_site`); of any other the class is told.
    """
    if not isinstance(error, WardroundError):
        _log.error("the client app of site %s failed", site, exc_info=error)
        return type(error).__name__
    _log.debug("site %s refused", site, exc_info=error)
    if error.may_leave_site:
        return str(error)
    _log.error("site %s: %s", site, error)
    return type(error).__name__
