"""Codec and signer against a paid API, a facilitator and the real token programs."""

import aiohttp
import pytest
from solders.keypair import Keypair

from proxy.chains.solana import SolanaChain, Wallet
from proxy.localnet import USDC_DEVNET, Localnet
from proxy.x402 import SOLANA_DEVNET, Fate, payment_header, read_challenge, read_outcome


@pytest.fixture
async def paid():
    """(network, chain, ask): ask(path, **how to prepare) pays once and judges the answer."""
    wallet = Wallet(Keypair())
    async with Localnet(strict_v1_no_memo=True) as network, aiohttp.ClientSession() as session:
        network.fund(wallet.pubkey, usdc=10_000)
        chain = SolanaChain(SOLANA_DEVNET, wallet, network.rpc_url)
        await chain.start()

        async def ask(path, **how):
            url = network.api_url + path
            async with session.get(url) as response:
                challenge = read_challenge(response.raw_headers, await response.read())
            authorization = await chain.prepare(challenge.offers[0], **how)
            name, value = payment_header(challenge, challenge.offers[0], authorization.payload)
            async with session.get(url, headers={name.decode(): value.decode()}) as response:
                body = await response.read()
                return read_outcome(response.status, response.raw_headers, body), authorization

        yield network, chain, ask
        await chain.close()


async def test_v2_is_paid_to_the_last_unit(paid):
    network, chain, ask = paid
    for _ in range(3):
        outcome, authorization = await ask("/weather")
        assert (outcome.fate, outcome.claimed) == (Fate.PAID, True)
        assert outcome.settlement.payer == authorization.payer
    assert network.chain.balance(chain.wallet.pubkey, USDC_DEVNET) == 10_000 - 3 * 1000
    assert network.chain.balance(network.seller.pubkey(), USDC_DEVNET) == 3 * 1000


async def test_an_old_v1_facilitator_teaches_to_leave_the_memo_out(paid):
    network, _, ask = paid
    outcome, refused = await ask("/v1/quote")
    assert (outcome.fate, outcome.wants_no_memo) == (Fate.REFUSED, True)
    blockhash = refused.blockhash
    for _ in range(2):
        outcome, authorization = await ask("/v1/quote", with_memo=False, fresh_after=blockhash)
        assert outcome.fate is Fate.PAID
        assert authorization.blockhash != blockhash
        blockhash = authorization.blockhash
    assert network.chain.balance(network.seller.pubkey(), USDC_DEVNET) == 2 * 1000
