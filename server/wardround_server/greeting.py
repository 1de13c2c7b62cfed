"""The first exchange of a run: which sites are there, and do their examples fit together."""

from dataclasses import dataclass

from wardround_server.exchange import Exchange
from wardround_server.rounds import Dropped
from wardround_shared.errors import ProtocolError
from wardround_shared.messages import (
    HELLO,
    Greeting,
    Header,
    Shapes,
    header_record,
    read_greeting,
    shapes_text,
)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Who takes part in a run.

    Attributes:
        names: node id -> site, in the order of the names.
        absent: who is left out, and why.
        shapes: of one decoded example, per part; the same at all sites.
    """

    names: dict[int, str]
    absent: tuple[Dropped, ...]
    shapes: Shapes


def greet(exchange: Exchange, header: Header, *, minimum_sites: int, deadline: float) -> Joined:
    """Ask every connected node for its greeting; wait `deadline` seconds for enough of them."""
    nodes = exchange.nodes(at_least=minimum_sites, deadline=deadline)
    absent: list[Dropped] = []
    greetings: dict[int, Greeting] = {}
    content = header_record(header)
    for answer in exchange.ask(nodes, HELLO, content, group="0", deadline=deadline):
        if answer.content is None:
            absent.append(Dropped(site=f"node {answer.node_id}", why=answer.failure))
            continue
        try:
            greetings[answer.node_id] = read_greeting(answer.content)
        except ProtocolError as error:
            absent.append(Dropped(site=f"node {answer.node_id}", why=str(error)))
    names: dict[int, str] = {}
    shapes: Shapes = ()
    for node_id, greeting in sorted(greetings.items(), key=lambda item: item[1].site):
        shapes = shapes or greeting.shapes
        if greeting.site in names.values():
            absent.append(Dropped(site=greeting.site, why="a second node has this name"))
        elif greeting.shapes != shapes:
            why = (
                f"its examples have the shape {shapes_text(greeting.shapes)}, "
                f"others {shapes_text(shapes)}"
            )
            absent.append(Dropped(site=greeting.site, why=why))
        else:
            names[node_id] = greeting.site
    return Joined(names=names, absent=tuple(absent), shapes=shapes)
