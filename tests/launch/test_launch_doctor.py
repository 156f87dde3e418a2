"""The check-up on this machine: what is here buys, and what cannot is told as it is."""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.launch.doctor.checkup import Row, checkup
from proxy.launch.doctor.ground import Loop
from proxy.launch.doctor.programs import RUNTIMES, Runtime
from tests.cli.conftest import Autopay

NODE = r"""
const url = process.argv[1];
const https = url.startsWith('https:');
const module_ = require(https ? 'https' : 'http');
const host = new URL(url).host;

const get = (options) => new Promise((resolve) => {
  module_.get(url, options, (answer) => {
    let body = '';
    answer.on('data', (data) => { body += data; });
    answer.on('end', () => resolve(`${answer.statusCode} ${/Lisbon/.test(body)}`));
  }).on('error', (error) => resolve(error.message));
});
const ask = (options, path = url) => fetch(path, options).then(
  async (answer) => `${answer.status} ${(await answer.text()).slice(0, 40)}`,
  (error) => String(error.cause || error));

(async () => {
  const told = {};
  const agent = new module_.Agent({ keepAlive: true });
  told.plain = await get({});
  told.pooled = await get({ agent });
  told.pooledAgain = await get({ agent });
  told.noAgent = await get({ agent: false });
  told.listed = await get({ headers: ['host', host, 'x-a', 'b'] });
  told.post = await ask({ method: 'POST', body: 'hello', headers: { 'x-a': 'b' } },
    url.replace('weather', 'echo'));
  told.imported = await import(https ? 'node:https' : 'node:http').then((named) =>
    new Promise((resolve) => named.get(url, (answer) => {
      answer.resume(); resolve(String(answer.statusCode));
    })));
  const server = require('http').createServer((_, answer) => answer.end('local'));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  told.local = await ask({}, `http://127.0.0.1:${server.address().port}/`);
  server.close();
  server.closeAllConnections();
  agent.destroy();
  console.log(JSON.stringify(told));
  console.error(JSON.stringify(told));
  process.exitCode = 3;
})();
"""
DIRECT = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(opener.open(sys.argv[1]).read())
"""


def by(*words: str) -> Callable[[Path, str], list[str]]:
    return lambda _directory, url: [*words, url]


def examined(*runtimes: Runtime) -> list[Row]:
    async def rows() -> list[Row]:
        return [row async for row in checkup(runtimes)]

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(rows())


def test_everything_that_is_installed_here_buys(private: Path) -> None:
    done = Autopay(private)("doctor", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done
    assert [row["name"] for row in rows] == [runtime.name for runtime in RUNTIMES]
    for runtime, row in zip(RUNTIMES, rows, strict=True):
        if not row["version"]:
            assert row["checks"] == {}
            continue
        words = "paid" if runtime.buys else "answers"
        assert {scheme: check["words"] for scheme, check in row["checks"].items()} == {
            "http": words,
            "https": words,
        }, row
    versions = {row["name"]: row["version"] for row in rows}
    assert versions["Python urllib"] and versions["Python requests"]
    for name, program in (("curl", "curl"), ("Node fetch", "node"), ("git", "git")):
        assert bool(versions[name]) == bool(shutil.which(program))
    assert list(private.iterdir()) == []


def test_what_does_not_work_is_told_as_it_is() -> None:
    (around, absent, poor) = examined(
        Runtime("around it", ("python3", "--version"), by(sys.executable, "-c", DIRECT), ""),
        Runtime("absent", ("no-such-program", "--version"), by("no-such-program"), ""),
        Runtime(
            "poor",
            ("python3", "--version"),
            lambda _directory, url: [
                *(sys.executable, "-c", "import sys, urllib.request as r; r.urlopen(sys.argv[1])"),
                url.replace("weather", "premium"),
            ],
            "",
        ),
    )
    assert not around.well
    assert {check.words for check in around.checks.values()} == {"failed"}
    assert all("not known" in check.why for check in around.checks.values()), around
    assert absent.well and absent.version == "" and absent.checks == {}
    assert not poor.well
    assert "403" in poor.checks["https"].why


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_nodes_requests_of_every_kind_are_paid_for() -> None:
    program = Runtime("node", ("node", "--version"), by("node", "-e", NODE, "--"), "")
    (row,) = examined(program)
    for scheme in ("http", "https"):
        told = json.loads(row.checks[scheme].why)
        assert told.pop("post") == "200 hello", told
        assert told.pop("imported") == "200", told
        assert told.pop("local") == "200 local"
        assert set(told.values()) == {"200 true"}, (scheme, told)
