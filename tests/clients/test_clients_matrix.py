"""Programs as they are, with nothing but the environment that `autopay run` gives them: what is
free, what is sold, and what comes bit by bit, over http and https.

A program that is not on this machine is skipped with the reason (`pytest -rs`).
"""

import asyncio
import hashlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from npm import FOLDER, node_modules
from shop import PRICE, REFS, Shop, open_shop

from tests.peers.postgres import drop_database, fresh_database

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 20.0
BODY = "a=1&b=two"
DENO = str(FOLDER / "node_modules" / ".bin" / "deno")
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"  # starts sooner

Command = Callable[[str, str, str], list[str]]  # of method, URL and body


@dataclass(frozen=True)
class Client:
    """A program, the ways it has to the proxy, and how to see that it is there."""

    name: str
    version: list[str]
    command: Command
    routes: tuple[str, ...] = ("http", "https")
    environ: Mapping[str, str] = field(default_factory=dict)
    from_npm: bool = False
    """Whether it is one that npm installs (`tests/clients/node`)."""


def curl(*options: str) -> Command:
    def command(method: str, url: str, body: str) -> list[str]:
        data = ["--data-binary", body] if body else []
        return ["curl", "-sSN", "-w", "\nstatus=%{http_code}", *options, "-X", method, *data, url]

    return command


def wget(method: str, url: str, body: str) -> list[str]:
    """It tells of its success by its end only."""
    data = ["--post-data", body] if body else []
    script = "wget -q -O - \"$@\" && printf '\\nstatus=200'"
    return ["sh", "-c", script, "wget", *data, url]


def asking(*words: str) -> Command:
    return lambda method, url, body: [*words, method, url, body]


def by_python(library: str, python: str = sys.executable) -> Client:
    return Client(
        library if python == sys.executable else f"{library}, {python}",
        [python, "-c", f"import {library}" if library != "urllib" else ""],
        asking(python, str(PROGRAMS / "ask.py"), library),
    )


def by_node(name: str, library: str, needs: str = "") -> Client:
    show = f"console.log(require(require.resolve('{needs}/package.json')).version)"
    return Client(
        name,
        ["node", *(["-e", show] if needs else ["--version"])],
        asking("node", str(PROGRAMS / "ask.js"), library),
        from_npm=bool(needs),
    )


def by_java(name: str, library: str, *options: str) -> Client:
    """`{classes}` and `{proxy}` are known when it runs."""
    words = ["java", "-cp", "{classes}", *JVM.split(), *options, "Ask", library]
    routes = ("https",) if options else ("http", "https")  # a JVM takes long to start
    return Client(name, ["javac", "--version"], asking(*words), routes)


# By default Java sends no Basic credential to a proxy for a tunnel.
OWN = ("-Dask.proxy={proxy}", "-Djdk.http.auth.tunneling.disabledSchemes=")

CLIENTS = [
    Client("curl", ["curl", "--version"], curl()),
    Client("curl -p", ["curl", "--version"], curl("-p"), ("http",)),  # http by CONNECT
    Client("wget", ["wget", "--version"], wget),
    by_python("requests"),
    by_python("httpx"),
    by_python("aiohttp"),
    by_python("urllib"),
    by_python("urllib", "python3.13"),  # verifies by RFC 5280 to the letter
    by_node("node http, https", "module"),
    by_node("node fetch", "fetch"),
    by_node("axios", "axios", "axios"),
    by_node("axios 0.19", "axios-old", "axios-old"),  # https by absolute-form
    by_node("undici", "undici", "undici"),  # http by CONNECT
    by_node("node-fetch", "node-fetch", "node-fetch"),
    Client(
        "deno fetch",
        [DENO, "--version"],
        asking(DENO, "run", "--quiet", "--allow-all", "--no-config", str(PROGRAMS / "ask.mjs")),
        environ={"DENO_DIR": str(FOLDER / "deno"), "DENO_NO_UPDATE_CHECK": "1"},
        from_npm=True,
    ),
    by_java("java HttpClient", "client"),
    by_java("java HttpURLConnection", "connection"),
    by_java("java HttpClient, Authenticator", "client", *OWN),
    by_java("java HttpURLConnection, Authenticator", "connection", *OWN),
    Client("go", ["go", "version"], asking("{go}")),
]


@pytest.fixture(scope="module")
def shop(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    dsn = asyncio.run(fresh_database(server, template))
    with open_shop(dsn, tmp_path_factory.mktemp("shop")) as shop:
        yield shop
    asyncio.run(drop_database(server, dsn))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """What has to be compiled, when it is first asked for."""
    folder = tmp_path_factory.mktemp("built")

    def go() -> str:
        subprocess.run(
            ["go", "build", "-o", folder / "ask", PROGRAMS / "ask.go"], check=True, cwd=folder
        )
        return str(folder / "ask")

    def classes() -> str:
        subprocess.run(["javac", "-d", folder, PROGRAMS / "Ask.java"], check=True)
        return str(folder)

    ways = {"{go}": go, "{classes}": classes}
    known: dict[str, str] = {}

    def fill(word: str) -> str:
        for name, way in ways.items():
            if name in word:
                known[name] = known.get(name) or way()
                word = word.replace(name, known[name])
        return word

    return fill


@dataclass
class Outcome:
    body: str
    status: str
    before_halfway: str
    """What the program had shown when the seller had sent its first half only."""


def run(shop: Shop, client: Client, words: list[str], *, first: bytes = b"") -> Outcome:
    """Run a program; once it has shown `first`, the seller goes on."""
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C"}
    if "PYENV_VERSION" in os.environ:
        environ["PYENV_VERSION"] = os.environ["PYENV_VERSION"]
    environ["NODE_PATH"] = str(FOLDER / "node_modules")
    environ |= shop.environ | client.environ
    if any("-Dask.proxy" in word for word in words):  # it is told of its proxy by itself
        kept = [w for w in environ["JAVA_TOOL_OPTIONS"].split() if "proxyPort" not in w]
        address = shop.home.service.proxy_address
        kept += [f"-D{scheme}.proxyPort={address[1]}" for scheme in ("http", "https")]
        environ["JAVA_TOOL_OPTIONS"] = " ".join(kept)
    words = [word.replace("{proxy}", shop.home.proxy) for word in words]
    with subprocess.Popen(
        words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        out, at_halfway = b"", ""
        end = time.monotonic() + PATIENCE
        try:
            while select.select([process.stdout], [], [], end - time.monotonic())[0]:
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    break
                out += piece
                if first and not at_halfway and first in out:
                    at_halfway = out.decode()
                    shop.go_on()
            else:
                pytest.fail(f"it showed {out!r} and then nothing")
        finally:
            shop.go_on()
            if process.poll() is None and time.monotonic() > end:
                process.kill()
        said = process.stderr.read().decode()
    body, _, status = out.decode().rpartition("\nstatus=")
    assert status, f"{words} said {out!r} {said}"
    return Outcome(body, status, at_halfway)


def cases() -> Iterator[object]:
    for client in CLIENTS:
        for route in client.routes:
            yield pytest.param(client, route, id=f"{client.name}-{route}")


_there: dict[str, str] = {}


def present(client: Client) -> None:
    """Skip if the program is not on this machine."""
    key = " ".join(client.version)
    missing = node_modules()[1] if client.from_npm else ""
    if missing:
        pytest.skip(f"{client.name}: {missing}")
    if key not in _there:
        if shutil.which(client.version[0]) is None:
            _there[key] = f"{client.version[0]} is not on this machine"
        else:
            told = {**os.environ, "NODE_PATH": str(FOLDER / "node_modules")}
            tried = subprocess.run(
                client.version, check=False, capture_output=True, text=True, env=told
            )
            if tried.returncode == 0:
                said = (tried.stdout or tried.stderr).split("\n")[0][:60]
                print(f"{client.name}: {said}")
            lines = tried.stderr.splitlines()
            why = next((line for line in lines if "Error" in line), lines[-1] if lines else "")
            _there[key] = "" if tried.returncode == 0 else f"`{key}` fails: {why}"
    if _there[key]:
        pytest.skip(f"{client.name}: {_there[key]}")


@pytest.mark.parametrize("operation", ["get free", "get paid", "post paid", "stream paid"])
@pytest.mark.parametrize(("client", "route"), list(cases()))
def test_client(
    shop: Shop, built: Callable[[str], str], client: Client, route: str, operation: str
) -> None:
    present(client)
    verb, kind = operation.split()
    method, body = ("POST", BODY) if verb == "post" else ("GET", "")
    folder = "stream" if verb == "stream" else kind
    path = f"/{folder}/{CLIENTS.index(client)}-{route}-{verb}"
    base = shop.https if route == "https" else shop.http
    words = [built(word) for word in client.command(method, base + path, body)]
    outcome = run(shop, client, words, first=b"first " if verb == "stream" else b"")
    expected = {"free": "free", "paid": f"got {body}", "stream": "first second"}[folder]
    assert (outcome.status, outcome.body) == ("200", expected)
    if verb == "stream":
        assert outcome.before_halfway == "first "
    seen = shop.seen[path]
    assert [request.payment is not None for request in seen] == (
        [False] if kind == "free" else [False, True]
    )
    assert {request.body.decode() for request in seen} == {body}
    assert {request.line.split()[0] for request in seen} == {method}
    assert all("proxy-authorization" not in request.headers for request in seen)


@pytest.mark.parametrize("route", ["http", "https"])
def test_git(shop: Shop, route: str) -> None:
    client = Client("git", ["git", "--version"], asking())
    present(client)
    base = shop.https if route == "https" else shop.http
    script = "git ls-remote \"$@\" && printf '\\nstatus=200'"
    outcome = run(shop, client, ["sh", "-c", script, "git", f"{base}/repository"])
    assert REFS.decode().strip() in outcome.body


def test_cargo(shop: Shop, tmp_path: Path) -> None:
    """From a registry whose index and crates are behind a tunnel that is opened."""
    cargo = shutil.which("cargo") or str(Path.home() / ".cargo" / "bin" / "cargo")
    client = Client("cargo", [cargo, "--version"], asking())
    present(client)
    crate = io.BytesIO()
    with tarfile.open(fileobj=crate, mode="w:gz") as archive:
        for name, text in {
            "Cargo.toml": '[package]\nname = "hello"\nversion = "1.0.0"\nedition = "2021"\n',
            "src/lib.rs": "",
        }.items():
            member = tarfile.TarInfo(f"hello-1.0.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    entry = {
        "name": "hello", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False,
        "cksum": hashlib.sha256(crate.getvalue()).hexdigest(),
    }  # fmt: skip
    base = f"{shop.https}/crates"
    shop.files |= {
        "/crates/config.json": json.dumps({"dl": f"{base}/dl/{{crate}}-{{version}}"}).encode(),
        "/crates/he/ll/hello": json.dumps(entry).encode() + b"\n",
        "/crates/dl/hello-1.0.0": crate.getvalue(),
    }
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.rs").write_text("fn main() {}\n")
    (tmp_path / "Cargo.toml").write_text(
        '[package]\nname = "program"\nversion = "0.1.0"\nedition = "2021"\n'
        '[dependencies]\nhello = { version = "1", registry = "shop" }\n'
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")} | shop.environ
    environ |= {
        "CARGO_HOME": str(tmp_path / "cargo"),
        "CARGO_REGISTRIES_SHOP_INDEX": f"sparse+{base}/",
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup")),
    }
    fetched = subprocess.run(
        [cargo, "fetch"], cwd=tmp_path, env=environ, check=False, capture_output=True, text=True,
        timeout=PATIENCE * 2,
    )  # fmt: skip
    assert fetched.returncode == 0, fetched.stderr
    for path in shop.files:
        assert shop.seen[path], path
    assert (tmp_path / "Cargo.lock").read_text().count(entry["cksum"]) == 1


def test_every_payment_is_in_the_books(shop: Shop) -> None:
    """And nothing else is."""
    assert shop.wait(shop.home.counters()) == (shop.payments * PRICE, 0)
