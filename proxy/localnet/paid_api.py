"""A paid demo API: what `autopay demo` buys from. Prices are in the table of `paid_api`."""

import asyncio
import json

from aiohttp import web

from proxy.localnet.till import SETTLEMENT, FacilitatorClient, TillV1, TillV2
from proxy.localnet.tokens import CASH, MAINNET, USDC_DEVNET


def paid_api(facilitator_url: str, pay_to: str) -> web.Application:
    """Sells to whoever pays `pay_to`, which needs a token account for each asset sold in.

    | route | price | how |
    |---|---|---|
    | GET /free | nothing | |
    | GET /weather | $0.001 | v2, USDC |
    | POST /echo | $0.001 | v2, USDC |
    | GET /stream | $0.002 | v2, USDC, server-sent events |
    | GET /cash | $0.001 | v2, CASH (Token-2022) on the mainnet id |
    | GET /premium | $0.50 | v2, USDC |
    | GET /v1/quote | $0.001 | v1, USDC |
    """
    facilitator = FacilitatorClient(facilitator_url)

    def usdc(amount: int) -> TillV2:
        return TillV2(facilitator, pay_to=pay_to, asset=str(USDC_DEVNET), amount=amount)

    cash = TillV2(facilitator, pay_to=pay_to, asset=str(CASH), amount=1_000, network=MAINNET)
    v1 = TillV1(
        facilitator,
        pay_to=pay_to,
        asset=str(USDC_DEVNET),
        amount=1_000,
        network="solana-devnet",
    )
    app = web.Application()
    app.cleanup_ctx.append(facilitator.connected)
    app.router.add_get("/free", _free)
    app.router.add_get("/weather", usdc(1_000).sells(_weather))
    app.router.add_post("/echo", usdc(1_000).sells(_echo))
    # Once the first byte is out there is no way back to a 402: the money comes first.
    app.router.add_get("/stream", usdc(2_000).sells(_stream, before=True))
    app.router.add_get("/cash", cash.sells(_weather))
    app.router.add_get("/premium", usdc(500_000).sells(_premium))
    app.router.add_get("/v1/quote", v1.sells(_quote))
    return app


async def _free(_request: web.Request) -> web.Response:
    return web.json_response({"price": "nothing"})


async def _weather(_request: web.Request) -> web.Response:
    return web.json_response({"city": "Lisbon", "weather": "sunny", "celsius": 24})


async def _quote(_request: web.Request) -> web.Response:
    return web.json_response({"symbol": "SOL", "price": "142.10"})


async def _premium(_request: web.Request) -> web.Response:
    return web.json_response({"report": "Everything that was ever known about the weather."})


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type=request.content_type)


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "private"}
        | request[SETTLEMENT]
    )
    await response.prepare(request)
    for word in ("bytes", "that", "arrive", "one", "by", "one"):
        await response.write(f"data: {json.dumps({'word': word})}\n\n".encode())
        await asyncio.sleep(0.05)
    return response
