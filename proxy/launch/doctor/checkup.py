"""The check-up: every runtime asks both shops, and what came of it is told, not hoped."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from proxy.launch import lender
from proxy.launch.doctor.ground import AGENT, GOODS, REPOSITORY, Ground, ground
from proxy.launch.doctor.programs import RUNTIMES, Runtime
from proxy.launch.environment import variables
from proxy.ledger import agents, sessions
from proxy.subprocesses import heard

SCHEMES = ("http", "https")
AT_ONCE = 2
VERSION_SECONDS = 20.0
PROGRAM_SECONDS = 60.0
HEARD_SECONDS = 5.0
# What tells of a proxy or of autopay, and shall not reach the programs.
_FOREIGN = re.compile(r"(?i).*_proxy|autopay_.*|database_url")
_VERSION = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one request. `words`: "paid", "answers" (there was nothing to pay), "402, not
    paid" or "failed", of which `why` is the program's own last line."""

    well: bool
    words: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A runtime; `version` is "" where it is not installed, and `checks` are by scheme."""

    name: str
    version: str
    checks: Mapping[str, Check]
    needs: str

    @property
    def well(self) -> bool:
        return all(check.well for check in self.checks.values())


async def checkup(runtimes: Sequence[Runtime] = RUNTIMES) -> AsyncIterator[Row]:
    """A row per runtime, in their order, each as soon as it is known. To be run on a `Loop`."""
    environ = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
    room = asyncio.Semaphore(AT_ONCE)
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(ground(environ, Path.home()))

        async def row(runtime: Runtime) -> Row:
            async with room:
                version = await _version(runtime, environ)
            if not version:
                return Row(runtime.name, "", {}, runtime.needs)
            checks = {}
            for scheme in SCHEMES:
                async with room:
                    checks[scheme] = await _check(here, runtime, scheme, environ)
            return Row(runtime.name, version, checks, runtime.needs)

        tasks = [asyncio.create_task(row(runtime)) for runtime in runtimes]
        stack.push_async_callback(_end, tasks)
        for task in tasks:
            yield await task


async def _end(tasks: Sequence["asyncio.Task[Row]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _check(here: Ground, runtime: Runtime, scheme: str, environ: Mapping[str, str]) -> Check:
    """With a token and a session of its own, so that the books tell what this one paid."""
    session = f"{runtime.name} {scheme}"
    new = await agents.issue_token(here.store.database, here.store.vault, AGENT, session=session)
    since = await sessions.now(here.store.database)
    async with asyncio.timeout(HEARD_SECONDS):
        while here.service.directory.by_token(new.token) is None:  # noqa: ASYNC110 - not ours
            await asyncio.sleep(0.01)
    async with AsyncExitStack() as stack:
        port = None
        if lender.possible():
            port = await stack.enter_async_context(lender.lending(here.proxy, AGENT, new.token))
        set_for_it = variables(
            environ,
            proxy_url=f"http://{AGENT}:{new.token}@{here.proxy}",
            trust=here.trust,
            lender_port=port,
        )
        directory = here.directory / "programs" / session.replace("/", "-")
        directory.mkdir(parents=True)
        url = here.shops[scheme] + ("/weather" if runtime.buys else REPOSITORY)
        command = runtime.command(directory, url)
        status, out, err = await heard(command, {**environ, **set_for_it}, PROGRAM_SECONDS)
    spent = await sessions.spending(here.store.database, new.agent, session, since)
    return _judged(runtime, status, out, err, spent.calls)


def _judged(runtime: Runtime, status: int | None, out: str, err: str, bought: int) -> Check:
    if status is None:
        return Check(False, "failed", f"no answer within {PROGRAM_SECONDS:.0f} s")
    if not runtime.buys and status == 0 and "refs/heads/main" in out:
        return Check(True, "answers")
    if runtime.buys and status == 0 and GOODS in out:
        # Both must be so: the goods are here, and the books say what for.
        return (
            Check(True, "paid") if bought == 1 else Check(False, "failed", f"paid {bought} times")
        )
    if re.search(r"\b402\b", out + err):
        return Check(False, "402, not paid")
    lines = [line.strip() for line in (err or out).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("at ", "Picked up "))]
    return Check(False, "failed", telling[-1][:300] if telling else f"exit status {status}")


async def _version(runtime: Runtime, environ: Mapping[str, str]) -> str:
    """As it tells itself; "" if it is not there."""
    if shutil.which(runtime.version[0]) is None:
        return ""
    status, out, err = await heard(runtime.version, environ, VERSION_SECONDS)
    found = _VERSION.search(out + err)
    return found[0] if status == 0 and found else ""
