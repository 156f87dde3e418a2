"""The short campaign: what `make soak` does for an hour, for some seconds.

A seed that fails says so, and how to run it again. That it would fail is shown by the mutants
(`python -m bench.mutants`).
"""

import pytest

from tests.campaign.campaign import campaign
from tests.campaign.database import Server

SECONDS = 6.0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [11, 12])
async def test_every_promise_is_kept(machine: Server, seed: int) -> None:
    report = await campaign(seed, SECONDS, server=machine)
    assert report.good, f"\n{report}"
    assert report.verdict.landed, f"\n{report}"
