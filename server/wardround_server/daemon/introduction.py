"""Greeting in a consortium: the first message brings study and roster, the second the terms.

To the coordinator it is an exchange like any other: a site that does not agree to the terms has not
answered the first message.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import RecordDict

from wardround_server.daemon.delivery import Delivery
from wardround_server.exchange import Answer
from wardround_shared.agreement import (
    TERMS,
    Offer,
    read_agreed,
    require_same_release,
    with_offer,
    with_terms,
)
from wardround_shared.errors import ProtocolError
from wardround_shared.messages import HELLO, read_greeting
from wardround_shared.secure_aggregation.roster import Roster

GATHERING_SECONDS = 20.0
"""How long all sites of a run are waited for before it goes on without some of them."""

ANSWERING_SECONDS = 60.0
"""How long a site may think about the first two messages; it reads its data with the first."""


@dataclass(kw_only=True)
class Introduction:
    """An exchange that introduces a run to each site.

    Attributes:
        delivery: carries the messages.
        offer: what the first message brings; asked each time, since rosters have new versions.
        expected: sites that are to be waited for.
        site_of: the site that a node belongs to by its key; None: of nobody.
        greeted: is told of each site that has taken an offer.
        roster: of the run, once it is known; without it no terms are sent.
        only: nodes to which the introduction is confined.
    """

    delivery: Delivery
    offer: Callable[[], Offer]
    expected: int
    site_of: Callable[[int], str | None]
    greeted: Callable[[str, Offer], None] = lambda _site, _offer: None
    roster: Roster | None = None
    only: tuple[int, ...] | None = None

    def nodes(self, *, at_least: int, deadline: float) -> tuple[int, ...]:
        """Ids of the nodes that are connected; for a while all sites are waited for."""
        if self.only is not None:
            return self.only
        wanted = max(at_least, self.expected)
        found = self.delivery.nodes(at_least=wanted, deadline=GATHERING_SECONDS)
        if len(found) >= at_least:
            return found
        return self.delivery.nodes(at_least=at_least, deadline=deadline)

    def ask(
        self,
        nodes: Sequence[int],
        message_type: str,
        content: RecordDict,
        *,
        group: str,
        deadline: float,
    ) -> Iterator[Answer]:
        """See `Exchange.ask`; the first message of a run becomes two."""
        if message_type != HELLO:
            yield from self.delivery.ask(
                nodes, message_type, content, group=group, deadline=deadline
            )
            return
        greeted: dict[int, Answer] = {}
        wait = min(deadline, ANSWERING_SECONDS)
        offer = self.offer()
        for answer in self.delivery.ask(
            nodes, HELLO, with_offer(content, offer), group=group, deadline=wait
        ):
            failure = self._false_name(answer)
            if failure:
                yield Answer(node_id=answer.node_id, content=None, failure=failure)
                continue
            site = self.site_of(answer.node_id)
            if site is not None:
                self.greeted(site, offer)
            if self.roster is None:
                yield answer
            else:
                greeted[answer.node_id] = answer
        if self.roster is None or not greeted:
            return
        terms = with_terms(content, self.roster.sites)
        for answer in self.delivery.ask(tuple(greeted), TERMS, terms, group=group, deadline=wait):
            failure = _failure(answer, self.roster)
            if failure:
                yield Answer(node_id=answer.node_id, content=None, failure=failure)
            else:
                yield greeted[answer.node_id]

    def ask_each(
        self, requests: Mapping[int, tuple[str, RecordDict]], *, group: str, deadline: float
    ) -> Iterator[Answer]:
        """See `Exchange.ask_each`."""
        return self.delivery.ask_each(requests, group=group, deadline=deadline)

    def _false_name(self, answer: Answer) -> str:
        """Why a greeting cannot be taken for the site that it names, or nothing."""
        if answer.content is None:
            return answer.failure
        try:
            greeting = read_greeting(answer.content)
            named = greeting.site
            require_same_release(greeting.software, who=f"The site {named}")
        except ProtocolError as error:
            return str(error)
        site = self.site_of(answer.node_id)
        if site is None:
            return f"it calls itself {named}, and its key is nobody's in the roster"
        return "" if named == site else f"it calls itself {named}, and its key is {site}'s"


def _failure(answer: Answer, roster: Roster) -> str:
    """Why a site has not agreed to the terms, or nothing."""
    if answer.content is None:
        return answer.failure
    try:
        if read_agreed(answer.content) != roster.digest:
            return "it holds another roster of this run than the server"
    except ProtocolError as error:
        return str(error)
    return ""
