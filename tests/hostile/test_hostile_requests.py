"""A program's bytes, as bad as they come: refused with a status, and the next program is served."""

import pytest

from tests.hostile.arena import Arena
from tests.hostile.bad_requests import CASES, Case

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("case", "way"),
    [pytest.param(case, way, id=f"{case.name}-{way}") for case in CASES for way in case.ways],
)
async def test_a_bad_request(ring: Arena, case: Case, way: str) -> None:
    shop = ring.provider(way)
    shop.requests.clear()
    client = await ring.connect(way)
    raw = ring.fill(way, case.raw).replace(b"{port}", b"%d" % ring.port)
    client.writer.write(raw)

    answer = await client.answer()

    assert answer.status == case.status, answer.body
    if case.status >= 400:
        assert answer.one(b"content-type") == b"application/problem+json"
    if case.then is not None:
        last = await client.answer()
        assert (last.status, last.one(b"connection")) == (case.then, b"close")
        assert (await client.rest())[0] == b""
    if case.ends:
        assert answer.one(b"connection") == b"close"
        assert (await client.rest())[0] == b""
    seen = [request.line for request in ring.plain.requests + ring.secret.requests]
    assert not [line for line in seen if b"smuggled" in line]
    if case.status in {400, 405, 407, 421, 431, 501, 505}:
        assert not [
            request for request in shop.requests if b"still" not in request.line and request.body
        ]
    if case.body is not None:
        assert shop.requests[-1].body == case.body
        assert not shop.requests[-1].all(b"payment-signature")
    ring.leave(client)
    await ring.serves()
    await ring.quiet()
