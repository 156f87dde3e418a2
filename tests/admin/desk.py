"""The operator at the admin listener of a whole running service."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from proxy.admin import Keys, Role
from tests.e2e.house import Answer, House

PROBLEM = "application/problem+json"


@dataclass
class Desk:
    """`ask` speaks to the socket; each role has a key of its own name."""

    home: House
    keys: dict[Role, str] = field(default_factory=dict)

    @property
    def book(self) -> Keys:
        return Keys(self.home.operator)

    @property
    def url(self) -> str:
        host, port = self.home.service.admin_address
        return f"http://{host}:{port}"

    async def key(self, role: Role) -> str:
        if role not in self.keys:
            self.keys[role] = await self.book.create(role.value, role)
        return self.keys[role]

    async def ask(
        self, path: str, key: str | Role | None = None, method: str = "GET", **options: Any
    ) -> Answer:
        headers = options.pop("headers", {})
        if isinstance(key, Role):
            key = await self.key(key)
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, headers=headers, **options) as response,
        ):
            return Answer(response.status, response.headers, await response.read())

    async def items(self, path: str, role: Role = Role.READER) -> list[dict[str, Any]]:
        answer = await self.ask(path, role)
        assert answer.status == 200, answer.body
        items: list[dict[str, Any]] = answer.json["items"]
        return items

    async def metrics(self) -> dict[tuple[str, ...], float]:
        """(name, values of the labels in the order of their names) → number."""
        answer = await self.ask("/metrics", Role.READER)
        assert answer.status == 200, answer.body
        return {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }


async def lapsed(desk: Desk, role: Role) -> str:
    """A key that has just expired."""
    key = await desk.book.create(f"lapsed-{role}", role, lives=timedelta(days=1))
    await desk.home.operator.execute(
        "UPDATE api_keys SET created_at = now() - interval '2 days', expires_at = now()"
        " WHERE name = $1",
        f"lapsed-{role}",
    )
    return key


def refused(answer: Answer, status: int, code: str) -> None:
    """A problem document, whole and plain."""
    assert (answer.status, answer.headers["Content-Type"]) == (status, PROBLEM), answer.body
    document = answer.json
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:autopay:problem:{code}"
    assert document["title"] != "Error" and document["detail"]
    assert answer.headers["Cache-Control"] == "no-store"
