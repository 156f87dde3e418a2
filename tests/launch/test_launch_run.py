"""`autopay run` as a person uses it: a process, its signals, its streams and its one line."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import asyncpg
import pytest

from proxy.localnet import Localnet
from tests.cli.conftest import Autopay

BUY = """
import os, sys, urllib.error, urllib.request
for url in sys.argv[1:]:
    request = urllib.request.Request(url, headers={"Autopay-Session": "elsewhere"})
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    print(answer.status)
print(os.environ["HTTP_PROXY"])
"""
TRAP = """
import signal, sys, time
names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
got = []
for name in names:
    signal.signal(getattr(signal, name), lambda number, _: got.append(signal.Signals(number).name))
print("ready", flush=True)
end = time.monotonic() + 20
while "SIGTERM" not in got and time.monotonic() < end:
    time.sleep(0.02)
time.sleep(0.2)
print(*got)
sys.exit(9)
"""


async def do(autopay: Autopay, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """In a thread: the shop is served by this one's loop."""
    return await asyncio.to_thread(autopay, *words, stdin=stdin)


def python(code: str, *words: str) -> list[str]:
    return ["--", sys.executable, "-c", code, *words]


async def live_tokens(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM agent_tokens WHERE revoked_at IS NULL AND session_id IS NOT NULL"
        )
        return count
    finally:
        await connection.close()


async def test_it_buys_and_tells_what(autopay: Autopay, net: Localnet, dsn: str) -> None:
    done = await do(autopay, "run", *python(BUY, f"{net.api_url}/weather", f"{net.api_url}/free"))
    assert done.returncode == 0, done.stderr
    *statuses, proxy = done.stdout.split()
    assert statuses == ["200", "200"]
    assert done.stderr == "autopay: bought 1 call for $0.001 from 127.0.0.2; $0.999 left\n"

    # The proxy was its own, and it and its token are gone.
    found = re.fullmatch(r"http://run:ap_[\w-]{43}@127\.0\.0\.1:(\d+)", proxy)
    assert found and found[1] not in autopay.config.read_text()
    after = subprocess.run(
        ["curl", "-sS", "--proxy", proxy, net.api_url], check=False, capture_output=True, text=True
    )
    assert after.returncode == 7, after  # nobody listens there
    assert await live_tokens(dsn) == 0


async def test_a_budget_holds_whatever_the_program_says(autopay: Autopay, net: Localnet) -> None:
    # Each asks for something else: the program ends before its last answer does, and that answer is
    # kept for whoever asks the same again.
    words = python(BUY, *(f"{net.api_url}/weather?{n}" for n in range(3)))
    done = await do(autopay, "run", "--budget", "0.002", "--session", "trip", *words)
    assert done.stdout.split()[:3] == ["200", "200", "403"], done.stderr
    assert done.stderr == (
        "autopay: bought 2 calls for $0.002 from 127.0.0.2; "
        "1 call refused (over_session_limit); $0.00 left\n"
    )
    # The session is the same the next time, and so is what it has spent.
    others = python(BUY, *(f"{net.api_url}/weather?{n}" for n in range(3, 6)))
    again = await do(autopay, "run", "--session", "trip", *others)
    assert again.stdout.split()[:3] == ["403", "403", "403"]
    assert "bought nothing; 3 calls refused" in again.stderr
    # Another run has its own, but the agent's day is one.
    other = await do(autopay, "run", *python(BUY, f"{net.api_url}/weather?6"))
    assert other.stderr.endswith("; $0.997 left\n")
    receipts = (await do(autopay, "receipts", "--json")).stdout.splitlines()
    sessions = [json.loads(line)["session_id"] for line in receipts]
    assert sessions[1:] == ["trip", "trip"] and sessions[0].startswith("run-")


async def test_it_goes_through_the_proxy_that_runs(autopay: Autopay, net: Localnet) -> None:
    listener = re.search(r'proxy = "(.*?)"', autopay.config.read_text())
    assert listener
    with autopay.running("serve", until="is ready") as serving:
        done = await do(autopay, "run", *python(BUY, f"{net.api_url}/weather"))
        status, proxy = done.stdout.split()
        assert status == "200", done.stderr
        assert proxy.endswith(f"@{listener[1]}")
        assert done.stderr.startswith("autopay: bought 1 call")
        # The token has ended with the run: the same proxy takes it no more.
        code = f"curl -s -o /dev/null -w %{{http_code}} --proxy {proxy} {net.api_url}/free"
        for _ in range(100):
            refused = await asyncio.to_thread(subprocess.getoutput, code)
            if refused == "407":
                break
            await asyncio.sleep(0.05)
        assert refused == "407"

        script = f'eval "$({" ".join(autopay.command("env"))})"; curl -s {net.api_url}/weather'
        bought = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env=autopay.environment(),
        )
        assert "Lisbon" in bought.stdout, bought.stderr
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=20)


async def test_streams_and_status_are_the_programs(autopay: Autopay) -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(7)"
    done = await do(autopay, "run", *python(code), stdin="all of it")
    assert (done.returncode, done.stdout) == (7, "ALL OF IT")
    assert done.stderr == "autopay: bought nothing; $1.00 left\n"
    killed = await do(autopay, "run", "--", "sh", "-c", "kill -KILL $$")
    assert killed.returncode == 128 + signal.SIGKILL


async def test_what_cannot_be_started_has_a_shells_status(autopay: Autopay, dsn: str) -> None:
    missing = await do(autopay, "run", "no-such-program")
    assert missing.returncode == 127
    assert missing.stderr.startswith("autopay: no-such-program: not found\n")
    forbidden = await do(autopay, "run", "--agent", "new", "--", str(autopay.config))
    assert forbidden.returncode == 126
    assert "Permission denied" in forbidden.stderr
    assert "autopay: there was no agent 'new': it was made" in forbidden.stderr
    assert "it was made" not in missing.stderr
    assert await live_tokens(dsn) == 0
    agents = (await do(autopay, "agent", "list", "--json")).stdout.splitlines()
    assert [json.loads(line)["agent"] for line in agents] == ["new", "run"]
    assert (await do(autopay, "run")).returncode == 2
    assert (await do(autopay, "run", "--budget", "-1", "true")).returncode == 2


@pytest.mark.parametrize("ignored", ["", "trap '' HUP; "])
async def test_signals_reach_the_program(autopay: Autopay, dsn: str, ignored: str) -> None:
    words = " ".join(f"'{word}'" for word in autopay.command("run", *python(TRAP)))
    process = subprocess.Popen(
        ["sh", "-c", f"{ignored}exec {words}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=autopay.environment(),
        start_new_session=True,  # without a terminal
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.1)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 9, err
    expected = "SIGINT SIGUSR1 SIGTERM" if ignored else "SIGINT SIGHUP SIGUSR1 SIGTERM"
    assert out.split() == expected.split()
    assert err.startswith("autopay: bought nothing")
    assert await live_tokens(dsn) == 0


async def test_a_terminals_ctrl_c_comes_once(autopay: Autopay) -> None:
    """It goes to us and to the program both, so it must not be passed on as well."""
    spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    process = subprocess.Popen(
        [sys.executable, "-c", spawn, *autopay.command("run", *python(TRAP))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=autopay.environment(),
    )
    assert process.stdin is not None and process.stdout is not None
    seen = b""
    while b"ready" not in seen:
        seen += os.read(process.stdout.fileno(), 4096)
    process.stdin.write(b"\x03")
    process.stdin.flush()
    time.sleep(0.5)
    child = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).strip()
    subprocess.run(["kill", "-TERM", child], check=True)
    rest = process.stdout.read()
    assert process.wait(20) == 9
    assert rest.count(b"SIGINT") == 1, rest
    process.stdin.close()
    process.stdout.close()


async def test_a_signal_before_there_is_a_program(autopay: Autopay, dsn: str) -> None:
    # A listener that says nothing keeps it waiting in its start.
    listening = re.search(r'proxy = "127.0.0.1:(\d+)"', autopay.config.read_text())
    assert listening
    waiting: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(
        lambda _, writer: waiting.append(writer), "127.0.0.1", int(listening[1])
    )
    process = subprocess.Popen(
        autopay.command("run", "--", "echo", "started"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=autopay.environment(),
    )
    while await live_tokens(dsn) == 0:
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = await asyncio.to_thread(process.communicate, timeout=20)
    assert (process.returncode, out) == (128 + signal.SIGTERM, "")
    assert await live_tokens(dsn) == 0
    for writer in waiting:
        writer.close()
    silent.close()
    await silent.wait_closed()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_a_proxy_of_other_books_is_left_alone(
    autopay: Autopay, net: Localnet, another: Autopay
) -> None:
    another.config.write_text(autopay.config.read_text())
    with another.running("serve", until="is ready"):
        done = await do(autopay, "run", *python(BUY, f"{net.api_url}/weather"))
    assert done.stdout.split()[0] == "200", done.stderr


async def test_the_ca_is_shown_changed_and_explained(autopay: Autopay) -> None:
    inside = Autopay(autopay.data, autopay.env, inside=True)
    assert "run autopay init" in inside.refused("ca", "export")
    inside.well("init")
    pem = inside.well("ca", "export")
    assert pem.startswith("-----BEGIN CERTIFICATE-----") and "PRIVATE" not in pem
    assert "until 20" in inside.well("ca", "export", str(autopay.data / "mine.pem"))
    assert pem in (autopay.data / "mine.pem").read_text()
    assert "update-ca-certificates" in inside.well("ca", "install-hint", "--system", "debian")
    assert "old  " in inside.well("ca", "rotate")
    assert inside.well("ca", "export") != pem
