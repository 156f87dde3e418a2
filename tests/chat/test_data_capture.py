"""Paid data is stored for the providers that the operator names, and for no other."""

import gzip
import json
from typing import Any

import pytest

from tests.chat.talk import JSON, Talk
from tests.e2e.seller import reply

PATH = "/data?key=1"
BINARY = (b"Content-Type", b"application/octet-stream")


def storing(**more: Any) -> dict[str, Any]:
    return {"providers": {"shop": {"store_data": True, **more}}}


async def buys(talk: Talk, body: bytes = b"", *, url: str = "", **options: Any) -> dict[str, Any]:
    """The row of one bought request."""
    headers = {"Authorization": "Bearer s3cret", **options.pop("headers", {})}
    url = url or talk.seller.url + PATH
    answer = await talk.home.ask(url, "POST", data=body, headers=headers, **options)
    assert (answer.status, answer.headers["Autopay-State"]) == (200, "paid")
    await talk.quiet()
    row = await talk.home.row(
        "SELECT r.* FROM payments p JOIN api_requests r ON r.id = p.api_request_id"
    )
    return row | {
        name: row[name] and json.loads(row[name]) for name in ("data_accessed", "request_payload")
    }


@pytest.mark.parametrize("settings", [storing()])
async def test_json_is_stored_as_it_is(talk: Talk) -> None:
    talk.sells(b'{"price": 1.10, "of": ["gold"]}')
    row = await buys(talk, b'{"asked": true}')
    assert row["data_accessed"] == {"price": 1.10, "of": ["gold"]}
    assert row["request_payload"] is None


@pytest.mark.parametrize("settings", [storing(store_data=False, store_request=True)])
async def test_the_request_alone(talk: Talk) -> None:
    talk.sells(b'{"price": 1}')
    row = await buys(talk, b'{"asked": true}')
    assert (row["data_accessed"], row["request_payload"]) == (None, {"asked": True})


@pytest.mark.parametrize("settings", [storing(store_request=True, data_bytes=1000)])
async def test_bounds_and_codings(talk: Talk) -> None:
    talk.sells(gzip.compress(b"x" * 5000), BINARY, (b"Content-Encoding", b"gzip"))
    row = await buys(talk, b"y" * 1001, headers={"Content-Type": "text/plain"})
    assert row["data_accessed"]["truncated"] is True
    assert len(row["data_accessed"]["base64"]) == 1336
    assert row["request_payload"] == {"text": "y" * 1000, "truncated": True}


@pytest.mark.parametrize("settings", [storing()])
async def test_what_jsonb_does_not_take(talk: Talk) -> None:
    talk.sells(b'{"n": 1e400000}')
    assert (await buys(talk))["data_accessed"] == {"text": '{"n": 1e400000}'}


@pytest.mark.parametrize("settings", [storing()])
async def test_by_the_mount(talk: Talk) -> None:
    talk.sells(b"[1]")
    headers = {"Autopay-Token": talk.home.token}
    url = f"{talk.home.mounts}/shop/data"
    row = await buys(talk, url=url, headers=headers, proxy=None)
    assert row["data_accessed"] == [1]


@pytest.mark.parametrize("settings", [storing()])
@pytest.mark.parametrize("https", [True])
async def test_through_a_tunnel(talk: Talk) -> None:
    talk.sells(b"[1]")
    assert (await buys(talk, ssl=talk.context))["data_accessed"] == [1]


@pytest.mark.parametrize("settings", [storing()])
async def test_a_chat_is_stored_as_both(talk: Talk) -> None:
    document = b'{"id": "c", "choices": [{"message": {"content": "Hello!"}}]}'
    talk.sells(document)
    await talk.asks("hi")
    assert await talk.messages() == [("user", "hi"), ("bot", "Hello!")]
    row = await talk.home.row("SELECT data_accessed FROM api_requests")
    assert json.loads(row["data_accessed"]) == json.loads(document)


@pytest.mark.parametrize("settings", [{}, {"providers": {"shop": {}}}])
async def test_by_default_nothing_is_stored(talk: Talk) -> None:
    talk.sells(b"[1]")
    row = await buys(talk, b'{"asked": true}')
    assert (row["data_accessed"], row["request_payload"]) == (None, None)


@pytest.mark.parametrize("settings", [storing(store_request=True)])
async def test_what_is_not_paid_is_not_stored(talk: Talk) -> None:
    talk.answers(b"[1]", JSON)
    assert (await talk.home.ask(talk.seller.url + PATH, "POST", data=b"[2]")).status == 200
    await talk.quiet()
    assert await talk.home.rows("SELECT * FROM api_requests") == []
    capture = talk.home.service.capture
    assert capture.stock.left == capture.stock_bytes


@pytest.mark.parametrize("settings", [storing(store_request=True)])
async def test_no_secret_of_a_header_is_stored(talk: Talk) -> None:
    talk.sells(b"[1]", JSON, (b"Set-Cookie", b"s3cret"), (b"X-Unheard-Of", b"s3cret"))
    await buys(talk, b"[2]", headers={"Cookie": "s3cret", "X-Api-Key": "s3cret"})
    for table in ("api_requests", "payments", "x402_payment_logs"):
        for row in await talk.home.rows(f"SELECT row_to_json(t)::text AS row FROM {table} t"):
            assert "s3cret" not in row["row"]


@pytest.mark.parametrize("settings", [storing(store_request=True)])
async def test_what_is_in_doubt_is_not_stored(talk: Talk) -> None:
    talk.sells(b"[1]", JSON)
    paid = talk.seller.answer
    talk.seller.answer = lambda seen: (
        paid(seen) if seen.payment is None else reply(500, [JSON], b"[1]")
    )
    answer = await talk.home.ask(talk.seller.url + PATH, "POST", data=b"[2]")
    assert answer.headers["Autopay-State"] == "in_doubt"
    await talk.quiet()
    row = await talk.home.row("SELECT data_accessed, request_payload FROM api_requests")
    assert row == {"data_accessed": None, "request_payload": None}
