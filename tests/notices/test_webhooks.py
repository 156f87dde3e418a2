"""Webhooks: signed, retried, each message at least once and normally once, and nowhere else."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from policies import Policy
from proxy.ledger import Database, agents, seals
from proxy.ledger.roles import ADMIN, WRITER
from proxy.localnet import Localnet
from proxy.notices import Courier, Feed, courier, webhooks
from proxy.notices.post import Poster
from proxy.notices.webhooks import NewWebhook, WebhookError
from proxy.vault import GivenKeys, Keyring, Vault, new_key
from tests.e2e.house import house, until
from tests.e2e.seller import (
    Hang,
    HangUp,
    Seen,
    Seller,
    challenge,
    offer,
    raises,
    reply,
    selling,
)  # fmt: skip
from tests.wire.wire_tls import Authority

PATIENCE = 90.0  # another test of this server may hold a transaction open, which events wait for
ALARM = "SELECT note_event(NULL, 'ALARM', $1, $2::text::jsonb, 'ERROR')"


@pytest.fixture
async def operator(dsn: str) -> AsyncIterator[Database]:
    database = await Database.open(dsn, role=ADMIN)
    yield database
    await database.close()


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[Database]:
    database = await Database.open(dsn)
    yield database
    await database.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Seller]:
    async with selling() as receiver:
        receiver.answer = lambda seen: reply(200)
        yield receiver


@asynccontextmanager
async def proxy(dsn: str, vault: Vault, **options: Any) -> AsyncIterator[Courier]:
    """What one running proxy has of webhooks."""
    database = await Database.open(dsn, role=WRITER)
    feed = Feed(dsn, role=WRITER)
    await feed.start()
    await feed.read(None)  # what was written before a server was first seen is not told there
    courier = Courier(
        database, vault, feed, **{"poll": 0.05, "idle": 0.05, "first_delay": 0.02, **options}
    )
    courier.start()
    try:
        yield courier
    finally:
        await courier.close()
        await feed.close()
        await database.close()


async def add(
    operator: Database, vault: Vault, receiver: Seller, *types: str, path: str = "/hook"
) -> NewWebhook:
    chosen = types or ("alarm",)
    return await webhooks.add(
        operator, vault, receiver.url + path, chosen, private=True, by="a test"
    )


async def alarm(owner: Database, count: int = 1) -> list[UUID]:
    ids = [uuid4() for _ in range(count)]
    for one in ids:
        await owner.execute(ALARM, one, json.dumps({"code": "x", "secret": "s3cret"}))
    return ids


async def settle(operator: Database, state: str, count: int) -> list[webhooks.Delivery]:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await webhooks.deliveries(operator, state=state)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


def subjects(receiver: Seller) -> list[str]:
    return [json.loads(seen.body)["data"]["subject"] for seen in receiver.seen]


async def test_a_message_is_signed_as_the_standard_says(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    hook = await add(operator, vault, receiver)
    assert hook.secret.startswith("whsec_")
    async with proxy(dsn, vault):
        (subject,) = await alarm(owner)
        (message,) = await settle(operator, "delivered", 1)
    (seen,) = receiver.seen
    key = base64.b64decode(hook.secret.removeprefix("whsec_"), validate=True)
    signed = b".".join(
        [seen.headers["webhook-id"].encode(), seen.headers["webhook-timestamp"].encode(), seen.body]
    )
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert seen.headers["webhook-signature"] == f"v1,{wanted}"
    assert abs(int(seen.headers["webhook-timestamp"]) - time.time()) < 300
    assert seen.headers["webhook-id"] == str(message.id)
    assert seen.line == "POST /hook HTTP/1.1"
    assert seen.headers["content-type"] == "application/json"
    payload = json.loads(seen.body)
    assert payload["type"] == "alarm"
    assert payload["timestamp"].endswith("Z")
    assert payload["data"] == {
        "event": message.event_id,
        "agent": "autopay",
        "severity": "error",
        "subject": str(subject),
        "code": "x",
    }  # and nothing else of the event


async def test_only_what_it_was_added_for_and_only_from_then_on(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await alarm(owner, 3)
    async with proxy(dsn, vault):
        await add(operator, vault, receiver)
        await owner.execute(
            "SELECT note_event(NULL, 'LOW_BALANCE', $1, '{\"usdc\": 1}', 'WARNING')", uuid4()
        )
        wanted = await alarm(owner, 2)
        await settle(operator, "delivered", 2)
        assert subjects(receiver) == [str(one) for one in wanted]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda seen: reply(500), "it answered 500"),
        (lambda seen: reply(302, [(b"Location", b"/elsewhere")]), "redirects are not followed"),
        (raises(Hang), "no answer within 0.3 s"),
        (raises(HangUp), "disconnected"),
    ],
    ids=["fails", "redirects", "hangs", "hangs up"],
)
async def test_what_is_not_taken_is_sent_again_under_the_same_id(
    dsn: str,
    vault: Vault,
    operator: Database,
    owner: Database,
    receiver: Seller,
    answer: Callable[[Seen], bytes],
    said: str,
) -> None:
    await add(operator, vault, receiver)
    receiver.answer = lambda seen: answer(seen) if len(receiver.seen) < 3 else reply(204)
    errors = set()
    async with proxy(dsn, vault, timeout=0.3):
        await alarm(owner)
        async with asyncio.timeout(PATIENCE):
            while not (done := await webhooks.deliveries(operator, state="delivered")):
                found = await webhooks.deliveries(operator)
                errors |= {one.last_error for one in found if one.last_error}
                await asyncio.sleep(0.005)
    assert done[0].attempts >= 3  # one of 0.3 s may be too slow a taker, here
    assert any(said in error for error in errors), errors
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 1
    assert {seen.line for seen in receiver.seen} == {"POST /hook HTTP/1.1"}


async def test_the_wait_between_attempts_grows(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await add(operator, vault, receiver)
    receiver.answer = lambda seen: reply(500)
    waits = []
    async with proxy(dsn, vault, first_delay=1000.0):
        await alarm(owner)
        for attempt in range(1, 6):
            async with asyncio.timeout(PATIENCE):
                while True:
                    row = await owner.fetchrow(
                        "SELECT attempts, extract(epoch FROM next_try - now())::float8 AS wait"
                        " FROM webhook_deliveries WHERE last_status IS NOT NULL"
                    )
                    if row and row["attempts"] == attempt and row["wait"] > 100:
                        break
                    await asyncio.sleep(0.02)
            waits.append(row["wait"])
            await owner.execute("UPDATE webhook_deliveries SET next_try = now()")
    for number, wait in enumerate(waits):
        usual = min(1000 * 3**number, 4 * 3600)
        assert usual * 0.45 < wait < usual * 1.55


async def test_what_waits_goes_where_it_leads_now(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    """At once, however long it would have been left alone."""
    hook = await add(operator, vault, receiver)
    receiver.answer = lambda seen: reply(500)
    async with selling() as other, proxy(dsn, vault, first_delay=1000.0):
        other.answer = lambda seen: reply(200)
        (subject,) = await alarm(owner)
        async with asyncio.timeout(PATIENCE):
            while not any(one.last_error for one in await webhooks.deliveries(operator)):
                await asyncio.sleep(0.02)
        await webhooks.change(operator, hook.id, url=other.url + "/new", by="a test")
        (done,) = await settle(operator, "delivered", 1)
        assert subjects(other) == [str(subject)]
    assert (done.attempts, len(receiver.seen)) == (2, 1)
    (seen,) = other.seen
    assert seen.line == "POST /new HTTP/1.1"
    assert seen.headers["webhook-id"] == receiver.seen[0].headers["webhook-id"]


async def test_after_a_day_it_is_given_up(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await add(operator, vault, receiver)
    receiver.answer = lambda seen: reply(503)
    async with proxy(dsn, vault):
        await alarm(owner)
        async with asyncio.timeout(PATIENCE):
            while len(receiver.seen) < 2:
                await asyncio.sleep(0.02)
        assert not await webhooks.deliveries(operator, state="failed")
        await owner.execute(
            "UPDATE webhook_deliveries SET created_at = now() - interval '25 hours'"
        )
        (given_up,) = await settle(operator, "failed", 1)
        assert (given_up.last_status, given_up.finished_at is not None) == (503, True)


async def test_two_proxies_send_each_message_once(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await add(operator, vault, receiver)
    async with proxy(dsn, vault), proxy(dsn, vault), proxy(dsn, vault):
        wanted = await alarm(owner, 40)
        await settle(operator, "delivered", 40)
    assert sorted(subjects(receiver)) == sorted(str(one) for one in wanted)


async def test_what_a_proxy_was_sending_when_it_died_is_sent_by_another(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await add(operator, vault, receiver)
    receiver.answer = raises(Hang)
    async with proxy(dsn, vault, lease=1.0):
        await alarm(owner)
        async with asyncio.timeout(PATIENCE):
            while not receiver.seen:
                await asyncio.sleep(0.02)
    # It was cut off in the middle, and has noted nothing.
    assert [one.state for one in await webhooks.deliveries(operator)] == ["waiting"]
    missed = await alarm(owner, 2)  # while nobody runs
    receiver.answer = lambda seen: reply(200)
    async with proxy(dsn, vault, lease=1.0):
        await settle(operator, "delivered", 3)
    first, second = (
        seen.headers["webhook-id"] for seen in receiver.seen if subjects_of(seen) not in missed
    )
    assert first == second
    assert {str(one) for one in missed} <= set(subjects(receiver))


def subjects_of(seen: Seen) -> UUID:
    return UUID(json.loads(seen.body)["data"]["subject"])


async def test_one_that_hangs_delays_no_other(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    async with selling() as dead:
        dead.answer = raises(Hang)
        await add(operator, vault, dead)
        await add(operator, vault, receiver)
        async with proxy(dsn, vault, timeout=60.0, lease=120.0):
            wanted = await alarm(owner, 30)
            await settle(operator, "delivered", 30)
    assert sorted(subjects(receiver)) == sorted(str(one) for one in wanted)


async def test_one_that_is_gone_gets_no_more(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await add(operator, vault, receiver)
    receiver.answer = lambda seen: reply(410)
    async with proxy(dsn, vault):
        await alarm(owner)
        await settle(operator, "failed", 1)
        async with asyncio.timeout(PATIENCE):
            while (hook := (await webhooks.all_of(operator))[0]).active:
                await asyncio.sleep(0.02)
        assert "410" in (hook.reason or "")
        await alarm(owner)
        # It is heard of by another, so it was looked at.
        await add(operator, vault, receiver, path="/second")
        receiver.answer = lambda seen: reply(200)
        (last,) = await alarm(owner)
        await settle(operator, "delivered", 1)
        assert [seen.line.split()[1] for seen in receiver.seen] == ["/hook", "/second"]
        assert subjects(receiver)[1] == str(last)


async def test_an_event_that_cannot_be_read_stops_no_other(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await add(operator, vault, receiver)
    async with proxy(dsn, vault):
        strange = '{"code": "x", "price_micros": "much"}', '["x"]'
        for details in strange:
            await owner.execute(ALARM, uuid4(), details)
        (good,) = await alarm(owner)
        await settle(operator, "delivered", 1)
    assert subjects(receiver) == [str(good)]


async def test_a_round_that_fails_is_not_the_last(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await add(operator, vault, receiver)
    failed = asyncio.Event()

    async def fail(*_: object) -> None:
        failed.set()
        raise RuntimeError("a fault of ours")

    async with proxy(dsn, vault):
        with monkeypatch.context() as patch:
            patch.setattr(Courier, "_queue", fail)
            (subject,) = await alarm(owner)
            async with asyncio.timeout(PATIENCE):
                await failed.wait()
        await settle(operator, "delivered", 1)
    assert subjects(receiver) == [str(subject)]


async def test_there_is_a_bound_to_what_waits(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(courier, "MOST_WAITING", 5)
    await add(operator, vault, receiver)
    receiver.answer = lambda seen: reply(500)
    async with proxy(dsn, vault, first_delay=1000.0):
        await alarm(owner, 12)
        async with asyncio.timeout(PATIENCE):
            while (hook := (await webhooks.all_of(operator))[0]).dropped < 7:
                await asyncio.sleep(0.02)
    assert (hook.waiting, hook.dropped) == (5, 7)


async def test_old_outcomes_are_removed(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await add(operator, vault, receiver)
    async with proxy(dsn, vault):
        await alarm(owner, 2)
        old, _ = await settle(operator, "delivered", 2)
    await owner.execute(
        "UPDATE webhook_deliveries SET finished_at = now() - interval '31 days' WHERE id = $1",
        old.id,
    )
    async with proxy(dsn, vault), asyncio.timeout(PATIENCE):
        while len(await webhooks.deliveries(operator)) > 1:
            await asyncio.sleep(0.02)


async def test_what_is_said_of_an_erased_agent_goes_with_it(
    dsn: str, vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    await add(operator, vault, receiver, "policy.changed")
    receiver.answer = lambda seen: reply(500)
    async with proxy(dsn, vault, first_delay=1000.0):
        await agents.add(owner, vault, "ann", Policy("ann"))
        await settle(operator, "waiting", 1)
        await owner.fetchval("SELECT erase_agent('ann', 'a test')")
        async with asyncio.timeout(PATIENCE):
            while b"erased-" not in receiver.seen[-1].body:
                await asyncio.sleep(0.02)
    found = await webhooks.deliveries(operator)
    assert {one.payload["data"]["agent"][:7] for one in found} <= {"erased-"}


async def test_a_rotated_secret_key_seals_the_secrets_anew(
    operator: Database, owner: Database, receiver: Seller
) -> None:
    first, second = new_key(), new_key()
    vault = Vault(GivenKeys(first.hex()))
    hook = await add(operator, vault, receiver)
    done = await seals.reseal(owner, Keyring([second, first]))
    assert (done.rows, done.left) == (1, 0)
    row = await owner.fetchrow("SELECT id, sealed FROM webhooks")
    assert row is not None
    secret = seals.open_webhook(Keyring([second]), row["id"], row["sealed"])
    assert hook.secret == "whsec_" + base64.b64encode(secret).decode()


@pytest.mark.parametrize(
    ("url", "private", "said"),
    [
        ("http://127.0.0.1:{port}/", False, "https://"),
        ("https://127.0.0.1:{port}/", False, "loopback"),
        ("https://localhost:{port}/", False, "loopback"),
        ("https://[::ffff:127.0.0.1]:{port}/", False, "loopback"),
        ("https://127.1:{port}/", False, "canonical"),
        ("https://2130706433:{port}/", False, "canonical"),
        ("https://2852039166/", True, "canonical"),
        ("http://0xa9fea9fe/", True, "canonical"),
        ("http://0x7f.1:{port}/", True, "canonical"),
        ("http://127.0.0.1.:{port}/", True, "canonical"),
        ("http://x.0x:{port}/", True, "canonical"),
        ("http://169.254.169.254/latest", True, "metadata"),
        ("http://0.0.0.0:{port}/", True, "unspecified"),
        ("http://8.8.8.8/", True, "plain http"),
        ("ftp://127.0.0.1/", True, "https://"),
        ("https:///x", True, "no URL"),
        ("https://a b/", True, "no URL"),
    ],
)
async def test_where_a_webhook_may_not_lead(
    vault: Vault, operator: Database, receiver: Seller, url: str, private: bool, said: str
) -> None:
    """Neither when it is made nor later; and if that were passed by, nothing is dialled."""
    url = url.format(port=receiver.url.rpartition(":")[2])
    hook = await add(operator, vault, receiver)
    refused = "localhost" not in url  # what a name stands for is known when it is dialled
    if refused:
        with pytest.raises(WebhookError, match=said):
            await webhooks.add(operator, vault, url, private=private, by="a test")
        with pytest.raises(WebhookError, match=said):
            await webhooks.change(operator, hook.id, url=url, private=private, by="a test")
        assert [one.url for one in await webhooks.all_of(operator)] == [receiver.url + "/hook"]
    async with Poster(seconds=5) as poster:
        outcome = await poster.post(url, b"secret", "id", b"{}", private=private)
    assert outcome.status is None
    assert not refused or "https://" in said or "no URL" in said or said in outcome.error
    assert not receiver.seen


async def test_the_environment_sets_no_proxy_for_it(
    vault: Vault, operator: Database, receiver: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with selling() as decoy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, decoy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        hook = await add(operator, vault, receiver)
        async with Poster(seconds=5) as poster:
            outcome = await webhooks.test(operator, vault, poster, hook.id)
        assert (outcome.status, outcome.error, decoy.seen) == (200, "", [])
        assert json.loads(receiver.seen[0].body)["type"] == "webhook.test"


async def test_a_certificate_is_verified(vault: Vault, operator: Database, tmp_path: Path) -> None:
    issuer = Authority(tmp_path)
    async with selling(issuer.context("localhost")) as receiver:
        receiver.answer = lambda seen: reply(200)
        hook = await add(operator, vault, receiver)
        async with Poster(seconds=5) as strict, Poster(ca_file=issuer.ca_file) as trusting:
            refused = await webhooks.test(operator, vault, strict, hook.id)
            taken = await webhooks.test(operator, vault, trusting, hook.id)
    assert "certificate" in refused.error
    assert (taken.status, taken.error) == (200, "")
    assert len(receiver.seen) == 1


async def test_every_change_leaves_an_event_without_the_url(
    vault: Vault, operator: Database, owner: Database, receiver: Seller
) -> None:
    hook = await add(operator, vault, receiver, path="/T0PSECRET?key=T0PSECRET")
    await webhooks.change(operator, hook.id, active=False, by="bob", origin="10.0.0.1")
    await webhooks.change(operator, hook.id, url=receiver.url + "/T0PSECRET", by="dora")
    await webhooks.change(operator, hook.id, url=receiver.url + "/T0PSECRET", by="dora")  # as it is
    await webhooks.remove(operator, hook.id, by="carol")
    rows = await owner.fetch(
        "SELECT details FROM audit_events WHERE event_type = 'WEBHOOK_CHANGE' ORDER BY created_at"
    )
    said = [json.loads(row["details"]) for row in rows]
    assert [(one["change"], one["by"], one.get("origin")) for one in said] == [
        ("added", "a test", None), ("changed", "bob", "10.0.0.1"), ("changed", "dora", None),
        ("removed", "carol", None),
    ]  # fmt: skip
    assert "T0PSECRET" not in str(said)
    assert said[0]["host"] == receiver.url.removeprefix("http://")
    with pytest.raises(WebhookError):
        await webhooks.remove(operator, hook.id, by="carol")
    with pytest.raises(WebhookError, match="no type of event"):
        await add(operator, vault, receiver, "payment.made")


async def test_a_denied_payment_through_the_whole_proxy(
    net: Localnet, dsn: str, tmp_path: Path, receiver: Seller
) -> None:
    async with selling() as seller, house(net, dsn, tmp_path) as home:
        vault = home.service.store.vault
        await webhooks.add(
            home.operator, vault, receiver.url, ("payment.denied",), private=True, by="a test"
        )
        await home.set_policy(per_call_limit=1)
        entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
        seller.answer = lambda seen: challenge(entry)
        answer = await home.ask(seller.url + "/quote?key=s3cret")
        assert answer.status == 403
        await until(lambda: bool(receiver.seen), PATIENCE)
    data = json.loads(receiver.seen[0].body)["data"]
    assert (data["agent"], data["code"]) == ("shopper", "over_per_call_limit")
    assert (data["price_usd"], data["endpoint"]) == ("0.001", seller.url + "/quote")
    assert "s3cret" not in str(receiver.seen[0])
