"""Starting and stopping the whole."""

import asyncio
import socket

import pytest
from aiohttp import ClientSession
from solders.keypair import Keypair

from proxy.localnet import CASH, USDC_DEVNET, USDC_MAINNET, LocalChain, Localnet


async def get(url: str) -> int:
    async with ClientSession() as session, session.get(url) as response:
        return response.status


async def test_three_servers_come_and_go() -> None:
    net = Localnet(slot_seconds=0.02)
    await net.start()
    assert await get(f"{net.api_url}/free") == 200
    assert await get(f"{net.facilitator_url}/supported") == 200
    height = net.chain.blocks.height
    while net.chain.blocks.height < height + 2:
        await asyncio.sleep(0.01)
    await net.stop()
    with pytest.raises(OSError, match="onnect"):
        await get(f"{net.api_url}/free")


async def test_the_chain_outlives_a_stop() -> None:
    chain = LocalChain()
    owner = Keypair().pubkey()
    async with Localnet(chain=chain) as net:
        net.fund(owner, usdc=5, cash=6, usdc_mainnet=7, lamports=10**9)
    async with Localnet(chain=chain):
        assert [chain.balance(owner, mint) for mint in (USDC_DEVNET, CASH, USDC_MAINNET)] == [
            5,
            6,
            7,
        ]


async def test_a_taken_port_leaves_nothing_running() -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        net = Localnet(api_port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            await net.start()
    with pytest.raises(OSError, match="onnect"):
        await get(f"{net.facilitator_url}/supported")
    assert asyncio.all_tasks() == before


async def test_the_same_ports_when_asked_for() -> None:
    async with Localnet() as net:
        port = int(net.rpc_url.rsplit(":", 1)[1])
    async with Localnet(rpc_port=port) as net:
        assert net.rpc_url == f"http://127.0.0.1:{port}"


def test_the_keys_are_the_same_on_every_machine() -> None:
    assert str(Localnet.fee_payer.pubkey()) == "8YW3cqg5S7Uw3UaU6JLJYJX5ews1xixmmgAq4iTnCvAA"
    assert str(Localnet.seller.pubkey()) == "8DT6nVcJufb67tyQ5tTRjUTVqxm56sUP2ZZswp1hRTAW"
