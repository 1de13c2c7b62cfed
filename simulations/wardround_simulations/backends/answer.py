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
    record. Only our own errors are written to be read elsewhere. The traceback stays in the log.
    """
    try:
        return app(message, context)
    except WardroundError as error:
        _log.debug("site %s refused", context.node_config["site"], exc_info=True)
        reason = str(error)
    except Exception as error:  # noqa: BLE001  (whatever fails at a site, the round goes on)
        _log.error("the client app of site %s failed", context.node_config["site"], exc_info=True)
        reason = type(error).__name__
    return Message(app_raised(reason), reply_to=message)
