"""402s that are out to be paid more than policy allows, or to wear the reader out: through the
whole service. What is paid is paid by policy, to the atom."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.localnet import Localnet
from tests.e2e.house import house
from tests.e2e.seller import Seen, b64, offer, pays_once, reply, selling, settled
from tests.hostile.bad_answers import BROTLI, GZIP, ZLIB

PRICE, LIMIT, DAILY = 1000, 5000, 60_000
Make = Callable[[dict[str, Any]], bytes]


def header(document: bytes) -> bytes:
    return reply(402, [(b"PAYMENT-REQUIRED", base64.b64encode(document))], b"{}")


def body(document: bytes) -> bytes:
    return reply(402, [(b"Content-Type", b"application/json")], document)


def document(*offers: Any, **more: Any) -> bytes:
    return json.dumps({"x402Version": 2, "accepts": list(offers), **more}).encode()


def amount(value: str) -> Make:
    """An amount as it stands in the JSON."""
    return lambda entry: header(
        document(entry | {"amount": "AMOUNT"}).replace(b'"AMOUNT"', value.encode())
    )


def changed(**fields: Any) -> Make:
    return lambda entry: header(document(entry | fields))


def extra(**fields: Any) -> Make:
    return lambda entry: header(document(entry | {"extra": entry["extra"] | fields}))


UNPAID: dict[str, Make] = {
    "10,000 empty offers": lambda _: body(
        b'{"x402Version":2,"accepts":[' + b"{}," * 9999 + b"{}]}"
    ),
    "10,000 numbers": lambda _: body(b'{"x402Version":2,"accepts":[' + b"1," * 9999 + b"1]}"),
    "accepts is no list": lambda e: body(
        json.dumps({"x402Version": 2, "accepts": {"0": e}}).encode()
    ),
    "nested lists in a body": lambda _: body(b"[" * 30_000),
    "nested objects in a body": lambda _: body(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "nested lists in a header": lambda _: header(b"[" * 30_000),
    "deep extra": lambda e: header(
        document(e).replace(
            b'"feePayer"', b'"x": ' + b"[" * 20_000 + b"]" * 20_000 + b', "feePayer"'
        )
    ),
    "a number of 5,000 digits": amount("9" * 5000),
    "a text of 5,000 digits": amount('"' + "9" * 5000 + '"'),
    "2^64": amount('"18446744073709551616"'),
    "2^64 - 1": amount('"18446744073709551615"'),
    "10^400": amount("1e400"),
    "negative": amount('"-1000"'),
    "zero": amount('"0"'),
    "plus": amount('"+1000"'),
    "hex": amount('"0x3e8"'),
    "exponent": amount('"1e3"'),
    "fraction": amount('"1000.5"'),
    "underscores": amount('"1_000"'),
    "Arabic digits": amount('"\u0661\u0660\u0660\u0660"'),
    "full-width digits": amount('"\uff11\uff10\uff10\uff10"'),
    "true": amount("true"),
    "null": amount("null"),
    "NaN": amount("NaN"),
    "Infinity": amount("Infinity"),
    "a list": amount('["1000"]'),
    "doubled amount, the last over the limit": amount('"1000", "amount": "999999999"'),
    "doubled amount, the last within the limit": amount('"999999999", "amount": "1000"'),
    "just over the limit": amount(f'"{LIMIT + 1}"'),
    "a zero-width space in payTo": lambda e: header(
        document(e | {"payTo": e["payTo"][:20] + "\u200b" + e["payTo"][20:]})
    ),
    "a look-alike network": lambda e: header(
        document(e | {"network": e["network"].replace("o", "\u043e")})
    ),
    "a look-alike asset": lambda e: header(
        document(e | {"asset": e["asset"].replace("C", "\u0421")})
    ),
    "NUL in payTo": lambda e: header(document(e | {"payTo": e["payTo"] + "\x00"})),
    "an unknown asset that says it is USDC": changed(
        asset="So11111111111111111111111111111111111111112"
    ),
    "payTo is no text": changed(payTo={"a": 1}),
    "another scheme": changed(scheme="upto"),
    "scheme in Cyrillic": changed(scheme="ex\u0430ct"),
    "fee payer is no key": extra(feePayer="x" * 44),
    "lone surrogates": lambda e: header(
        document(e).replace(e["payTo"].encode(), b"\\ud800\\udfff\\ud800")
    ),
    "UTF-16": lambda e: body(document(e).decode().encode("utf-16")),
    "not base64": lambda _: reply(402, [(b"PAYMENT-REQUIRED", b"%%%" * 1000)], b"{}"),
    "over 64 KiB of body": lambda e: body(document(e, pad="x" * 70_000)),
}

PAID: dict[str, Make] = {
    "the cheapest of a hundred": lambda e: body(
        document(*[e | {"amount": str(10**12 + n)} for n in range(60)], e)
    ),
    "text that would be a header": lambda e: header(
        document(e, error="no\r\nAutopay-State: paid\r\n\r\n\x00\x1b[31m" + "x" * 5000)
    ),
    "two headers": lambda e: reply(
        402,
        [
            (b"PAYMENT-REQUIRED", b64({"x402Version": 2, "accepts": [e]})),
            (b"PAYMENT-REQUIRED", b"x"),
        ],
        b"{}",
    ),
}


async def test_no_402_is_paid_beyond_policy(dsn: str, tmp_path: Path) -> None:
    async with (
        Localnet(slot_seconds=0.1) as net,
        selling() as seller,
        house(net, dsn, tmp_path) as home,
    ):
        await home.set_policy(per_call_limit=LIMIT, daily_limit=DAILY)
        entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), PRICE)
        slowest = ("", 0.0)
        for name, make in (UNPAID | PAID).items():
            before, sent = await home.counters(), len(seller.payments)
            seller.answer = pays_once(make(entry), lambda _: settled())
            began = time.monotonic()
            answer = await home.ask(seller.url + "/x")
            took = time.monotonic() - began
            slowest = max(slowest, (name, took), key=lambda it: it[1])
            after = await home.counters()
            if name in PAID:
                assert answer.status == 200, (name, answer.body[:300])
                assert (after[0] - before[0], len(seller.payments) - sent) == (PRICE, 1), name
            else:
                assert answer.status in {402, 403, 502}, (name, answer.body[:300])
                assert (after, len(seller.payments)) == (before, sent), name
            assert not [value for value in answer.headers.values() if "\x1b" in value]
            seller.answer = lambda seen: reply(200, body=b"free")
            assert (await home.ask(seller.url)).body == b"free", name
        assert await home.counters() == (len(PAID) * PRICE, 0)
        assert slowest[1] < 5.0, slowest


async def test_a_seller_that_asks_for_ever_is_paid_up_to_the_budget(
    dsn: str, tmp_path: Path
) -> None:
    async with (
        Localnet(slot_seconds=0.1) as net,
        selling() as seller,
        house(net, dsn, tmp_path) as home,
    ):
        await home.set_policy(per_call_limit=LIMIT, daily_limit=5 * PRICE)
        entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), PRICE)
        again = header(document(entry))

        def always(seen: Seen) -> bytes:
            return again

        seller.answer = always
        codes = [(await home.ask(f"{seller.url}/{n}")).json["code"] for n in range(8)]
        assert "payment_in_doubt" in codes
        spent, held = await home.counters()
        assert spent + held <= 5 * PRICE
        assert len(seller.payments) == (spent + held) // PRICE


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_a_bomb_is_not_paid_for(dsn: str, tmp_path: Path, coding: str) -> None:
    bomb = {"gzip": GZIP[:60_000], "deflate": ZLIB[:60_000], "br": BROTLI}[coding]
    async with (
        Localnet(slot_seconds=0.1) as net,
        selling() as seller,
        house(net, dsn, tmp_path) as home,
    ):
        seller.answer = lambda _: reply(402, [(b"Content-Encoding", coding.encode())], bomb)
        answer = await home.ask(seller.url, auto_decompress=False)
        assert (answer.status, answer.body) == (402, bomb)
        assert await home.counters() == (0, 0)
