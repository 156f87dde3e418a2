"""Whatever is sent, the API answers as /openapi.json says: made-up requests, good and bad ones, for
every route of a listener that runs. `SOAK=1` makes many more of them."""

import asyncio
import os
from contextlib import suppress
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from proxy.admin import Role
from proxy.localnet import Localnet
from proxy.notices.post import Outcome, Poster
from tests.admin.desk import Desk
from tests.admin.test_admin_books import spend
from tests.e2e.seller import Seller

EXAMPLES = 100 if os.environ.get("SOAK") else 3
SEED = 402
ENDLESS = "/v1/events/stream"  # has tests of its own
SENDS = ("/v1/procure/execute", "/procure/execute")  # to made-up hosts; they have theirs too
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


def sweep(document: dict[str, Any], url: str, key: str, token: str) -> dict[int, int]:
    """Asks every route, well and badly; how often each status was answered. `token`: an agent's,
    for the routes that are for agents."""
    schema = schemathesis.openapi.from_dict(document)
    statuses: dict[int, int] = {}
    with requests.Session() as session:
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            if operation.path in (ENDLESS, *SENDS):
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @seed(SEED)
                @settings(
                    max_examples=EXAMPLES,
                    deadline=None,
                    database=None,
                    phases=[Phase.explicit, Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: Case[Any]) -> None:
                    bearer = token if "/procure/" in case.path else key
                    response = case.call(
                        base_url=url,
                        session=session,
                        headers={"Authorization": f"Bearer {bearer}"},
                        timeout=30,
                    )
                    statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
                    case.validate_response(response, checks=CHECKS)

                # There is no bad request to a route that takes nothing.
                with suppress(Unsatisfiable):
                    ask()
    return statuses


async def nothing_sent(*_: Any, **__: Any) -> Outcome:
    """For webhooks with made-up URLs."""
    return Outcome(None, "nothing is sent from a test")


async def test_every_route_answers_as_it_says(
    desk: Desk, net: Localnet, seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Poster, "post", nothing_sent)
    await spend(desk, net, seller)
    key = await desk.key(Role.ADMIN)
    document = (await desk.ask("/openapi.json")).json
    for operations in document["paths"].values():  # or it makes up keys, and gets no further
        for operation in operations.values():
            operation.pop("security", None)
    statuses = await asyncio.to_thread(sweep, document, desk.url, key, desk.home.token)
    assert not [status for status in statuses if status >= 500], statuses
    assert statuses[200] > 50 and statuses[400] > 50 and 401 not in statuses, statuses
