"""One client app answers one message, whatever happens in it; the same in every backend."""

from collections.abc import Callable

from flwr.app import Context, Message

from wardround_client.refusals import reason_of
from wardround_simulations.backends.flower import app_raised


def answer(
    app: Callable[[Message, Context], Message], message: Message, context: Context
) -> Message:
    """Return the app's reply to `message`, or an error reply with what may leave the site."""
    try:
        return app(message, context)
    except Exception as error:  # noqa: BLE001  (whatever fails at a site, the round goes on)
        reason = reason_of(error, site=context.node_config["site"])
        return Message(app_raised(reason), reply_to=message)
