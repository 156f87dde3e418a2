"""The official x402 Python SDK as a peer: its facilitator, its paid server, its paying client.

The SDK talks to the chain with blocking calls from its own event loop, so each peer lives in a
thread of its own; the node it talks to may run in the test's loop.
"""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import requests
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from solders.keypair import Keypair
from x402 import x402ClientSync, x402Facilitator, x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.clients.requests import wrapRequestsWithPayment
from x402.http.middleware.fastapi import payment_middleware
from x402.mechanisms.svm import FacilitatorKeypairSigner, KeypairSigner
from x402.mechanisms.svm.exact import (
    register_exact_svm_facilitator,
    register_exact_svm_server,
)
from x402.mechanisms.svm.exact.client import ExactSvmScheme
from x402.mechanisms.svm.exact.v1.client import ExactSvmSchemeV1
from x402.schemas import parse_payment_payload, parse_payment_requirements

DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
MAINNET = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """Serve an ASGI app from a thread on a free loopback port; yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    # A handler that raises is part of what is tested; its traceback is no news.
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the peer's server did not start")
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 10)
        listener.close()


@asynccontextmanager
async def official_facilitator(
    rpc_url: str,
    fee_payer_keypair: Keypair,
    networks: tuple[str, ...] = (DEVNET, MAINNET),
) -> AsyncIterator[str]:
    """x402Facilitator, versions 1 and 2, behind its HTTP API; yields the URL."""
    signer = FacilitatorKeypairSigner(fee_payer_keypair, rpc_url=rpc_url)
    facilitator = x402Facilitator()
    register_exact_svm_facilitator(facilitator, signer, networks=list(networks))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        _close(signer)

    app = FastAPI(lifespan=lifespan)

    async def read(request: Request) -> tuple[Any, Any]:
        body = await request.json()
        payload = parse_payment_payload(body["paymentPayload"])
        wanted = parse_payment_requirements(payload.x402_version, body["paymentRequirements"])
        return payload, wanted

    @app.post("/verify")
    async def verify(request: Request) -> Any:
        answer = await facilitator.verify(*await read(request))
        return answer.model_dump(by_alias=True, exclude_none=True)

    @app.post("/settle")
    async def settle(request: Request) -> Any:
        answer = await facilitator.settle(*await read(request))
        return answer.model_dump(by_alias=True, exclude_none=True)

    @app.get("/supported")
    async def supported() -> Any:
        return facilitator.get_supported().model_dump(by_alias=True, exclude_none=True)

    async with serving(app) as url:
        yield url


def accepts(pay_to: str, price: Any = "$0.001", network: str = DEVNET, **more: Any) -> Any:
    """One `accepts` entry of a route, in the SDK's words."""
    return {"scheme": "exact", "payTo": pay_to, "price": price, "network": network, **more}


def standard_routes(pay_to: str) -> dict[str, Any]:
    """Every behaviour the SDK's server has, one route each; see `standard_handlers`."""
    usdc = accepts(pay_to)
    upfront = accepts(pay_to, extra={"paymentFlow": "upfront"})
    cash = {"amount": "1000", "asset": "CASHx9KJUStyftLFWGvEVf59SGeG9sh5FfcnZMVPCASH"}
    return {
        "GET /paid": {"accepts": usdc, "description": "plain"},
        "POST /echo": {"accepts": usdc},
        "GET /memo": {"accepts": accepts(pay_to, extra={"memo": "inv-42"})},
        "GET /upfront": {"accepts": upfront},
        "GET /upfront503": {"accepts": upfront},
        "GET /fail": {"accepts": usdc},
        "GET /boom": {"accepts": usdc},
        "GET /cash": {"accepts": accepts(pay_to, cash, MAINNET)},
        "GET /expensive": {"accepts": accepts(pay_to, "$0.50")},
    }


async def _ok(request: Request) -> Response:
    return JSONResponse({"ok": request.url.path})


async def _echo(request: Request) -> Response:
    body = await request.body()
    return Response(body, media_type=request.headers.get("content-type"))


async def _fail(_request: Request) -> Response:
    return Response("out of order", status_code=503)


async def _boom(_request: Request) -> Response:
    raise RuntimeError("the handler blew up")


standard_handlers: Mapping[str, Any] = {
    "GET /paid": _ok,
    "POST /echo": _echo,
    "GET /memo": _ok,
    "GET /upfront": _ok,
    "GET /upfront503": _fail,
    "GET /fail": _fail,
    "GET /boom": _boom,
    "GET /cash": _ok,
    "GET /expensive": _ok,
    "GET /free": _ok,
}


@asynccontextmanager
async def official_server(
    facilitator_url: str,
    routes: Mapping[str, Any],
    handlers: Mapping[str, Any] = standard_handlers,
    networks: tuple[str, ...] = (DEVNET, MAINNET),
) -> AsyncIterator[str]:
    """FastAPI with the SDK's payment_middleware; yields the URL.

    `routes` is the SDK's own route table ("GET /paid": {"accepts": ...}); `handlers` maps the same
    keys, and keys of free routes, to `async (Request) -> Response`. The facilitator must be up.
    """
    facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=facilitator_url))
    server = x402ResourceServer(facilitator)
    for network in networks:
        register_exact_svm_server(server, network)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await facilitator.aclose()

    app = FastAPI(lifespan=lifespan)
    # Building the middleware asks the facilitator what it supports, with a blocking call.
    pay = await asyncio.to_thread(payment_middleware, dict(routes), server)

    @app.middleware("http")
    async def middleware(request: Request, call_next: Any) -> Any:
        return await pay(request, call_next)

    for key, handler in handlers.items():
        method, path = key.split()
        app.add_api_route(path, handler, methods=[method], response_model=None)
    async with serving(app) as url:
        yield url


async def official_pay(
    rpc_url: str, payer: Keypair, method: str, url: str, **options: Any
) -> requests.Response:
    """One request by the SDK's paying `requests` client, in a thread; it pays both versions."""

    def pay() -> requests.Response:
        signer = KeypairSigner(payer)
        scheme, scheme_v1 = ExactSvmScheme(signer, rpc_url), ExactSvmSchemeV1(signer, rpc_url)
        client = x402ClientSync().register("solana:*", scheme)
        for network in ("solana", "solana-devnet"):
            client.register_v1(network, scheme_v1)
        try:
            with wrapRequestsWithPayment(requests.Session(), client) as session:
                return session.request(method, url, timeout=30, **options)
        finally:
            _close(scheme)
            _close(scheme_v1)

    return await asyncio.to_thread(pay)


def _close(holder: Any) -> None:
    """The SDK never closes its Solana clients."""
    for client in holder._clients.values():
        client._provider.session.close()
