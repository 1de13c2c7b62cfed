"""`wardround-site doctor`: what keeps this site from taking part, and what to do about it.

`examine` runs every check; each is a small function that gives a finding: a sentence, and a remedy
where something is wrong. `network` walks the way to the server, with `way` (proxy or not) and
`look` (one TLS connection); `machine` and `records` look at what lies here. Nothing is changed,
and nothing leaves the site but a connection to its own server.
"""

from collections.abc import Iterator

from wardround_client.doctor.finding import Finding, State
from wardround_client.doctor.machine import machine_findings
from wardround_client.doctor.network import network_findings
from wardround_client.doctor.records import record_findings, settings_findings
from wardround_client.doctor.surroundings import Examined, Machine

__all__ = ["Examined", "Finding", "Machine", "State", "examine"]


def examine(examined: Examined, machine: Machine | None = None) -> Iterator[Finding]:
    """Every finding, as it is made; checks that rest on one that failed are left out.

    Args:
        examined: what to look at.
        machine: what to look with; without it this machine.
    """
    machine = machine or Machine()
    yield from settings_findings(examined)
    if examined.name is not None:
        yield from network_findings(examined, machine)
    yield from machine_findings(examined, machine)
    yield from record_findings(examined)
