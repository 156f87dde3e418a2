"""Selling an HTTP route by x402: the challenge, the check, the handler, the settlement.

One till per price. What it answers in each case is what the official server middlewares answer.
"""

import base64
import binascii
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import aiohttp
from aiohttp import web

from proxy.localnet.tokens import DEVNET

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# As long as a facilitator may wait for confirmation, and more.
_TIMEOUT = aiohttp.ClientTimeout(total=90)


class FacilitatorDownError(Exception):
    """It did not answer, or not as a facilitator does."""


class FacilitatorClient:
    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession
        self._fee_payers: dict[tuple[int, str], str] = {}

    async def connected(self, _app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            self._session = session
            yield

    async def fee_payer(self, version: int, network: str) -> str:
        if not self._fee_payers:
            supported = await self._call("GET", "/supported")
            self._fee_payers = {
                (kind["x402Version"], kind["network"]): kind["extra"]["feePayer"]
                for kind in supported["kinds"]
            }
        return self._fee_payers[version, network]

    async def verify(self, payment: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
        return await self._call("POST", "/verify", payment, wanted)

    async def settle(self, payment: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
        """Asks once more when told that the transaction is sent but not confirmed yet."""
        answer = await self._call("POST", "/settle", payment, wanted)
        if answer.get("errorReason") == "settlement_pending":
            answer = await self._call("POST", "/settle", payment, wanted)
        return answer

    async def _call(
        self,
        method: str,
        path: str,
        payment: dict[str, Any] | None = None,
        wanted: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        body = None
        if payment is not None:
            body = {
                "x402Version": payment["x402Version"],
                "paymentPayload": payment,
                "paymentRequirements": wanted,
            }
        try:
            async with self._session.request(method, self._url + path, json=body) as response:
                response.raise_for_status()
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise FacilitatorDownError(f"{method} {path}: {error!r}") from error
        if not isinstance(answer, dict):
            raise FacilitatorDownError(f"{method} {path}: not an object")
        return answer


class Till(ABC):
    """`amount` in atomic units of `asset`; a version of the protocol fills in its own shapes."""

    version: ClassVar[int]
    payment_header: ClassVar[str]
    settlement_header: ClassVar[str]

    def __init__(
        self,
        facilitator: FacilitatorClient,
        *,
        pay_to: str,
        asset: str,
        amount: int,
        network: str = DEVNET,
    ) -> None:
        self.facilitator = facilitator
        self.pay_to = pay_to
        self.asset = asset
        self.amount = amount
        self.network = network

    @abstractmethod
    def wanted(self, request: web.Request, fee_payer: str) -> dict[str, Any]:
        """The one entry of `accepts`."""

    @abstractmethod
    def challenge(
        self, request: web.Request, wanted: dict[str, Any], error: str
    ) -> web.StreamResponse:
        """The 402."""

    @abstractmethod
    def refused(
        self, request: web.Request, wanted: dict[str, Any], settled: dict[str, Any]
    ) -> web.StreamResponse:
        """The answer when the settlement failed."""

    @abstractmethod
    def matches(self, payment: dict[str, Any], wanted: dict[str, Any]) -> bool: ...

    def sells(self, handler: Handler, *, before: bool = False) -> Handler:
        """Settles after the handler, if that succeeded; or `before` it, for what is streamed."""

        async def sell(request: web.Request) -> web.StreamResponse:
            try:
                return await self._sell(request, handler, before)
            except FacilitatorDownError as down:
                return web.json_response({"error": str(down)}, status=502)

        return sell

    async def _sell(
        self, request: web.Request, handler: Handler, before: bool
    ) -> web.StreamResponse:
        fee_payer = await self.facilitator.fee_payer(self.version, self.network)
        wanted = self.wanted(request, fee_payer)
        payment = _decoded(request.headers.get(self.payment_header))
        if payment is None:
            return self.challenge(request, wanted, "Payment required")
        refusal = await self._refusal(payment, wanted)
        if refusal is not None:
            return self.challenge(request, wanted, refusal)
        if before:
            settled = await self.facilitator.settle(payment, wanted)
            if not settled.get("success"):
                return self.refused(request, wanted, settled)
            request[SETTLEMENT] = {self.settlement_header: encoded(settled)}
            return await handler(request)
        response = await handler(request)
        if response.status < 400:
            settled = await self.facilitator.settle(payment, wanted)
            if not settled.get("success"):
                return self.refused(request, wanted, settled)
            response.headers[self.settlement_header] = encoded(settled)
            response.headers["Cache-Control"] = "private"
        return response

    async def _refusal(self, payment: dict[str, Any], wanted: dict[str, Any]) -> str | None:
        """Why this payment buys nothing; None if it does."""
        if payment.get("x402Version") != self.version or not self.matches(payment, wanted):
            return "No matching payment requirements"
        verdict = await self.facilitator.verify(payment, wanted)
        return None if verdict.get("isValid") else str(verdict.get("invalidReason"))


SETTLEMENT = web.RequestKey("settlement", dict[str, str])
"""Where a handler that runs after its settlement finds the headers to send."""


class TillV2(Till):
    version = 2
    payment_header = "PAYMENT-SIGNATURE"
    settlement_header = "PAYMENT-RESPONSE"

    def wanted(self, request: web.Request, fee_payer: str) -> dict[str, Any]:
        return {
            "scheme": "exact",
            "network": self.network,
            "amount": str(self.amount),
            "asset": self.asset,
            "payTo": self.pay_to,
            "maxTimeoutSeconds": 60,
            "extra": {"feePayer": fee_payer},
        }

    def matches(self, payment: dict[str, Any], wanted: dict[str, Any]) -> bool:
        """Equal in every member; `extra` may have got more members on its way."""
        accepted = payment.get("accepted")
        if not isinstance(accepted, dict) or not isinstance(accepted.get("extra"), dict):
            return False
        same = all(accepted.get(name) == value for name, value in wanted.items() if name != "extra")
        return same and wanted["extra"].items() <= accepted["extra"].items()

    def challenge(
        self, request: web.Request, wanted: dict[str, Any], error: str
    ) -> web.StreamResponse:
        required = {
            "x402Version": 2,
            "error": error,
            "resource": {"url": str(request.url), "mimeType": "application/json"},
            "accepts": [wanted],
        }
        headers = {"PAYMENT-REQUIRED": encoded(required), "Cache-Control": "no-store"}
        return web.json_response({}, status=402, headers=headers)

    def refused(
        self, request: web.Request, wanted: dict[str, Any], settled: dict[str, Any]
    ) -> web.StreamResponse:
        headers = {self.settlement_header: encoded(settled), "Cache-Control": "no-store"}
        return web.json_response({}, status=402, headers=headers)


class TillV1(Till):
    """Sells on `network`, one of version 1's names, with everything in the body."""

    version = 1
    payment_header = "X-PAYMENT"
    settlement_header = "X-PAYMENT-RESPONSE"

    def wanted(self, request: web.Request, fee_payer: str) -> dict[str, Any]:
        return {
            "scheme": "exact",
            "network": self.network,
            "maxAmountRequired": str(self.amount),
            "resource": str(request.url),
            "description": "",
            "mimeType": "application/json",
            "payTo": self.pay_to,
            "maxTimeoutSeconds": 60,
            "asset": self.asset,
            "extra": {"feePayer": fee_payer},
        }

    def matches(self, payment: dict[str, Any], wanted: dict[str, Any]) -> bool:
        return all(payment.get(name) == wanted[name] for name in ("scheme", "network"))

    def challenge(
        self, request: web.Request, wanted: dict[str, Any], error: str
    ) -> web.StreamResponse:
        return web.json_response(
            {"x402Version": 1, "error": error, "accepts": [wanted]}, status=402
        )

    def refused(
        self, request: web.Request, wanted: dict[str, Any], settled: dict[str, Any]
    ) -> web.StreamResponse:
        return self.challenge(request, wanted, str(settled.get("errorReason")))


def encoded(value: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()


def _decoded(header: str | None) -> dict[str, Any] | None:
    """None for no payment and for an unreadable one: servers make no difference."""
    try:
        value = json.loads(base64.b64decode(header or "", validate=True))
    except (binascii.Error, ValueError):
        return None
    return value if isinstance(value, dict) else None
