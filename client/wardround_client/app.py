"""Flower's `ClientApp` around a site. Wiring only."""

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from wardround_client.site import Site
from wardround_shared.messages import Header, read_header, read_model


def build_client_app(site_of: Callable[[Context], Site]) -> ClientApp:
    """A `ClientApp` that answers for the site that `site_of` finds for a node's context."""
    app = ClientApp()

    def opened(message: Message, context: Context) -> tuple[Site, Header]:
        site = site_of(context)
        header = read_header(message.content)
        site.check(header)
        return site, header

    def reply(message: Message, content: RecordDict) -> Message:
        return Message(content, reply_to=message)

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        site, _ = opened(message, context)
        return reply(message, site.greet())

    @app.query("class_counts")
    def class_counts(message: Message, context: Context) -> Message:
        site, _ = opened(message, context)
        return reply(message, site.class_counts())

    @app.query("statistics")
    def statistics(message: Message, context: Context) -> Message:
        site, _ = opened(message, context)
        return reply(message, site.statistics(read_model(message.content)))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site, header = opened(message, context)
        return reply(message, site.train(header, read_model(message.content), context.state))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        site, header = opened(message, context)
        return reply(message, site.evaluate(header, read_model(message.content)))

    return app
