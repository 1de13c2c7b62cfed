"""One client app answers one message, whatever happens in it; the same in every backend."""

import logging
from collections.abc import Callable

from flwr.app import Context, Message

from wardround_shared.errors import WardroundError
from wardround_simulations.backends.flower import app_raised

_log = logging.getLogger(__name__)


def answer(
    app: Callable[[Message, Context], Message], message: Message, context: Context
) -> Message:
    """Return the app's reply to `message`, or an error reply if it raised.

    The reply leaves the site, so it holds an exception's class and no more: its text may quote a
    record or a path. Only errors of ours that say so are written to be read elsewhere (see
    `WardroundError.may_leave_site`). The sentence and the traceback stay in the site's own log.
    """
    site = context.node_config["site"]
    try:
        return app(message, context)
    except WardroundError as error:
        _log.debug("site %s refused", site, exc_info=True)
        reason = _fit_to_leave(site, error)
    except Exception as error:  # noqa: BLE001  (whatever fails at a site, the round goes on)
        _log.error("the client app of site %s failed", site, exc_info=True)
        reason = type(error).__name__
    return Message(app_raised(reason), reply_to=message)


def _fit_to_leave(site: object, error: WardroundError) -> str:
    """The error's sentence if it may leave; else its class, and the sentence goes to the log."""
    if error.may_leave_site:
        return str(error)
    _log.error("site %s: %s", site, error)
    return type(error).__name__
