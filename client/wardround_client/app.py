"""Flower's `ClientApp` around a site. Wiring only."""

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from wardround_client.site import Request, Site
from wardround_shared.messages import model_digest, read_header, read_model, read_secure


def build_client_app(site_of: Callable[[Context], Site]) -> ClientApp:
    """A `ClientApp` that answers for the site that `site_of` finds for a node's context."""
    app = ClientApp()

    def opened(message: Message, context: Context) -> tuple[Site, Request]:
        site = site_of(context)
        header = read_header(message.content)
        site.check(header)
        secure = read_secure(message.content)
        digest = model_digest(message.content) if secure else b""
        return site, Request(header=header, secure=secure, digest=digest)

    def reply(message: Message, content: RecordDict) -> Message:
        return Message(content, reply_to=message)

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        site, _ = opened(message, context)
        return reply(message, site.greet())

    @app.query("class_counts")
    def class_counts(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        return reply(message, site.class_counts(request))

    @app.query("statistics")
    def statistics(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        return reply(message, site.statistics(request, read_model(message.content)))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        return reply(message, site.train(request, read_model(message.content), context.state))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        return reply(message, site.evaluate(request, read_model(message.content)))

    @app.query("keys")
    def keys(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        return reply(message, site.set_up(request))

    @app.query("confirm")
    def confirm(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        return reply(message, site.confirm(request))

    @app.query("unmask")
    def unmask(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        return reply(message, site.unmask(request))

    return app
