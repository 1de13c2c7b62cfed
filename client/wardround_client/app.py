"""Flower's `ClientApp` around a site. Wiring only."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

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
    Header,
    read_header,
    read_model,
    read_secure,
    request_digest,
)

Answer = Callable[[Message, Context], Message]


class Sites(Protocol):
    """Finds the site that answers a request."""

    def offered(self, header: Header, content: RecordDict) -> None:
        """Take what the first message of a run brings, before the site is asked for.

        Raises:
            WardroundError: this site does not take part.
        """

    def agreed(self, header: Header, content: RecordDict) -> RecordDict:
        """Agree to the sites of a run, or refuse; the content of the answer.

        Raises:
            WardroundError: refused.
        """

    def site(self, context: Context, header: Header, *, touching: bool) -> Site:
        """The site that answers a request of this run.

        Args:
            context: of the node.
            header: of the request.
            touching: whether it asks for something that is made of data; exchanges that only end
                a sum are answered at any hour.

        Raises:
            WardroundError: this site does not take part in it.
        """


class KnownSites:
    """Sites that know study and roster beforehand, as in a simulation."""

    def __init__(self, site_of: Callable[[Context], Site]) -> None:
        self._site_of = site_of

    def offered(self, header: Header, content: RecordDict) -> None:
        """Nothing comes with the first message."""

    def agreed(self, header: Header, content: RecordDict) -> RecordDict:
        """Nothing is left to agree to."""
        return RecordDict()

    def site(self, context: Context, header: Header, *, touching: bool) -> Site:
        """The site of a node's context."""
        return self._site_of(context)


def build_client_app(sites: Sites, *, repeats: bool = False) -> ClientApp:
    """A `ClientApp` that answers for the sites that `sites` finds.

    Args:
        sites: finds them.
        repeats: whether requests may come twice, so that each is told by its digest.
    """
    app = ClientApp()

    def opened(
        message: Message, context: Context, *, touching: bool = False
    ) -> tuple[Site, Request]:
        request = _request(message.content)
        site = sites.site(context, request.header, touching=touching)
        site.check(request.header)
        return site, request

    def with_model(
        kind: str, message: Message, context: Context
    ) -> tuple[Site, Request, GlobalModel]:
        site, request = opened(message, context, touching=True)
        model = read_model(message.content)
        if request.secure or repeats:
            request = replace(request, digest=request_digest(kind, request.header, model))
        return site, request, model

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        sites.offered(read_header(message.content), message.content)
        site, request = opened(message, context)
        return _reply(message, site.greet(request.header.run, context.state))

    @app.query("terms")
    def terms(message: Message, context: Context) -> Message:  # noqa: ARG001
        return _reply(message, sites.agreed(read_header(message.content), message.content))

    @app.query("class_counts")
    def class_counts(message: Message, context: Context) -> Message:
        site, request, _ = with_model(CLASS_COUNTS, message, context)
        return _reply(message, site.class_counts(request))

    @app.query("statistics")
    def statistics(message: Message, context: Context) -> Message:
        site, request, model = with_model(STATISTICS, message, context)
        return _reply(message, site.statistics(request, model))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site, request, model = with_model(TRAIN, message, context)
        return _reply(message, site.train(request, model, context.state))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        site, request, model = with_model(EVALUATE, message, context)
        return _reply(message, site.evaluate(request, model, context.state))

    def without_data(answer: Callable[[Site, Request], RecordDict]) -> Answer:
        """An exchange that only prepares or ends a sum."""

        def exchange(message: Message, context: Context) -> Message:
            site, request = opened(message, context)
            return _reply(message, answer(site, request))

        return exchange

    app.query("keys")(without_data(Site.set_up))
    app.query("confirm")(without_data(Site.confirm))
    app.query("unmask")(without_data(Site.unmask))
    return app


def _reply(message: Message, content: RecordDict) -> Message:
    return Message(content, reply_to=message)


def _request(content: RecordDict) -> Request:
    return Request(header=read_header(content), secure=read_secure(content), digest=b"")
