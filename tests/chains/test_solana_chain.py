"""The whole way over a real socket: from an offer to an authorization."""

import asyncio
import base64
import hashlib
import logging
from dataclasses import replace

import pytest
from aiohttp import web
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from proxy.chains import Chain, Unpayable
from proxy.chains.solana import SolanaChain, Wallet
from proxy.chains.solana.message import read_back
from proxy.chains.solana.rpc import Rpc
from proxy.x402 import SOLANA_DEVNET, SOLANA_MAINNET

PAYER = Keypair.from_seed(b"\1" * 32)


async def refusal_of(awaitable):
    with pytest.raises(Unpayable) as refusal:
        await awaitable
    assert "SECRET" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    return refusal.value


async def test_an_authorization_says_all_that_is_needed_to_find_it(chain, node, make_offer):
    offer = make_offer()
    made: Chain = chain
    authorization = await made.prepare(offer)
    sealed = base64.b64decode(authorization.payload["transaction"])
    transaction = VersionedTransaction.from_bytes(sealed)
    raw = sealed[129:]

    assert transaction.signatures[0] == Signature.default()
    assert str(transaction.signatures[1]) == authorization.client_signature
    assert transaction.signatures[1].verify(PAYER.pubkey(), raw)
    assert authorization.message_sha256 == hashlib.sha256(raw).digest()
    memo = authorization.memo.encode()
    read_back(raw, offer, PAYER.pubkey(), memo, authorization.blockhash)
    assert len(bytes.fromhex(authorization.memo)) == 16
    assert authorization.source_account == "H1AviagU5Y17z77v1F9qZPJ9kCbCsL4ewiZABNfGYoRs"
    assert authorization.destination_account == "6ndWAgFxMAVLobD8WrdBj5w41GrDeJYiQX91nNSrwkZp"
    assert authorization.blockhash == node.blockhash
    assert authorization.last_valid_block_height == node.height + 150
    assert authorization.blockhash_slot == node.height + 50
    assert (authorization.network, authorization.asset) == (SOLANA_DEVNET, offer.asset.address)
    assert (authorization.amount, authorization.pay_to) == (1000, offer.pay_to)
    assert (authorization.payer, authorization.fee_payer) == (str(PAYER.pubkey()), offer.fee_payer)
    assert authorization.payload["transaction"] not in repr(authorization)


async def test_the_second_payment_costs_no_rpc(chain, make_offer):
    first = await chain.prepare(make_offer())
    assert chain.rpc_calls == 2
    others = [await chain.prepare(make_offer(amount=n)) for n in range(1, 51)]
    assert chain.rpc_calls == 2
    assert len({a.message_sha256 for a in (first, *others)}) == 51


async def test_a_started_chain_has_its_blockhash_ready(chain, node, make_offer):
    await chain.start()
    await asyncio.sleep(0.1)
    assert node.calls["getLatestBlockhash"] == 1
    await chain.prepare(make_offer())
    assert chain.rpc_calls == 2
    assert node.calls["getMultipleAccounts"] == 1


async def test_a_sellers_memo_is_used_as_it_is(chain, make_offer):
    memo = "Rechnung №42, ü"
    authorization = await chain.prepare(make_offer(memo=memo))
    assert authorization.memo == memo
    sealed = base64.b64decode(authorization.payload["transaction"])
    assert VersionedTransaction.from_bytes(sealed).message.instructions[3].data == memo.encode()


async def test_equal_payments_with_a_sellers_memo_never_share_a_blockhash(chain, node, make_offer):
    first = await chain.prepare(make_offer(memo="inv-42"))
    second = asyncio.create_task(chain.prepare(make_offer(memo="inv-42")))
    await asyncio.sleep(0.1)
    assert not second.done()
    node.next_block()
    assert (await second).blockhash != first.blockhash
    assert (await second).message_sha256 != first.message_sha256


async def test_without_memo(chain, make_offer):
    authorization = await chain.prepare(make_offer(memo="ignored"), with_memo=False)
    assert authorization.memo is None
    sealed = base64.b64decode(authorization.payload["transaction"])
    assert len(VersionedTransaction.from_bytes(sealed).message.instructions) == 3


async def test_equal_payments_without_memo_never_share_a_blockhash(chain, node, make_offer):
    first = await chain.prepare(make_offer(), with_memo=False)
    node.next_block()
    second = await chain.prepare(make_offer(), with_memo=False)
    third = asyncio.create_task(chain.prepare(make_offer(), with_memo=False))
    await asyncio.sleep(0.1)
    node.next_block()
    hashes = {first.blockhash, second.blockhash, (await third).blockhash}
    assert len(hashes) == 3
    same_hash = await chain.prepare(make_offer(amount=7), with_memo=False)
    assert same_hash.blockhash in hashes, "another amount is another message"


async def test_fresh_after_gets_a_newer_blockhash(chain, node, make_offer):
    first = await chain.prepare(make_offer(amount=1), with_memo=False)
    node.next_block()
    options = {"with_memo": False, "fresh_after": first.blockhash}
    second = await chain.prepare(make_offer(amount=2), **options)
    assert second.last_valid_block_height == first.last_valid_block_height + 1


async def test_no_newer_blockhash_is_told(chain, make_offer):
    first = await chain.prepare(make_offer(), with_memo=False)
    chain._blockhashes._patience = 0.1
    refusal = await refusal_of(chain.prepare(make_offer(), fresh_after=first.blockhash))
    assert refusal.code == "rpc_unavailable"
    chain._blockhashes._patience = 3.0
    await chain.prepare(make_offer(amount=999_000))  # nothing was counted as gone


async def test_a_hint_is_used_only_if_it_is_our_own_knowledge(chain, node, make_offer):
    old = (await chain.prepare(make_offer())).blockhash
    node.next_block()
    new = (await chain.prepare(make_offer(), fresh_after=old)).blockhash
    hinted = await chain.prepare(make_offer(recent_blockhash=old))
    assert (hinted.blockhash, hinted.last_valid_block_height) == (old, node.height + 149)
    foreign = "cGfHiC6Kgg3FpFZvgwGcswsCRtp4aBP2fzuXRQPizuN"
    assert (await chain.prepare(make_offer(recent_blockhash=foreign))).blockhash == new


async def test_discarded_authorizations_cost_nothing(chain, node, make_offer):
    for _ in range(3):
        authorization = await chain.prepare(make_offer(amount=600_000, memo="inv"))
        chain.discard(authorization)
    await chain.prepare(make_offer(amount=600_000, memo="inv"))
    refusal = await refusal_of(chain.prepare(make_offer(amount=600_000)))
    assert refusal.code == "insufficient_funds"
    assert refusal.detail == "the wallet holds 0.4 USDC, the payment needs 0.6 USDC"


async def test_refusals_name_their_reason(chain, node, wallet, make_offer):
    other = make_offer(network=SOLANA_MAINNET)
    assert (await refusal_of(chain.prepare(other))).code == "network_not_configured"
    unsafe = make_offer(fee_payer=wallet.address)
    assert (await refusal_of(chain.prepare(unsafe))).code == "unsafe_offer"
    stranger = make_offer(pay_to=str(Pubkey(b"\7" * 32)))
    assert (await refusal_of(chain.prepare(stranger))).code == "no_destination_account"
    assert (await refusal_of(chain.prepare(make_offer(amount=10**12)))).code == "insufficient_funds"
    node.accounts.clear()
    fresh = SolanaChain(SOLANA_DEVNET, wallet, node.url)
    refusal = await refusal_of(fresh.prepare(make_offer()))
    assert refusal.detail == "the wallet's USDC account does not exist"
    await fresh.close()


async def test_a_message_that_does_not_read_back_is_never_signed(chain, make_offer, monkeypatch):
    from proxy.chains.solana import message

    build = message.build
    monkeypatch.setattr(
        message, "build", lambda transfer, *rest: build(replace(transfer, amount=2000), *rest)
    )
    refusal = await refusal_of(chain.prepare(make_offer(amount=1_000_000)))
    assert refusal.code == "unsafe_offer"
    monkeypatch.undo()
    assert await chain.prepare(make_offer(amount=1_000_000)), "and nothing was counted as gone"


async def test_no_wallet(node, make_offer):
    chain = SolanaChain(SOLANA_DEVNET, None, node.url)
    await chain.start()
    assert (await refusal_of(chain.prepare(make_offer()))).code == "no_wallet"
    await chain.close()
    assert node.calls.total() == 0


async def test_wallets_of_one_network_share_all_but_their_money(node, make_offer):
    rich, poor = Keypair.from_seed(bytes([8]) * 32), Keypair.from_seed(bytes([9]) * 32)
    node.fund(PAYER.pubkey(), 1_000)
    node.fund(rich.pubkey(), 1_000)
    node.fund(poor.pubkey(), 999)
    named = {"rich": Wallet(rich), "poor": Wallet(poor)}
    chain = SolanaChain(SOLANA_DEVNET, Wallet(PAYER), node.url, named=named)
    paid = [await chain.prepare(make_offer(amount=1_000), wallet=name) for name in (None, "rich")]
    assert [one.payer for one in paid] == [str(PAYER.pubkey()), str(rich.pubkey())]
    assert len({one.source_account for one in paid}) == 2
    assert node.calls["getLatestBlockhash"] == 1
    for name in (None, "default", "rich", "poor"):
        refusal = await refusal_of(chain.prepare(make_offer(amount=1_000), wallet=name))
        assert refusal.code == "insufficient_funds"
    # What was never sent is its own wallet's again.
    chain.discard(paid[1])
    refusal = await refusal_of(chain.prepare(make_offer(amount=1_000)))
    assert refusal.code == "insufficient_funds"
    assert (await chain.prepare(make_offer(amount=1_000), wallet="rich")).payer == paid[1].payer
    await chain.close()


async def test_no_wallet_pays_in_the_place_of_another(node, make_offer):
    named = {"other": Wallet(PAYER)}
    chain = SolanaChain(SOLANA_DEVNET, None, node.url, named=named)
    for name, code in (
        (None, "no_wallet"),
        ("default", "no_wallet"),
        ("gone", "wallet_not_configured"),
    ):
        refusal = await refusal_of(chain.prepare(make_offer(), wallet=name))
        assert refusal.code == code
    assert chain.wallets == {"other": str(PAYER.pubkey())}
    await chain.close()
    assert node.calls.total() == 0


ERROR = {"jsonrpc": "2.0", "id": 0, "error": {"code": -32005, "message": "SECRET node is behind"}}


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (lambda: web.Response(status=503, text="SECRET"), "HTTP status 503"),
        (lambda: web.Response(status=429), "HTTP status 429"),
        (lambda: web.Response(text="<html>SECRET"), "not what Solana nodes say"),
        (lambda: web.json_response([]), "not what Solana nodes say"),
        (lambda: web.json_response({"jsonrpc": "2.0", "id": 0, "result": None}), "failed"),
        (lambda: web.Response(status=307, headers={"Location": "/SECRET"}), "HTTP status 307"),
        (lambda: web.json_response(ERROR), "it refused the call (code -32005)"),
        (lambda: web.json_response({"error": "SECRET"}), "not what Solana nodes say"),
        (lambda: web.Response(body=b"\xff\xfe"), "failed"),
    ],
    ids=["503", "429", "html", "list", "null", "307", "rpc error", "odd error", "noise"],
)
async def test_rpc_trouble_is_one_line_without_the_key(trouble, words, chain, node, make_offer):
    node.trouble = trouble
    refusal = await refusal_of(chain.prepare(make_offer()))
    assert (refusal.code, refusal.retry_after) == ("rpc_unavailable", 2)
    assert refusal.detail.startswith("the Solana RPC at 127.0.0.1 failed: ")
    assert words in refusal.detail
    node.trouble = None
    await asyncio.sleep(0)
    assert await chain.prepare(make_offer())


async def test_a_proxy_in_the_environment_is_not_used(chain, make_offer, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert await chain.prepare(make_offer())


async def test_a_slow_rpc_is_given_up(chain, node, make_offer):
    node.delay = 5
    started = asyncio.get_running_loop().time()
    refusal = await refusal_of(chain.prepare(make_offer()))
    assert "no answer within 1 s" in refusal.detail
    assert asyncio.get_running_loop().time() - started < 2


async def test_nobody_there(wallet, make_offer):
    chain = SolanaChain(SOLANA_DEVNET, wallet, "http://127.0.0.1:1/SECRET")
    await chain.start()
    await asyncio.sleep(0.05)
    refusal = await refusal_of(chain.prepare(make_offer()))
    assert refusal.code == "rpc_unavailable"
    await chain.close()


async def test_the_key_in_the_url_is_not_logged(chain, make_offer, caplog):
    caplog.set_level(logging.DEBUG)
    await chain.prepare(make_offer())
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("url", ["", "localhost:8899", "ftp://x", "http://"])
async def test_urls_of_no_use(url):
    with pytest.raises(ValueError, match="RPC URL"):
        Rpc(url)
