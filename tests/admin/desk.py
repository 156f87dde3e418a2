"""The operator at the admin listener of a whole running service."""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from proxy.admin import Keys, Role
from tests.admin.conformance import Document, conforms
from tests.e2e.house import Answer, House

PROBLEM = "application/problem+json"

_OF_ONE_TEST = ("database_url", "data_dir", "listen", "networks")
_DOCUMENTS: dict[str, Document] = {}


@dataclass
class Desk:
    """`ask` speaks to the socket; each role has a key of its own name. Every answer is held against
    what /openapi.json says of it."""

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
        answer = await self._send(method, path, headers, **options)
        conforms(await self._document(), method, path, answer)
        return answer

    async def _document(self) -> Document:
        """It is long in the making, and the same for every service with the same settings."""
        settings = repr([one for one in self.home.service.settings if one[0] not in _OF_ONE_TEST])
        if settings not in _DOCUMENTS:
            _DOCUMENTS[settings] = (await self._send("GET", "/openapi.json", {})).json
        return _DOCUMENTS[settings]

    async def _send(
        self, method: str, path: str, headers: dict[str, str], **options: Any
    ) -> Answer:
        url = URL(self.url + path, encoded=True)
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, headers=headers, **options) as response,
        ):
            return Answer(response.status, response.headers, await response.read())

    async def does(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        role: Role = Role.OPERATOR,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """What the answer says, which must be of this status; None where it says nothing."""
        options = {} if document is None else {"json": document}
        answer = await self.ask(path, role, method, headers=dict(headers or {}), **options)
        assert answer.status == status, (method, path, answer.status, answer.body)
        return answer.json if answer.body else None

    async def last_action(self) -> dict[str, Any]:
        """The newest OPERATOR_ACTION event: `agent` and its details."""
        row = await self.home.row(
            "SELECT a.name AS agent, e.details::text AS details FROM audit_events e"
            " JOIN agents a ON a.id = e.agent_id WHERE e.event_type = 'OPERATOR_ACTION'"
            " ORDER BY e.created_at DESC LIMIT 1"
        )
        return {"agent": row["agent"], **json.loads(row["details"])}

    async def items(self, path: str, role: Role = Role.READER) -> list[dict[str, Any]]:
        answer = await self.ask(path, role)
        assert answer.status == 200, answer.body
        items: list[dict[str, Any]] = answer.json["items"]
        return items

    async def actions(self) -> int:
        """How many OPERATOR_ACTION events there are."""
        count = "SELECT count(*) AS n FROM audit_events WHERE event_type = 'OPERATOR_ACTION'"
        return int((await self.home.row(count))["n"])

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
