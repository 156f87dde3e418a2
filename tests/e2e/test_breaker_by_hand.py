"""An operator turns a breaker, by a command or the API, and running proxies hear of it."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from proxy.admin import Role
from proxy.cli import main
from proxy.localnet import Localnet
from proxy.providers import fleet
from tests.admin.desk import Desk, refused
from tests.e2e.house import House, house, until
from tests.e2e.test_scoring import beside
from tests.providers.faulty import Faulty, faulty, good, status

Says = Callable[..., Awaitable[str]]


@pytest.fixture
async def home(
    net: Localnet, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    monkeypatch.setattr(fleet, "LOOK_SECONDS", 1000.0)  # notices alone
    async with house(net, dsn, tmp_path) as home:
        yield home


@pytest.fixture
async def provider() -> AsyncIterator[Faulty]:
    async with faulty(status(500)) as provider:
        yield provider


@pytest.fixture
def says(dsn: str, tmp_path: Path) -> Says:
    """What `autopay providers` says."""
    config = tmp_path / "autopay.toml"
    config.write_text(f"database_url = {json.dumps(dsn)}\ndata_dir = {json.dumps(str(tmp_path))}\n")

    async def says(*words: str, status: int = 0) -> str:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            done = await asyncio.to_thread(main, ["--config", str(config), "providers", *words])
        assert done == status, out.getvalue()
        return out.getvalue()

    return says


async def fails(home: House, provider: Faulty) -> None:
    """Until it is left alone, and written so."""
    for _ in range(3):
        assert (await home.ask(provider.url)).status == 500
    assert (await home.ask(provider.url)).json["code"] == "breaker_open"
    await until_row(home, provider, "failures = 3 AND circuit_open_until > now()")


async def until_row(home: House, provider: Faulty, true: str) -> None:
    sql = f"SELECT 1 FROM x402_procurement_provider_stats WHERE id = $1 AND {true}"
    async with asyncio.timeout(20):
        while not await home.rows(sql, provider.url):
            await asyncio.sleep(0.02)


async def turns(home: House) -> list[dict[str, Any]]:
    """What the audit trail has of breakers: state, and by whom."""
    return await home.rows(
        "SELECT details->>'state' AS state, details->>'by' AS by FROM audit_events"
        " WHERE event_type = 'CIRCUIT_BREAKER' ORDER BY created_at"
    )


async def test_a_command_closes_it_for_every_proxy(
    home: House, provider: Faulty, says: Says
) -> None:
    async with beside(home) as other:
        await fails(home, provider)
        await until(lambda: other.providers.left_alone(provider.url) is not None)
        provider.act = good()
        said = await says("close", provider.url.removeprefix("http://"), "--by", "ann")
        assert said == f"{provider.url} is called again.\n"
        await until(lambda: not home.service.providers.is_tripped(provider.url))
        await until(lambda: not other.providers.is_tripped(provider.url))
        host, port = other.proxy_address
        there = f"http://{home.agent}:{home.token}@{host}:{port}"
        assert (await home.ask(provider.url)).status == 200
        assert (await home.ask(provider.url, proxy=there)).status == 200
    assert await turns(home) == [{"state": "open", "by": None}, {"state": "closed", "by": "ann"}]
    assert "was not left alone" in await says("close", provider.url)
    assert len(await turns(home)) == 2


async def test_it_begins_anew_where_it_was_closed(
    home: House, provider: Faulty, says: Says
) -> None:
    """At a proxy that was started since, one failure more does not open it."""
    await fails(home, provider)
    await says("close", provider.url)
    await until(lambda: not home.service.providers.is_tripped(provider.url))
    async with beside(home) as started:
        host, port = started.proxy_address
        there = f"http://{home.agent}:{home.token}@{host}:{port}"
        for _ in range(2):
            assert (await home.ask(provider.url, proxy=there)).status == 500
        assert started.providers.state(provider.url) == "closed"


async def test_a_command_keeps_everybody_off(home: House, provider: Faulty, says: Says) -> None:
    provider.act = good()
    assert (await home.ask(provider.url)).status == 200
    await until_row(home, provider, "calls = 1")
    said = await says("open", provider.url, "--for", "600", "--by", "ann")
    assert f"{provider.url} is left alone until " in said
    await until(lambda: home.service.providers.left_alone(provider.url) is not None)
    answer = await home.ask(provider.url)
    assert answer.json["code"] == "breaker_open"
    assert answer.json["last_error"] == "an operator keeps everybody off it"
    assert len(provider.seen) == 1
    await until_row(home, provider, "circuit_open_until > now() + interval '500 s'")
    await says("open", provider.url, "--for", "60", "--by", "bob")
    await until_row(home, provider, "circuit_open_until < now() + interval '61 s'")
    assert await turns(home) == [{"state": "open", "by": "ann"}, {"state": "open", "by": "bob"}]


async def test_a_name_that_is_none(home: House, provider: Faulty, says: Says) -> None:
    await home.ask(provider.url)
    async with faulty(good()) as another:
        await home.ask(another.url)
        await until_row(home, provider, "calls = 1")
        await until_row(home, another, "calls = 1")
        for words in (("close",), ("open", "--for", "5")):
            said = await says(*words, provider.url.replace("127.0.0.1", "127.0.0.l"), status=1)
            assert "nothing is known of http://127.0.0.l:" in said
            assert f"near: {provider.url}" in said
            said = await says(*words, "127.0.0.1", status=1)
            assert "more than one provider is called 127.0.0.1; say which: http://" in said
            assert "near" not in await says(*words, "api.example", status=1)
    assert await turns(home) == []


async def test_the_api_does_the_same(home: House, provider: Faulty) -> None:
    desk = Desk(home)
    path = f"/v1/providers/{quote(provider.url, safe='')}/breaker"
    await fails(home, provider)
    provider.act = good()
    closed = await desk.does("DELETE", path)
    assert closed == {"provider": provider.url, "turned": True, "open_until": None}
    await until(lambda: not home.service.providers.is_tripped(provider.url))
    assert (await home.ask(provider.url)).status == 200
    assert (await desk.last_action())["action"] == "DELETE /v1/providers/{provider}/breaker"
    assert (await desk.does("DELETE", path))["turned"] is False

    opened = await desk.does("PUT", path, {"seconds": 600})
    assert opened["turned"] and opened["open_until"] is not None
    await until(lambda: home.service.providers.left_alone(provider.url) is not None)
    assert (await home.ask(provider.url)).json["code"] == "breaker_open"
    assert (await turns(home))[1:] == [
        {"state": "closed", "by": "operator"},
        {"state": "open", "by": "operator"},
    ]
    assert await desk.actions() == 2  # what changed nothing leaves none

    gone = "/v1/providers/api.example/breaker"
    refused(await desk.ask(gone, Role.OPERATOR, "DELETE"), 404, "no_such_provider")
    refused(await desk.ask(path, Role.OPERATOR, "PUT", json={"seconds": 0}), 400, "bad_body")
