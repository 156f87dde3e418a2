"""A small x402 facilitator, versions 1 and 2, scheme `exact` on Solana: verify, settle, supported.

It reaches the chain by JSON-RPC only, so it works against any node.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from cachetools import TTLCache
from solders.keypair import Keypair
from solders.message import to_bytes_versioned
from solders.transaction import VersionedTransaction

from proxy.localnet.chain import message_hash
from proxy.localnet.jsonrpc import JsonRpc, JsonRpcError
from proxy.localnet.rules import (
    V1_NETWORKS,
    RefusedError,
    Terms,
    check,
    decode,
    read_terms,
)
from proxy.localnet.tokens import DEVNET, MAINNET

REMEMBERED_SECONDS = 120.0  # longer than a blockhash lives
_RPC_TIMEOUT = aiohttp.ClientTimeout(total=10)


@dataclass(frozen=True, slots=True)
class Sent:
    signature: str
    payer: str


class Facilitator:
    """Pays the fee of every payment it settles with `fee_payer`.

    A settlement that is sent but not confirmed within `confirm_seconds` is answered with
    `settlement_pending` and its transaction; asking again waits for that same transaction.
    `strict_v1_no_memo`: refuse memos in version 1, as npm x402 1.2.0 does.
    """

    def __init__(
        self,
        rpc_url: str,
        fee_payer: Keypair,
        *,
        strict_v1_no_memo: bool = False,
        confirm_seconds: float = 30.0,
        poll_seconds: float = 0.05,
    ) -> None:
        self._rpc_url = rpc_url
        self._fee_payer = fee_payer
        self._strict_v1_no_memo = strict_v1_no_memo
        self._confirm_seconds = confirm_seconds
        self._poll_seconds = poll_seconds
        # By message hash: the payer of what is or was being settled, "" until it is known.
        self._settling: TTLCache[bytes, str] = TTLCache(10_000, REMEMBERED_SECONDS)
        self._pending: TTLCache[bytes, Sent] = TTLCache(10_000, REMEMBERED_SECONDS)
        self._rpc: JsonRpc

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/verify", self._verify)
        app.router.add_post("/settle", self._settle)
        app.router.add_get("/supported", self._supported)
        app.cleanup_ctx.append(self._connected)
        return app

    async def _connected(self, _app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=_RPC_TIMEOUT) as session:
            self._rpc = JsonRpc(self._rpc_url, session)
            yield

    async def _supported(self, _request: web.Request) -> web.Response:
        fee_payer = str(self._fee_payer.pubkey())
        networks = [(2, DEVNET), (2, MAINNET), *((1, name) for name in V1_NETWORKS)]
        kinds = [
            {
                "x402Version": version,
                "scheme": "exact",
                "network": network,
                "extra": {"feePayer": fee_payer},
            }
            for version, network in networks
        ]
        signers = {"solana:*": [fee_payer]}
        return web.json_response({"kinds": kinds, "extensions": [], "signers": signers})

    async def _verify(self, request: web.Request) -> web.Response:
        version, payload, wanted = await _read(request)
        try:
            terms = read_terms(version, payload, wanted)
            payer = await self._check(decode(payload), terms)
        except RefusedError as refused:
            return web.json_response(
                {"isValid": False, "invalidReason": refused.reason, "payer": refused.payer}
            )
        return web.json_response({"isValid": True, "payer": payer})

    async def _settle(self, request: web.Request) -> web.Response:
        version, payload, wanted = await _read(request)
        answer: dict[str, Any] = {"success": False, "transaction": "", "payer": ""}
        answer["network"] = wanted.get("network")
        try:
            terms = read_terms(version, payload, wanted)
            tx = decode(payload)
            sent = await self._send_once(tx, terms)
            answer |= {"transaction": sent.signature, "payer": sent.payer}
            await self._confirmed(message_hash(tx), sent)
            answer["success"] = True
        except RefusedError as refused:
            answer |= {"errorReason": refused.reason, "payer": refused.payer}
        return web.json_response(answer)

    async def _check(self, tx: VersionedTransaction, terms: Terms) -> str:
        """The rules, then the chain: would it succeed if signed by us? Returns the payer."""
        payer = check(
            tx,
            terms,
            [self._fee_payer.pubkey()],
            exactly_three=self._strict_v1_no_memo and terms.version == 1,
        )
        options = {"encoding": "base64", "sigVerify": False, "commitment": "confirmed"}
        try:
            simulated = await self._rpc.call("simulateTransaction", _base64(tx), options)
        except JsonRpcError:
            raise RefusedError("unexpected_verify_error", payer) from None
        if simulated["value"]["err"] is not None:
            raise RefusedError("transaction_simulation_failed", payer)
        return payer

    async def _send_once(self, tx: VersionedTransaction, terms: Terms) -> Sent:
        """Broadcast a payment, unless that was done before."""
        key = message_hash(tx)
        # Taken out while it is waited for: whoever asks meanwhile is told of a duplicate.
        pending = self._pending.pop(key, None)
        if pending is not None:
            return pending
        if key in self._settling:
            raise RefusedError("duplicate_settlement", self._settling[key])
        self._settling[key] = ""
        try:
            payer = await self._check(tx, terms)
        except RefusedError:
            del self._settling[key]
            raise
        self._settling[key] = payer
        signed = self._sign(tx)
        options = {"encoding": "base64", "skipPreflight": True, "preflightCommitment": "confirmed"}
        # An error here is no proof that it was not sent: only the chain can tell now.
        with suppress(JsonRpcError):
            await self._rpc.call("sendTransaction", _base64(signed), options)
        return Sent(str(signed.signatures[0]), payer)

    def _sign(self, tx: VersionedTransaction) -> VersionedTransaction:
        mine = self._fee_payer.sign_message(to_bytes_versioned(tx.message))
        return VersionedTransaction.populate(tx.message, [mine, *tx.signatures[1:]])

    async def _confirmed(self, key: bytes, sent: Sent) -> None:
        """Wait until the cluster has voted for it; RefusedError if it failed or takes too long."""
        deadline = time.monotonic() + self._confirm_seconds
        while True:
            status = None
            with suppress(JsonRpcError):
                statuses = await self._rpc.call("getSignatureStatuses", [sent.signature])
                status = statuses["value"][0]
            if status is not None and status["confirmationStatus"] in ("confirmed", "finalized"):
                if status["err"] is not None:
                    raise RefusedError("transaction_failed", sent.payer)
                return
            if time.monotonic() >= deadline:
                self._pending[key] = sent
                raise RefusedError("settlement_pending", sent.payer)
            await asyncio.sleep(self._poll_seconds)


async def _read(request: web.Request) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The version, paymentPayload and paymentRequirements of a request, or a 400."""
    try:
        body = await request.json()
        payload, wanted = body["paymentPayload"], body["paymentRequirements"]
        version = payload["x402Version"]
    except (ValueError, KeyError, TypeError):
        raise web.HTTPBadRequest(text="not an x402 facilitator request") from None
    if version not in (1, 2) or not isinstance(wanted, dict):
        raise web.HTTPBadRequest(text="unknown x402Version or no paymentRequirements")
    return version, payload, wanted


def _base64(tx: VersionedTransaction) -> str:
    return base64.b64encode(bytes(tx)).decode()
