"""Threats of docs/security.md that no other room's tests show: each is tried at the socket."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from solders.transaction import VersionedTransaction

from proxy.localnet import Localnet
from tests.e2e.house import House, decoded
from tests.e2e.seller import Seller, challenge, offer, pays_once, selling, settled

ROOT = Path(__file__).parents[2]
THREATS = 22
BLOCKHASH_LIFE = 150  # blocks


def table() -> dict[int, str]:
    _, _, threats = (ROOT / "docs/security.md").read_text().partition("## Threats")
    return {int(found[1]): found[0] for found in re.finditer(r"^\| T(\d+) .*$", threats, re.M)}


def names() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }


def test_every_threat_is_in_the_table() -> None:
    assert sorted(table()) == list(range(1, THREATS + 1))


@pytest.mark.parametrize("threat", range(1, THREATS + 1))
def test_a_threat_names_tests_that_are_there(threat: int) -> None:
    named = set(re.findall(r"`(test_\w+)`", table()[threat]))
    assert named, threat
    assert named <= names(), named - names()


async def test_a_payment_goes_to_who_asked_whatever_resource_he_names(
    home: House, seller: Seller, net: Localnet
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    async with selling() as other:
        demand = challenge(entry, resource={"url": other.url + "/dear"})
        seller.answer = pays_once(demand, lambda _: settled())
        assert (await home.ask(seller.url + "/cheap")).status == 200
        assert (len(seller.payments), other.seen) == (1, [])
    receipt = await home.row("SELECT endpoint FROM x402_payment_logs")
    assert receipt["endpoint"] == seller.url + "/cheap"


async def test_no_seller_makes_a_payment_live_longer_than_its_blockhash(
    home: House, seller: Seller, net: Localnet
) -> None:
    entry = offer(
        str(net.seller.pubkey()), str(net.fee_payer.pubkey()), maxTimeoutSeconds=10_000_000
    )
    seller.answer = pays_once(challenge(entry), lambda _: settled())
    assert (await home.ask(seller.url)).status == 200
    payment = await home.row("SELECT last_valid_block_height, blockhash FROM payments")
    assert payment["last_valid_block_height"] <= net.chain.blocks.height + BLOCKHASH_LIFE
    transaction = _transaction(decoded(seller.payments[0]))
    assert str(transaction.message.recent_blockhash) == payment["blockhash"]


async def test_what_is_signed_tells_nothing_of_the_program(
    home: House, seller: Seller, net: Localnet
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    seller.answer = pays_once(challenge(entry), lambda _: settled())
    secret = "alice@example.com"
    answer = await home.ask(
        f"{seller.url}/{secret}?token={secret}", "POST", data=secret, headers={"X-Name": secret}
    )
    assert answer.status == 200
    payment = decoded(seller.payments[0])
    for private in (secret, home.agent, home.token):
        assert private not in json.dumps(payment)
        assert private.encode() not in bytes(_transaction(payment))


async def test_a_header_makes_nobody_another_agent(
    home: House, seller: Seller, net: Localnet
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    seller.answer = pays_once(challenge(entry), lambda _: settled())
    claims = {"X-Agent": "boss", "X-Agent-Id": "boss", "Autopay-Agent": "boss", "From": "boss"}
    assert (await home.ask(seller.url, headers=claims)).status == 200
    paid = await home.rows(
        "SELECT a.name FROM x402_payment_logs l JOIN agents a ON a.id = l.agent_id"
    )
    assert paid == [{"name": home.agent}]


def _transaction(payment: dict[str, Any]) -> VersionedTransaction:
    return VersionedTransaction.from_bytes(base64.b64decode(payment["payload"]["transaction"]))
