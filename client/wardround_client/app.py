"""Flower's `ClientApp` around a site. Wiring only."""

from collections.abc import Callable
from dataclasses import replace

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from wardround_client.received import Request
from wardround_client.site import Site
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    STATISTICS,
    TRAIN,
    GlobalModel,
    read_header,
    read_model,
    read_secure,
    request_digest,
)


def build_client_app(site_of: Callable[[Context], Site]) -> ClientApp:
    """A `ClientApp` that answers for the site that `site_of` finds for a node's context."""
    app = ClientApp()

    def opened(message: Message, context: Context) -> tuple[Site, Request]:
        site, request = site_of(context), _request(message.content)
        site.check(request.header)
        return site, request

    def reply(message: Message, content: RecordDict) -> Message:
        return Message(content, reply_to=message)

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        return reply(message, site.greet(request.header.run, context.state))

    @app.query("class_counts")
    def class_counts(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        request, _ = _with_model(CLASS_COUNTS, request, message.content)
        return reply(message, site.class_counts(request))

    @app.query("statistics")
    def statistics(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        request, model = _with_model(STATISTICS, request, message.content)
        return reply(message, site.statistics(request, model))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        request, model = _with_model(TRAIN, request, message.content)
        return reply(message, site.train(request, model, context.state))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        site, request = opened(message, context)
        request, model = _with_model(EVALUATE, request, message.content)
        return reply(message, site.evaluate(request, model))

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


def _request(content: RecordDict) -> Request:
    return Request(header=read_header(content), secure=read_secure(content), digest=b"")


def _with_model(
    message_type: str, request: Request, content: RecordDict
) -> tuple[Request, GlobalModel]:
    """The model of a request for a sum, and the request with its digest if masks depend on it."""
    model = read_model(content)
    if not request.secure:
        return request, model
    return replace(request, digest=request_digest(message_type, request.header, model)), model
