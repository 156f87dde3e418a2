"""A conversation through autopay with a scripted OpenAI-compatible seller."""

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.ledger import agents
from tests.e2e.house import Answer, House, until
from tests.e2e.seller import DEVNET, Headers, Seen, Seller, b64, challenge, offer, reply

JSON = (b"Content-Type", b"application/json")
STREAM = (b"Content-Type", b"text/event-stream")
TRANSACTION = "5" * 88


def completion(text: str, identity: str = "c1") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return json.dumps({"id": identity, "choices": [choice]}).encode()


def chunks(text: str, identity: str = "c1") -> bytes:
    """The same, word by word."""
    events = [
        {"id": identity, "choices": [{"index": 0, "delta": {"content": word}}]}
        for word in text.replace(" ", " \0").split("\0")
    ]
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


def receipt(transaction: str = TRANSACTION) -> tuple[bytes, bytes]:
    document = {"success": True, "transaction": transaction, "network": DEVNET, "payer": "p"}
    return (b"PAYMENT-RESPONSE", b64(document))


@dataclass
class Talk:
    home: House
    seller: Seller
    ca: Path

    def answers(self, body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        """Free of charge."""
        self.seller.answer = lambda seen: reply(status, list(headers or [JSON]), body)

    def sells(self, body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        net = self.home.net
        entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
        fields: Headers = [receipt(), *(headers or [JSON])]

        def answer(seen: Seen) -> bytes:
            return challenge(entry) if seen.payment is None else reply(status, fields, body)

        self.seller.answer = answer

    async def asks(
        self,
        *messages: str | dict[str, Any],
        session: str | None = None,
        path: str = "/v1/chat/completions",
        **options: Any,
    ) -> Answer:
        """`>…` is an answer that the program brings again."""
        document = {"model": "m", "messages": [_message(one) for one in messages]}
        options.setdefault("data", json.dumps(document))
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        if session is not None:
            headers["Autopay-Session"] = session
        if self.seller.url.startswith("https"):
            options["ssl"] = self.context
        url = options.pop("url", self.seller.url + path)
        return await self.home.ask(url, "POST", headers=headers, **options)

    async def capture(self, on: bool) -> None:
        """What `autopay agent set --capture-chat` does; returns when the proxy has heard of it."""
        await agents.set_capture_chat(self.home.operator, self.home.agent, on)
        agent = self.home.service.directory.by_token
        await until(lambda: getattr(agent(self.home.token), "capture_chat", None) is on)

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    async def quiet(self) -> None:
        """Returns when all that was overheard is written."""
        capture = self.home.service.capture
        async with asyncio.timeout(20):
            while capture.waiting:
                await asyncio.sleep(0.005)

    async def messages(self) -> list[tuple[str, str]]:
        """What is written: (`user` or `bot`, text), in order."""
        return [("user" if row["is_user"] else "bot", row["content"]) for row in await self.rows()]

    async def rows(self) -> Sequence[dict[str, Any]]:
        await self.quiet()
        return await self.home.rows("SELECT * FROM chat_messages ORDER BY created_at")

    async def sessions(self) -> Sequence[dict[str, Any]]:
        await self.quiet()
        return await self.home.rows("SELECT * FROM chat_sessions ORDER BY created_at")


def _message(one: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(one, dict):
        return one
    if one.startswith(">"):
        return {"role": "assistant", "content": one[1:]}
    return {"role": "user", "content": one}
