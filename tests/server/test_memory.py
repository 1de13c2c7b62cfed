"""Beside the sum, the server's own part of a round needs two models at most."""

import tracemalloc

import numpy as np
import pytest
from killed_server import COUNTS, PlainSites, Server, study_of

from wardround_server import coordinator
from wardround_server.aggregation import Sum
from wardround_server.rounds import RosterLine
from wardround_shared.steps import Steps

WIDTH = 600_000
PARAMETERS = 2 * WIDTH + WIDTH + 2 * WIDTH + 2
MODEL = 4 * PARAMETERS


class OneSum:
    """A summation whose sum is as large as the model, as of secure aggregation, and exact."""

    def __init__(self, **_):
        self.roster_line = None

    def updates(self, request, number, *, parameters, invited):
        assert parameters == PARAMETERS
        sites = tuple(invited.values())
        self.roster_line = RosterLine(
            round=number, invited=sites, trained=sites, aggregated=sites, dropped=()
        )
        counts = np.full(parameters, number, np.int32)
        return Sum(
            delta=Steps(counts=counts, divisors=(2.0**20,)),
            weight=3.0,
            counts=np.ones(COUNTS),
            sites=len(sites),
        )

    def sums(self, message_type, request, number, *, length, invited):
        return np.ones(length), []

    def settled(self):
        pass


@pytest.mark.parametrize("average_last", [1, 3])
def test_a_run_stays_within_three_models(tmp_path, monkeypatch, average_last):
    monkeypatch.setattr(coordinator, "PlainSums", OneSum)
    study = study_of(
        strategy='"fedavg"',
        average_last=str(average_last),
        hidden=f"[{WIDTH}]",
        class_weights='"none"',
    )
    server = Server(tmp_path / "run", study, PlainSites())
    tracemalloc.start()
    try:
        server.run()
        peak = tracemalloc.get_traced_memory()[1]
        server.run()  # finished: read from the disk
        again = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The sum, the model before and the model after; and what comes in blocks.
    assert peak < 3 * MODEL + 8_000_000
    assert again <= max(peak, 3 * MODEL + 8_000_000)
