"""The first exchange of a run: which sites are there, and do their examples fit together.

It may be repeated at any time of a run: nodes are numbered anew when they connect again, and a site
that was away, or whose staff have only now approved the study, takes part from then on.
"""

from collections import Counter
from collections.abc import Collection, Mapping
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


def greet(
    exchange: Exchange,
    header: Header,
    *,
    minimum_sites: int,
    deadline: float,
    connecting: float | None = None,
    members: Collection[str] | None = None,
    shapes: Shapes = (),
) -> Joined:
    """Ask every connected node for its greeting.

    Args:
        exchange: over which they are asked.
        header: of round 0.
        minimum_sites: to wait for.
        deadline: seconds for the answers.
        connecting: seconds to wait for the minimum to be connected; without it `deadline`.
        members: the sites of the run's roster; others are left out. Without it all may join.
        shapes: of the run's examples; without it those that most sites have.
    """
    wait = deadline if connecting is None else connecting
    nodes = exchange.nodes(at_least=minimum_sites, deadline=wait)
    # A node that says nothing is not forgotten.
    failures = dict.fromkeys(nodes, "it has not answered the first message")
    greetings: dict[int, Greeting] = {}
    content = header_record(header)
    for answer in exchange.ask(nodes, HELLO, content, group="0", deadline=deadline):
        failures.pop(answer.node_id, None)
        if answer.content is None:
            failures[answer.node_id] = answer.failure
            continue
        try:
            greetings[answer.node_id] = read_greeting(answer.content)
        except ProtocolError as error:
            failures[answer.node_id] = str(error)
    shapes = shapes or _commonest(greetings)
    names: dict[int, str] = {}
    absent = [Dropped(site=f"node {node}", why=why) for node, why in failures.items()]
    for node_id, greeting in sorted(greetings.items(), key=lambda item: (item[1].site, item[0])):
        why = _refusal(greeting, names, members, shapes)
        if why:
            absent.append(Dropped(site=greeting.site, why=why))
        else:
            names[node_id] = greeting.site
    return Joined(names=names, absent=tuple(absent), shapes=shapes)


def _refusal(
    greeting: Greeting,
    names: Mapping[int, str],
    members: Collection[str] | None,
    shapes: Shapes,
) -> str:
    """Why a site that has answered cannot take part, or nothing."""
    if members is not None and greeting.site not in members:
        return "it is not in the roster of this run; admit it, and submit the study anew"
    if greeting.site in names.values():
        return "a second node has this name"
    if greeting.shapes != shapes:
        return (
            f"its examples have the shape {shapes_text(greeting.shapes)}, "
            f"others {shapes_text(shapes)}"
        )
    return ""


def _commonest(greetings: Mapping[int, Greeting]) -> Shapes:
    """What most sites have, so that one odd site leaves itself out; the first name decides ties."""
    ordered = sorted(greetings.values(), key=lambda greeting: greeting.site)
    found = Counter(greeting.shapes for greeting in ordered).most_common(1)
    return found[0][0] if found else ()
