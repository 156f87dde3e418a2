"""Every shape of 402 that was met in the wild, at the socket: paid, or passed on untouched."""

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest
from solders.pubkey import Pubkey

from proxy.localnet import Localnet
from tests.e2e.house import House
from tests.e2e.seller import Seller, offer, pays_once, reply, settled
from tests.x402.conftest import FIXTURES, encode_body, encode_header

NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
async def test_a_shape_of_402(home: House, net: Localnet, seller: Seller, name: str) -> None:
    case = json.loads((FIXTURES / f"{name}.json").read_text())
    fields = [(key.encode(), encode_header(value)) for key, value in case["headers"]]
    body = encode_body(case["body"])
    first = reply(402, fields, body)
    seller.answer = pays_once(first, lambda _: settled())
    dear = {"per_call": "1000000", "daily": "1000000"}
    await home.set_rules(home.agent, None, **dear, allowed_flows=["authorization", "upfront"])
    expected = case["expect"]
    for receiver in set(_receivers(case)):
        net.fund(receiver)  # whoever is to be paid can be

    answer = await home.ask(seller.url)

    if "code" in expected:
        assert (answer.status, answer.body) == (402, body)
        row = await home.row("SELECT reason, detail FROM policy_decision_logs")
        assert row == {"reason": "not_payable", "detail": expected["code"]}
        assert seller.payments == []
        return
    offers = expected["offers"]
    if all(found["network"].startswith("solana:4uhc") for found in offers):
        assert answer.json["code"] == "network_not_configured"
        return
    assert answer.status == 200, answer.body
    payment = await home.row("SELECT symbol, amount_atomic, network FROM payments")
    assert (payment["symbol"], payment["amount_atomic"], payment["network"]) in {
        (found["symbol"], found["amount"], found["network"]) for found in offers
    }
    assert len(seller.payments) == 1


@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)],
)
async def test_a_compressed_challenge(
    home: House, net: Localnet, seller: Seller, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    document = {"x402Version": 2, "accepts": [entry], "resource": {"url": "/"}}
    body = encode(json.dumps(document).encode())
    first = reply(402, [(b"Content-Encoding", coding.encode())], body)
    seller.answer = pays_once(first, lambda _: settled())
    assert (await home.ask(seller.url)).status == 200


async def test_a_decompression_bomb_is_not_unpacked(
    home: House, net: Localnet, seller: Seller
) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 60_000
    seller.answer = lambda _: reply(402, [(b"Content-Encoding", b"gzip")], bomb)
    answer = await home.ask(seller.url, auto_decompress=False)
    assert (answer.status, answer.body) == (402, bomb)
    row = await home.row("SELECT reason, detail FROM policy_decision_logs")
    assert row["reason"] == "not_payable"


def _receivers(value: Any) -> list[str]:
    """Every base58 payTo anywhere in the fixture."""
    if isinstance(value, dict):
        found = [v for k, v in value.items() if k == "payTo" and isinstance(v, str)]
        return [v for v in found if _is_address(v)] + [
            v for inner in value.values() for v in _receivers(inner)
        ]
    if isinstance(value, list):
        return [v for inner in value for v in _receivers(inner)]
    return []


def _is_address(text: str) -> bool:
    try:
        Pubkey.from_string(text)
    except ValueError:
        return False
    return True
