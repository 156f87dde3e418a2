"""Every way in which a provider fails, at the socket: what the program gets, what the breaker makes
of it, and what is counted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.localnet import Localnet
from tests.e2e.house import House, house
from tests.e2e.seller import offer
from tests.providers import faulty as faults
from tests.providers.faulty import GOODS, Act, faulty
from tests.wire.wire_tls import Authority

FAILURES = 3
UPSTREAM_502, UPSTREAM_504 = "502 upstream_unreachable", "504 upstream_timeout"
WHOLE, CUT = "200", "200 cut off"


@dataclass(frozen=True)
class Case:
    """What a provider does to calls, one after another. `answers`: to the program; `counts`: calls,
    successes and failures on record; `opens`: whether the breaker is open then; `error`: why."""

    act: Act | None
    answers: list[str]
    counts: tuple[int, int, int]
    opens: bool
    error: str = ""


def failing(act: Act | None, answer: str, error: str) -> Case:
    return Case(act, [answer] * FAILURES, (FAILURES, 0, FAILURES), True, error)


def well(act: Act, answer: str = WHOLE) -> Case:
    return Case(act, [answer] * (FAILURES + 1), (FAILURES + 1, FAILURES + 1, 0), False)


def neutral(act: Act, answer: str) -> Case:
    return Case(act, [answer] * (FAILURES + 1), (0, 0, 0), False)


def cases(entry: dict[str, Any]) -> dict[str, Case]:
    broken = faults.status(500)
    return {
        "down": failing(None, UPSTREAM_504, "no connection within 0.5 s"),
        "refuses": failing(None, UPSTREAM_502, "no connection"),
        "hangs": failing(faults.hangs(), UPSTREAM_504, "did not answer in time"),
        "hangs up": failing(faults.hangs_up(), UPSTREAM_502, "closed the connection"),
        "garbage": failing(faults.garbage(), UPSTREAM_502, ""),
        "expired": failing(None, UPSTREAM_502, "its certificate is not valid"),
        "another host": failing(None, UPSTREAM_502, "its certificate is not valid"),
        "of nobody": failing(None, UPSTREAM_502, "its certificate is not valid"),
        # One failure follows a success: the answer had begun.
        "stalls": failing(faults.stalls(), CUT, "stalled"),
        "breaks off": failing(faults.breaks_off(), CUT, "closed the connection"),
        "resets": failing(faults.resets(), CUT, "closed the connection"),
        "5xx": failing(faults.status(503), "503", "answered 503"),
        "short burst": Case(
            faults.bursts(2, broken, faults.good()), ["500", "500", WHOLE, WHOLE], (4, 2, 2), False
        ),
        "long burst": Case(
            faults.bursts(9, broken, faults.good()), ["500"] * 3, (3, 0, 3), True, "answered 500"
        ),
        "flapping": Case(
            faults.flaps(faults.good(), broken), [WHOLE, "500"] * 4, (8, 4, 4), True, "answered 500"
        ),
        "sometimes": Case(
            faults.flaps(faults.good(), faults.good(), broken),
            [WHOLE, WHOLE, "500"] * 4,
            (12, 8, 4),
            False,
        ),
        "slow drip": well(faults.drips()),
        "wrong content": well(faults.wrong()),
        "empty": well(faults.empty()),
        "402": neutral(faults.status(402), "402"),
        "404": neutral(faults.status(404), "404"),
        "408": neutral(faults.status(408), "408"),
        "429": neutral(faults.status(429), "429"),
        "paid": well(faults.priced(entry, faults.settles()), "200 paid"),
        "settles, then 500": failing(
            faults.priced(entry, faults.settles(500)), "500 paid", "took a payment and answered 500"
        ),
        "settles, then 404": failing(
            faults.priced(entry, faults.settles(404)), "404 paid", "took a payment and answered 404"
        ),
        "settles, then resets": failing(
            faults.priced(entry, faults.settles(whole=False)),
            "200 paid cut off",
            "took a payment, and broke off",
        ),
        "takes money, then hangs up": failing(
            faults.priced(entry, faults.hangs_up()), "502 payment_in_doubt", "closed the connection"
        ),
        "takes money, then hangs": failing(
            faults.priced(entry, faults.hangs()), "502 payment_in_doubt", "did not answer in time"
        ),
        "takes money, then 500": failing(
            faults.priced(entry, broken), "500 in_doubt", "answered 500 to a paid request"
        ),
        "asks again": failing(
            faults.priced(entry, faults.status(402)), "502 payment_in_doubt", "402 again"
        ),
    }


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """The URLs of those that are not servers of plain http."""
    issuer = Authority(tmp_path)
    with faults.down() as down, faults.refusing() as refusing:
        urls = {"down": down, "refuses": refusing}
        async with AsyncExitStack() as stack:
            for fault in ("expired", "another host", "of nobody"):
                folder = tmp_path / fault
                folder.mkdir()
                tls = faults.bad_tls(issuer, folder, fault)
                provider = await stack.enter_async_context(faulty(faults.good(), tls))
                urls[fault] = provider.url
            yield urls


@pytest.fixture
async def home(
    net: Localnet, dsn: str, tmp_path: Path, places: dict[str, str]
) -> AsyncIterator[House]:
    mounts = {f"m{n}": {"upstream": url} for n, url in enumerate(places.values())}
    async with house(
        net,
        dsn,
        tmp_path,
        breaker={"failures": FAILURES, "failure_rate": 0.5, "min_calls": 8, "window_seconds": 600},
        timeouts={"connect": 0.5, "response": 1, "paid_response": 1, "idle": 1},
        retries={"attempts": 0},
        tls={"ca_file": str(tmp_path / "ca.pem")},
        providers=mounts,
        limits={"connections": 200},
    ) as home:
        await home.set_policy(daily_limit=10_000_000)
        yield home


async def told(home: House, url: str) -> str:
    """What the program gets, in a few words."""
    async with home.session.get(
        url, proxy=None if url.startswith(home.mounts) else home.proxy
    ) as answer:
        words = [str(answer.status)]
        if state := answer.headers.get("Autopay-State"):
            words.append(state)
        try:
            body = await answer.json(content_type=None) if answer.status >= 500 else None
            await answer.read()
        except ValueError:
            body = None
        except aiohttp.ClientPayloadError:
            return " ".join([*words, "cut off"])
        if isinstance(body, dict) and "code" in body:
            words.append(body["code"])
        return " ".join(words)


async def run(home: House, name: str, case: Case, url: str, ask: str) -> list[str]:
    """All that is not as it should be."""
    answers = [
        await told(home, f"{ask}/{name.replace(' ', '-')}/{n}") for n in range(len(case.answers))
    ]
    wrong = [] if answers == case.answers else [f"answers {answers}"]
    counts, open_until, error = (0, 0, 0), None, ""
    for _ in range(400):
        rows = await home.rows("SELECT * FROM x402_procurement_provider_stats WHERE id = $1", url)
        if rows:
            (row,) = rows
            counts = (row["calls"], row["successes"], row["failures"])
            open_until, error = row["circuit_open_until"], row["circuit_error"] or ""
        if (counts, open_until is not None) == (case.counts, case.opens):
            break
        await asyncio.sleep(0.05)
    if counts != case.counts:
        wrong.append(f"counts {counts}")
    if case.error not in error:
        wrong.append(f"error {error!r}")
    if case.opens != (open_until is not None):
        wrong.append(f"open until {open_until}")
    refused = await told(home, f"{ask}/then")
    if (refused == "503 breaker_open") != case.opens:
        wrong.append(f"then {refused}")
    return [f"{name}: {one}" for one in wrong]


async def test_what_each_fault_does(home: House, net: Localnet, places: dict[str, str]) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    async with AsyncExitStack() as stack:
        running = []
        for name, case in cases(entry).items():
            if case.act is None:
                url = places[name]
                ask = f"{home.mounts}/~{home.token}/m{list(places).index(name)}"
            else:
                url = ask = (await stack.enter_async_context(faulty(case.act))).url
            running.append(run(home, name, case, url, ask))
        found = await asyncio.gather(*running)
    assert "\n".join(line for lines in found for line in lines) == ""


async def test_the_fault_servers_do_what_they_say(places: dict[str, str]) -> None:
    """With no autopay between."""
    timeout = aiohttp.ClientTimeout(total=1.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def got(url: str) -> object:
            try:
                async with session.get(url) as answer:
                    return answer.status, await answer.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                return type(error)

        assert await got(places["refuses"]) is aiohttp.ClientConnectorError
        assert await got(places["down"]) is TimeoutError
        for fault in ("expired", "another host", "of nobody"):
            assert await got(places[fault]) is aiohttp.ClientConnectorCertificateError
        for act, expected in (
            (faults.hangs(), TimeoutError),
            (faults.stalls(), TimeoutError),
            (faults.hangs_up(), aiohttp.ServerDisconnectedError),
            (faults.breaks_off(), aiohttp.ClientPayloadError),
            (faults.resets(), aiohttp.ClientPayloadError),
            (faults.drips(), (200, GOODS)),
            (faults.empty(), (200, b"")),
        ):
            async with faulty(act) as provider:
                assert await got(provider.url) == expected, act
