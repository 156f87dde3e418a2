"""The whole local network as one thing to start and stop."""

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from aiohttp import web
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from proxy.localnet.chain import LocalChain
from proxy.localnet.facilitator import Facilitator
from proxy.localnet.paid_api import paid_api
from proxy.localnet.rpc import RpcNode
from proxy.localnet.tokens import CASH, MINTS, USDC_DEVNET, USDC_MAINNET

# Known to everyone and worth nothing anywhere: the same keys on every local network.
FEE_PAYER = Keypair.from_seed(b"autopay localnet fee payer".ljust(32, b"\0"))
SELLER = Keypair.from_seed(b"autopay localnet seller".ljust(32, b"\0"))

LAMPORTS = 10**9  # per SOL


class Localnet:
    """A node, a facilitator and the paid demo API on loopback ports; port 0 means any free one.

    Use as an async context manager, or with start() and stop(). The chain keeps its state from
    stop to start. `slot_seconds` None: blocks are made by `chain.advance` only.
    """

    fee_payer = FEE_PAYER
    seller = SELLER

    def __init__(
        self,
        *,
        chain: LocalChain | None = None,
        slot_seconds: float | None = 0.4,
        strict_v1_no_memo: bool = False,
        confirm_seconds: float = 30.0,
        host: str = "127.0.0.1",
        rpc_port: int = 0,
        facilitator_port: int = 0,
        api_port: int = 0,
    ) -> None:
        self.chain = chain if chain is not None else LocalChain()
        self.node = RpcNode(self.chain, slot_seconds=slot_seconds)
        self.rpc_url = self.facilitator_url = self.api_url = ""
        self._strict_v1_no_memo = strict_v1_no_memo
        self._confirm_seconds = confirm_seconds
        self._host = host
        self._ports = (rpc_port, facilitator_port, api_port)
        self._running = AsyncExitStack()
        self.chain.airdrop(FEE_PAYER.pubkey(), 100 * LAMPORTS)
        for mint in MINTS:
            self.chain.fund(SELLER.pubkey(), mint, 0)

    def fund(
        self,
        owner: Pubkey | str,
        *,
        usdc: int = 0,
        cash: int = 0,
        usdc_mainnet: int = 0,
        lamports: int = 0,
    ) -> None:
        """Add atomic units to the owner's accounts, opening all three; `usdc` is devnet's."""
        self.chain.fund(owner, USDC_DEVNET, usdc)
        self.chain.fund(owner, USDC_MAINNET, usdc_mainnet)
        self.chain.fund(owner, CASH, cash)
        if lamports:
            self.chain.airdrop(owner, lamports)

    async def start(self) -> None:
        """Raises OSError if a port is taken; nothing is left running then."""
        rpc_port, facilitator_port, api_port = self._ports
        async with AsyncExitStack() as stack:
            self.rpc_url = await self._serve(stack, self.node.app(), rpc_port)
            facilitator = Facilitator(
                self.rpc_url,
                FEE_PAYER,
                strict_v1_no_memo=self._strict_v1_no_memo,
                confirm_seconds=self._confirm_seconds,
            )
            self.facilitator_url = await self._serve(stack, facilitator.app(), facilitator_port)
            api = paid_api(self.facilitator_url, str(SELLER.pubkey()))
            self.api_url = await self._serve(stack, api, api_port)
            self._running = stack.pop_all()

    async def stop(self) -> None:
        await self._running.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _serve(self, stack: AsyncExitStack, app: web.Application, port: int) -> str:
        """Serve until the stack unwinds; returns the URL, without a slash at its end."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self._host, port).start()
        host, bound = runner.addresses[0][:2]
        return f"http://{host}:{bound}"
