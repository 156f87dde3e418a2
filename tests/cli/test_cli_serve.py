"""`autopay serve` and `autopay status`: started, asked, stopped."""

import json
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from proxy.postgres.processes import servers_in
from tests.cli.conftest import Autopay, free_ports

READY = "pays    on"


@pytest.fixture
def ports() -> tuple[int, int]:
    proxy, mounts = free_ports(2)
    return proxy, mounts


def listening(autopay: Autopay, ports: tuple[int, int]) -> Autopay:
    autopay.env |= {
        "AUTOPAY_LISTEN__PROXY": f"127.0.0.1:{ports[0]}",
        "AUTOPAY_LISTEN__MOUNTS": f"127.0.0.1:{ports[1]}",
        "AUTOPAY_LISTEN__ADMIN": "off",
        # No node there: to serve takes none, and the tests need no network.
        "AUTOPAY_NETWORKS__DEVNET__RPC_URL": "http://127.0.0.1:1",
    }
    return autopay


def test_started_healthy_and_stopped(embedded: Autopay, ports: tuple[int, int]) -> None:
    listening(embedded, ports).well("init")
    data = embedded.data / "postgres/data"
    assert embedded("status", "--quiet").returncode == 1
    with embedded.running("serve", until=READY) as process:
        assert servers_in(data) != []
        said = embedded.well("status")
        assert f"proxy     127.0.0.1:{ports[0]} answers" in said
        assert f"settings  {embedded.config}" in said
        assert "embedded PostgreSQL; answers" in said
        assert embedded.well("status", "--quiet") == ""
        assert json.loads(embedded.well("status", "--json"))["well"] is True
        taken = embedded.refused("serve")
        assert taken.startswith(f"cannot listen at 127.0.0.1:{ports[0]}: Address already in use")
        assert "listen.proxy" in taken

        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=15)
        assert process.returncode == 0
        assert "autopay is stopping" in errors and "Traceback" not in errors
    assert servers_in(data) == []
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_an_agent_made_meanwhile_gets_through(autopay: Autopay, ports: tuple[int, int]) -> None:
    """And Ctrl-C ends it as quietly as SIGTERM. It asks for our own mounts listener: being told
    not to go there shows that its token was accepted."""
    listening(autopay, ports)
    with autopay.running("serve", until=READY) as process:
        token = json.loads(autopay.well("agent", "add", "bot", "--json"))["token"]
        url = f"http://127.0.0.1:{ports[1]}/"
        proxy = {"http": f"http://bot:{token}@127.0.0.1:{ports[0]}"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxy))
        for _ in range(100):  # it hears of the agent a moment later
            with pytest.raises(urllib.request.HTTPError) as answered:  # type: ignore[attr-defined]
                opener.open(url)
            with answered.value as answer:
                code = json.load(answer)["code"]
            if code != "proxy_authentication_required":
                break
            time.sleep(0.05)
        assert code == "egress_own_listener"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=15)
    assert process.returncode == 0
    assert "no agent may use it yet; run: autopay agent add NAME" in errors
    assert "there is no wallet" in errors
    assert "Traceback" not in errors


def test_both_listeners_at_one_address(autopay: Autopay, ports: tuple[int, int]) -> None:
    refusal = listening(autopay, (ports[0], ports[0])).refused("serve")
    assert "listen.mounts" in refusal


def test_an_address_that_is_not_ours(autopay: Autopay) -> None:
    refusal = autopay.refused("serve", AUTOPAY_LISTEN__PROXY="192.0.2.1:8402")
    assert refusal.startswith("cannot listen at 192.0.2.1:8402: Cannot assign requested address")


def test_a_proxy_that_was_started_before_init_has_no_wallet(
    autopay: Autopay, ports: tuple[int, int]
) -> None:
    (admin,) = free_ports(1)
    listening(autopay, ports).env["AUTOPAY_LISTEN__ADMIN"] = f"127.0.0.1:{admin}"
    with autopay.running("serve", until=READY):
        assert "running" not in autopay("status").stdout.replace("running-ca", "")
        autopay.well("init")
        done = autopay("status")
        assert done.returncode == 1
        assert (
            "\nrunning   the proxy has no wallet and cannot pay: it was started before"
            in done.stdout
        )
        assert "\nrunning-ca the proxy keeps no certificate authority" in done.stdout
        said = json.loads(autopay("status", "--json").stdout)
        assert (said["well"], said["wallet"]["well"]) == (False, True)
        assert (said["running"]["well"], said["running-ca"]["well"]) == (False, True)
        assert autopay("status", "--quiet").returncode == 1
    with autopay.running("serve", until=READY):
        assert "running" not in autopay.well("status")
        assert autopay.well("status", "--quiet") == ""


def test_another_program_at_our_address_is_not_health(
    autopay: Autopay, ports: tuple[int, int]
) -> None:
    listening(autopay, ports).well("wallet", "new")

    def answer(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", ports[0])) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        done = autopay("status")
        server.shutdown(socket.SHUT_RDWR)
    assert done.returncode == 1
    assert f"127.0.0.1:{ports[0]} is another program, not autopay" in done.stdout


def test_status_goes_on_without_a_database(autopay: Autopay, tmp_path: Path) -> None:
    done = autopay("status", DATABASE_URL=f"postgresql://autopay@/x?host={tmp_path}")
    assert done.returncode == 1
    assert "database  the database cannot be migrated" in done.stdout
    assert "wallet    there is none" in done.stdout


def test_the_local_network(autopay: Autopay) -> None:
    address = autopay.well("wallet", "new").split()[0]
    (port,) = free_ports(1)
    with autopay.running("localnet", "--port", str(port), until="Ctrl-C ends it") as process:
        rows = autopay.well(
            *("wallet", "show", "--balance"),
            AUTOPAY_NETWORKS__DEVNET__RPC_URL=f"http://127.0.0.1:{port}",
        )
        assert "100.000000" in rows and address in rows
        assert "cannot listen at ports" in autopay.refused("localnet", "--port", str(port))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == 0
    refusal = autopay.refused("localnet", "--fund", "nobody")
    assert refusal == "--fund nobody: is not a Solana address"
