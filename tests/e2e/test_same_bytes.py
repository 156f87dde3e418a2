"""A request whose payment is in doubt asks again: the same bytes or wait, never a second signature.
The balance on the chain is the judge."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proxy.localnet import Localnet
from tests.e2e.house import House, decoded, until
from tests.e2e.seller import Seller
from tests.e2e.till import IDENTIFIER, till


async def statuses(home: House) -> list[str]:
    rows = await home.rows("SELECT status::text AS status FROM payments ORDER BY created_at")
    return [row["status"] for row in rows]


async def found_on_chain(home: House) -> None:
    """What the reconciler does when it has seen the payment."""
    row = await home.row("SELECT id FROM payments")
    seen = {"signature": "5" * 87 + "6", "slot": 1, "change_atomic": -1000, "fee_lamports": 5000}
    said = await home.operator.fetchval(
        "SELECT confirm_from_chain($1, $2)", row["id"], json.dumps(seen)
    )
    assert said == "settled"


async def test_a_lost_request_is_sent_again_and_lands_once(
    home: House, net: Localnet, seller: Seller
) -> None:
    till(net, seller, "ignore", extensions=IDENTIFIER)
    lost = await home.ask(seller.url)
    assert (lost.status, lost.json["code"]) == (502, "payment_in_doubt")
    assert home.paid_on_chain() == 0
    answer = await home.ask(seller.url)
    assert (answer.status, answer.body[:5]) == (200, b"goods")
    assert answer.headers["Autopay-State"] == "paid"
    assert answer.headers["Autopay-Payment"] == lost.json["payment"]
    first, second = seller.payments
    assert first == second
    identifier = decoded(first)["extensions"]["payment-identifier"]["info"]["id"]
    assert identifier == "pay_" + lost.json["payment"].replace("-", "")
    assert home.paid_on_chain() == 1000
    assert await home.counters() == (1000, 0)
    assert await statuses(home) == ["CONFIRMED"]
    receipt = await home.row("SELECT * FROM x402_payment_logs")
    assert (receipt["source"], str(receipt["id"])) == ("provider", lost.json["payment"])
    row = await home.row("SELECT * FROM retry_attempts")
    assert (row["kind"], row["attempt_number"], row["outcome"]) == ("representation", 1, "SUCCESS")
    events = await home.rows(
        "SELECT details->>'code' AS code FROM audit_events WHERE details ? 'code'"
        " ORDER BY created_at"
    )
    assert [row["code"] for row in events if row["code"].startswith("presented")] == [
        "presented_again",
        "presented_outcome",
    ]
    payment = await home.row("SELECT presented, presented_by FROM payments")
    assert payment == {"presented": 1, "presented_by": None}
    # Done and delivered: the next one is a request of its own.
    assert (await home.ask(seller.url)).status == 200
    assert home.paid_on_chain() == 2000


async def test_without_an_offer_of_it_no_identifier_is_sent(
    home: House, net: Localnet, seller: Seller
) -> None:
    till(net, seller, "ignore")
    await home.ask(seller.url)
    assert (await home.ask(seller.url)).status == 200
    assert [decoded(payment).get("extensions") for payment in seller.payments] == [None, None]
    assert len(set(seller.payments)) == 1


async def test_three_times_the_same_bytes_and_no_more(
    home: House, net: Localnet, seller: Seller
) -> None:
    till(net, seller, "lose", "refuse", "ignore", "fail", "serve")
    lost = await home.ask(seller.url)
    answers = [await home.ask(seller.url) for _ in range(4)]
    assert [answer.status for answer in answers] == [502, 502, 503, 409]
    assert [answer.json["code"] for answer in (*answers[:2], answers[3])] == [
        "payment_in_doubt"
    ] * 3
    assert answers[0].json["reason"] == "transaction_simulation_failed"
    assert answers[2].headers["Autopay-State"] == "in_doubt"
    assert answers[3].headers["Retry-After"] == "10"
    assert len(seller.payments) == 4
    assert len(set(seller.payments)) == 1
    assert await home.counters() == (0, 1000)
    assert home.paid_on_chain() == 1000
    rows = await home.rows("SELECT * FROM retry_attempts ORDER BY attempt_number")
    assert [(row["attempt_number"], row["error_class"]) for row in rows] == [
        (1, "asked_again"),
        (2, "answer_lost"),
        (3, "not_settled"),
    ]
    assert str(rows[0]["payment_id"]) == lost.json["payment"]
    # What the first said of it stays.
    payment = await home.row("SELECT status::text AS status, doubt_reason FROM payments")
    assert payment == {"status": "SIGNED", "doubt_reason": "answer_lost"}


async def test_one_at_a_time(home: House, net: Localnet, seller: Seller) -> None:
    till(net, seller, "ignore")
    await home.ask(seller.url)
    seller.hold = asyncio.Event()
    first = asyncio.create_task(home.ask(seller.url))
    await until(lambda: len(seller.payments) == 2)
    second = await home.ask(seller.url)
    assert (second.status, second.json["code"]) == (409, "payment_in_doubt")
    assert len(seller.payments) == 2
    seller.hold.set()
    assert (await first).status == 200
    assert home.paid_on_chain() == 1000


async def test_past_its_last_block_nothing_is_sent(
    home: House, net: Localnet, seller: Seller
) -> None:
    till(net, seller, "ignore")
    await home.ask(seller.url)
    row = await home.row("SELECT last_valid_block_height AS last FROM payments")
    confirmed = net.chain.blocks.at("confirmed")
    net.chain.advance(row["last"] + 1 - 9 - confirmed)  # one block too few to spare
    answer = await home.ask(seller.url)
    assert (answer.status, answer.json["code"]) == (409, "payment_in_doubt")
    assert len(seller.payments) == 1
    assert await statuses(home) == ["SIGNED"]


async def test_no_height_no_bytes(home: House, net: Localnet, seller: Seller) -> None:
    from proxy.localnet.faults import Fault

    till(net, seller, "ignore")
    await home.ask(seller.url)
    net.node.faults.add(Fault(method="getBlockHeight", status=503))
    answer = await home.ask(seller.url)
    assert (answer.status, answer.json["code"]) == (409, "payment_in_doubt")
    assert len(seller.payments) == 1


async def test_another_body_is_another_request(home: House, net: Localnet, seller: Seller) -> None:
    till(net, seller, "ignore")
    await home.ask(seller.url, "POST", data=b"one")
    assert (await home.ask(seller.url, "POST", data=b"two")).status == 200
    assert (await home.ask(seller.url, "POST", data=b"one")).status == 200
    one, two, again = seller.payments
    assert one == again != two
    assert [seen.body for seen in seller.seen if seen.payment] == [b"one", b"two", b"one"]
    assert home.paid_on_chain() == 2000


async def test_a_provider_that_asks_for_something_else_gets_nothing(
    home: House, net: Localnet, seller: Seller
) -> None:
    from tests.e2e.seller import challenge, offer

    till(net, seller, "ignore")
    await home.ask(seller.url)
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), amount=999)
    seller.answer = lambda _: challenge(entry)
    answer = await home.ask(seller.url)
    assert (answer.status, answer.json["code"]) == (409, "payment_in_doubt")
    assert len(seller.payments) == 1


async def test_a_provider_that_is_gone_frees_nothing(
    home: House, net: Localnet, seller: Seller
) -> None:
    """Not a byte of the second sending left; but the first did."""
    answering = till(net, seller, "ignore")
    url = await _once(home, seller, answering.answer)
    answer = await home.ask(url)
    assert (answer.status, answer.json["code"]) == (502, "payment_in_doubt")
    assert await home.counters() == (0, 1000)
    assert await statuses(home) == ["SIGNED"]
    assert (await home.row("SELECT error_class FROM retry_attempts WHERE kind = 'representation'"))[
        "error_class"
    ] == "connect_failed"


async def _once(home: House, seller: Seller, answer: Any) -> str:
    """A seller that loses a payment, answers one more request, and is gone."""
    first = answer(type("Seen", (), {"payment": None})())
    first = first.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    asked = 0
    server: list[asyncio.Server] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        head = await reader.readuntil(b"\r\n\r\n")
        if b"PAYMENT-SIGNATURE" not in head:
            asked += 1
            if asked == 2:
                server[0].close()
            writer.write(first)
        writer.close()

    server.append(await asyncio.start_server(serve, "127.0.0.1", 0))
    url = f"http://127.0.0.1:{server[0].sockets[0].getsockname()[1]}/"
    assert (await home.ask(url)).json["code"] == "payment_in_doubt"
    return url


async def test_landed_and_lost_is_asked_for_where_it_may_be_remembered(
    home: House, net: Localnet, seller: Seller
) -> None:
    it = till(net, seller, "lose", extensions=IDENTIFIER, remembers=True)
    await home.ask(seller.url)
    await found_on_chain(home)
    net.chain.advance(400)  # no matter how late
    answer = await home.ask(seller.url)
    assert (answer.status, answer.headers["Autopay-State"]) == (200, "paid")
    assert answer.body == it.served[seller.payments[0]].split(b"\r\n\r\n")[1]
    assert len(set(seller.payments)) == 1
    assert home.paid_on_chain() == 1000
    assert await home.counters() == (1000, 0)
    assert (await home.row("SELECT source FROM x402_payment_logs"))["source"] == "chain"


async def test_landed_lost_and_not_remembered_is_closed(
    home: House, net: Localnet, seller: Seller
) -> None:
    till(net, seller, "lose", "refuse", extensions=IDENTIFIER)
    await home.ask(seller.url)
    await found_on_chain(home)
    answer = await home.ask(seller.url)
    assert (answer.status, answer.json["code"]) == (409, "already_paid")
    assert len(set(seller.payments)) == 1
    assert (await home.ask(seller.url)).status == 200  # a new request, and a payment of its own
    assert len(set(seller.payments)) == 2
    assert home.paid_on_chain() == 2000


async def test_landed_and_lost_without_an_identifier_is_a_new_request(
    home: House, net: Localnet, seller: Seller
) -> None:
    """The official servers refuse what has landed: there is nothing to fetch."""
    till(net, seller, "lose")
    await home.ask(seller.url)
    await found_on_chain(home)
    assert (await home.ask(seller.url)).status == 200
    assert len(set(seller.payments)) == 2
    assert await home.counters() == (2000, 0)


# --- the official server and facilitator, behind a relay that loses things


@dataclass
class Lossy:
    """A relay. Of the next request with a payment it loses the "request" or the "answer"."""

    url: str = ""
    lose: str = ""
    payments: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            paid = b"PAYMENT-SIGNATURE" in head
            self.payments += paid
            if paid and self.lose == "request":
                self.lose = ""
                return
            there = urlsplit(self.url)
            up_reader, up_writer = await asyncio.open_connection(there.hostname, there.port)
            up_writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answer = await up_reader.read(-1)
            up_writer.close()
            if paid and self.lose == "answer":
                self.lose = ""
                return
            writer.write(answer)
        finally:
            writer.close()


@asynccontextmanager
async def lossy(url: str) -> AsyncIterator[tuple[Lossy, str]]:
    relay = Lossy(url)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    yield relay, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_the_official_server_is_paid_once(home: House, shop: str) -> None:
    async with lossy(shop) as (relay, url):
        relay.lose = "request"
        assert (await home.ask(f"{url}/paid")).status == 502
        assert home.paid_on_chain() == 0
        answer = await home.ask(f"{url}/paid")
        assert (answer.status, answer.json) == (200, {"ok": "/paid"})
        assert answer.headers["Autopay-State"] == "paid"
        assert home.paid_on_chain() == 1000

        relay.lose = "answer"
        assert (await home.ask(f"{url}/memo")).status == 502
        assert home.paid_on_chain() == 2000
        again = await home.ask(f"{url}/memo")
        assert (again.status, again.json["code"]) == (502, "payment_in_doubt")
        assert again.json["reason"] == "transaction_simulation_failed"
        assert home.paid_on_chain() == 2000
        assert relay.payments == 4
        assert await home.counters() == (1000, 1000)
