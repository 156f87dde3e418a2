"""One key, one landing: side by side, one after the other, after a crash, on two proxies."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.localnet import Localnet
from tests.e2e.house import Answer, House, house, until
from tests.e2e.seller import Hang, Seller
from tests.e2e.till import till

KEY = {"Idempotency-Key": "order-1"}


async def test_64_side_by_side_are_one_landing(home: House, net: Localnet, seller: Seller) -> None:
    till(net, seller)
    answers = await asyncio.gather(*(home.ask(seller.url, headers=KEY) for _ in range(64)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len({answer.headers["Autopay-Payment"] for answer in answers}) == 1
    replayed = Counter(answer.headers.get("Autopay-Replayed") for answer in answers)
    assert replayed == {None: 1, "true": 63}
    assert len(seller.payments) == 1
    assert home.paid_on_chain() == 1000
    assert await home.counters() == (1000, 0)


async def test_one_after_the_other_gets_the_stored_answer(
    home: House, net: Localnet, seller: Seller
) -> None:
    till(net, seller, goods=b"x" * 100_000)
    await home.set_policy(daily_limit=1000)  # there is nothing left to pay with
    first = await home.ask(seller.url, headers=KEY)
    again = await home.ask(seller.url, headers=KEY)
    assert (first.status, again.status) == (200, 200)
    assert first.body == again.body
    assert again.headers["Autopay-Replayed"] == "true"
    assert again.headers["Autopay-State"] == "paid"
    assert again.headers["PAYMENT-RESPONSE"] == first.headers["PAYMENT-RESPONSE"]
    assert "Autopay-Remaining" not in again.headers
    assert home.paid_on_chain() == 1000
    # The standard header is the provider's too; and another key is another request.
    assert {seen.headers["idempotency-key"] for seen in seller.seen} == {"order-1"}
    refused = await home.ask(seller.url, headers={"Idempotency-Key": "order-2"})
    assert refused.json["code"] == "over_daily_limit"


async def test_our_own_header_stays_here(home: House, net: Localnet, seller: Seller) -> None:
    till(net, seller)
    ours = {"Autopay-Idempotency-Key": "mine"}
    first = await home.ask(seller.url, headers={**ours, "Idempotency-Key": "theirs-1"})
    again = await home.ask(seller.url, headers={**ours, "Idempotency-Key": "theirs-2"})
    assert again.body == first.body
    assert "autopay-idempotency-key" not in seller.seen[0].headers
    assert seller.seen[0].headers["idempotency-key"] == "theirs-1"
    assert home.paid_on_chain() == 1000


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST"])
async def test_every_shape_of_an_answer_comes_again(
    home: House, net: Localnet, seller: Seller, method: str
) -> None:
    it = till(net, seller)
    if method == "HEAD":
        whole = it.answer
        seller.answer = lambda seen: whole(seen).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    data = b"asked" if method == "POST" else None
    first = await home.ask(seller.url, method, headers=KEY, data=data)
    again = await home.ask(seller.url, method, headers=KEY, data=data)
    assert (first.status, first.body) == (again.status, again.body)
    assert first.headers["Content-Length"] == again.headers["Content-Length"]
    assert again.headers["Autopay-Replayed"] == "true"
    assert home.paid_on_chain() == 1000


async def test_a_key_is_one_requests(home: House, net: Localnet, seller: Seller) -> None:
    till(net, seller)
    await home.ask(f"{seller.url}/a", "POST", headers=KEY, data=b"one")
    for method, path, body in (
        ("POST", "/a", b"two"),
        ("POST", "/b", b"one"),
        ("PUT", "/a", b"one"),
    ):
        answer = await home.ask(f"{seller.url}{path}", method, headers=KEY, data=body)
        assert (answer.status, answer.json["code"]) == (422, "idempotency_key_reused")
    assert len(seller.payments) == 1
    assert home.paid_on_chain() == 1000


async def test_after_a_lost_answer_it_is_the_same_bytes(
    home: House, net: Localnet, seller: Seller
) -> None:
    till(net, seller, "ignore")
    assert (await home.ask(seller.url, headers=KEY)).json["code"] == "payment_in_doubt"
    answers = await asyncio.gather(*(home.ask(seller.url, headers=KEY) for _ in range(8)))
    assert {answer.status for answer in answers} <= {200, 409}
    assert len({answer.body for answer in answers if answer.status == 200}) == 1
    assert 200 in {answer.status for answer in answers}
    assert len(seller.payments) == 2 and len(set(seller.payments)) == 1
    assert (await home.ask(seller.url, headers=KEY)).headers["Autopay-Replayed"] == "true"
    assert home.paid_on_chain() == 1000


async def test_landed_and_lost_is_never_paid_again(
    home: House, net: Localnet, seller: Seller
) -> None:
    from tests.e2e.test_same_bytes import found_on_chain

    till(net, seller, "lose")
    await home.ask(seller.url, headers=KEY)
    await found_on_chain(home)
    for _ in range(2):
        answer = await home.ask(seller.url, headers=KEY)
        assert (answer.status, answer.json["code"]) == (409, "already_paid")
    assert len(seller.payments) == 1


async def test_never_sent_is_as_if_it_never_was(home: House, net: Localnet, seller: Seller) -> None:
    till(net, seller)
    await home.ask(seller.url, headers=KEY)
    await home.operator.execute(
        "SELECT disprove(id, 'never landed', NULL) FROM payments"
    )  # the provider lied, and the chain has shown it
    await home.operator.execute("DELETE FROM kept_answers")
    assert "Autopay-Replayed" not in (await home.ask(seller.url, headers=KEY)).headers
    assert len(set(seller.payments)) == 2


async def test_the_wait_is_bounded(net: Localnet, seller: Seller, dsn: str, tmp_path: Path) -> None:
    till(net, seller)
    async with house(net, dsn, tmp_path, paid={"wait": 0.2}) as home:
        seller.hold = asyncio.Event()
        first = asyncio.create_task(home.ask(seller.url, headers=KEY))
        await until(lambda: bool(seller.payments))
        second = await home.ask(seller.url, headers=KEY)
        assert (second.status, second.json["code"]) == (409, "request_in_progress")
        assert "Retry-After" in second.headers
        seller.hold.set()
        assert (await first).status == 200
        assert home.paid_on_chain() == 1000


async def test_a_window_ends(net: Localnet, seller: Seller, dsn: str, tmp_path: Path) -> None:
    till(net, seller)
    async with house(net, dsn, tmp_path, paid={"idempotency_seconds": 60}) as home:
        first = await home.ask(seller.url, headers=KEY)
        back = "created_at - interval '61 seconds'"
        await home.operator.execute("ALTER TABLE payments DISABLE TRIGGER payments_guard")
        await home.operator.execute(f"UPDATE payments SET created_at = {back}")
        await home.operator.execute("ALTER TABLE payments ENABLE TRIGGER payments_guard")
        await home.operator.execute(f"UPDATE kept_answers SET expires_at = {back}")
        again = await home.ask(seller.url, headers=KEY)
        assert first.headers["Autopay-Payment"] != again.headers["Autopay-Payment"]
        assert home.paid_on_chain() == 2000
        # The new one has the key now, and what had expired is gone.
        third = await home.ask(seller.url, headers=KEY)
        assert third.headers["Autopay-Payment"] == again.headers["Autopay-Payment"]
        assert len(await home.rows("SELECT 1 FROM kept_answers")) == 1


async def test_too_large_to_keep_is_never_paid_again(
    net: Localnet, seller: Seller, dsn: str, tmp_path: Path
) -> None:
    till(net, seller, goods=b"x" * 3000)
    async with house(net, dsn, tmp_path, paid={"keep_bytes": 2000}) as home:
        assert (await home.ask(seller.url, headers=KEY)).status == 200
        again = await home.ask(seller.url, headers=KEY)
        assert (again.status, again.json["code"]) == (409, "already_paid")
        assert home.paid_on_chain() == 1000


@pytest.mark.parametrize("share", [False, True])
async def test_equal_requests_without_a_key(
    net: Localnet, seller: Seller, dsn: str, tmp_path: Path, share: bool
) -> None:
    till(net, seller)
    async with house(net, dsn, tmp_path) as home:
        await home.set_rules(home.agent, None, share_identical=share)
        seller.hold = asyncio.Event()
        asking = [asyncio.create_task(home.ask(seller.url)) for _ in range(5)]
        await until(lambda: len(seller.seen) >= (6 if share else 10))
        await asyncio.sleep(0.1)
        seller.hold.set()
        answers = await asyncio.gather(*asking)
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == (1 if share else 5)
        assert home.paid_on_chain() == (1000 if share else 5000)
        # One after the other, each pays for itself.
        assert (await home.ask(seller.url)).status == 200
        assert home.paid_on_chain() == (2000 if share else 6000)


# --- two processes on one database


@asynccontextmanager
async def another(home: House, tmp_path: Path, **env: str) -> AsyncIterator[tuple[Any, str]]:
    """A second proxy, in a process of its own; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = tmp_path / "another.toml"
    settings.write_text(
        f"""
        database_url = {json.dumps(home.service.store.owner_dsn)}
        data_dir = {json.dumps(str(tmp_path))}
        [listen]
        proxy = "127.0.0.1:{port}"
        mounts = "127.0.0.1:0"
        admin = "off"
        [networks.devnet]
        rpc_url = {json.dumps(home.net.rpc_url)}
        [reconciler]
        enabled = false
        """
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--config", str(settings)),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **env},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert b"is ready" in await process.stdout.readline()
        yield process, f"http://{home.agent}:{home.token}@127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_two_proxies_and_a_kill(
    home: House, net: Localnet, seller: Seller, tmp_path: Path
) -> None:
    it = till(net, seller)
    async with another(home, tmp_path) as (process, url):

        async def ask(number: int, **options: Any) -> Answer:
            return await home.ask(seller.url, proxy=url if number % 2 else home.proxy, **options)

        # Side by side on both: one landing, one answer.
        answers = await asyncio.gather(*(ask(number, headers=KEY) for number in range(32)))
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        assert len(seller.payments) == 1
        assert home.paid_on_chain() == 1000

        # Killed between the send and the answer. Nobody had noted a doubt; the other one sees that
        # the sender is gone, and sends the same bytes.
        def hang(seen: Any) -> bytes:
            if seen.payment is not None:
                raise Hang
            return it.answer(seen)

        for number, headers in enumerate(({}, {"Idempotency-Key": "order-2"})):
            seller.answer = hang
            sent = len(seller.payments)
            path = f"{seller.url}/killed/{number}"
            if process.returncode is not None:
                break
            asking = [
                asyncio.create_task(home.ask(path, proxy=url, headers=headers)),
            ]
            await until(lambda sent=sent: len(seller.payments) == sent + 1, 20)  # type: ignore[misc]
            # While it lives, its answer is waited for: under a key nobody else sends anything.
            if headers:
                process.send_signal(signal.SIGKILL)
                await process.wait()
                with pytest.raises(aiohttp.ClientError):
                    await asking[0]
                row = await home.row(
                    "SELECT * FROM payments WHERE idempotency_key IS NOT NULL AND status = 'SIGNED'"
                )
                assert row["in_doubt_since"] is None
            else:
                unkeyed = asking[0]
        with pytest.raises(aiohttp.ClientError):
            await unkeyed
        seller.answer = it.answer
        # What was complete is here for everybody.
        kept = await home.ask(seller.url, headers=KEY)
        assert (kept.body, kept.headers["Autopay-Replayed"]) == (answers[0].body, "true")
        first = await home.ask(f"{seller.url}/killed/0")
        second = await home.ask(f"{seller.url}/killed/1", headers={"Idempotency-Key": "order-2"})
        assert (first.status, second.status) == (200, 200)
        assert len(seller.payments) == 5
        assert seller.payments[1] == seller.payments[3]
        assert seller.payments[2] == seller.payments[4]
        assert home.paid_on_chain() == 3000
        assert await home.counters() == (3000, 0)
