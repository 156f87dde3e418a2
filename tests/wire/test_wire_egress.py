"""Where programs may not be taken: what an address is, and what the socket makes of it."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import aiohappyeyeballs
import pytest
from wire_rig import (
    CREDENTIAL,
    LOOPBACK,
    PAYMENT,
    TOKEN,
    Ann,
    Answer,
    Rig,
    sold,
)
from wire_rig import ok as answered
from wire_rig import rig as open_rig

from proxy.wire.egress import EVERYWHERE, Kind, Leave, Place, kind_of, usual_port
from proxy.wire.gate import NotSent, PaymentRequired, Purchase, Reply
from proxy.wire.problem import Problem

NOWHERE = Leave()  # the internet, and no more
Info = tuple[Any, ...]

# --- what an address is

KINDS = {
    Kind.PUBLIC: """
        1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
        169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0
        198.17.255.255 198.20.0.0 223.255.255.255
        2606:4700::1111 2a00:1450::1 2001:4860:4860::8888 2001:200::1
        ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1
    """,
    Kind.LOOPBACK: """
        127.0.0.1 127.0.0.0 127.255.255.255 ::1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::127.0.0.1
        64:ff9b::127.0.0.1 2002:7f00:1:: 2002:7f00:1::1234 2001:0:4136:e378:8000:63bf:80ff:fffe
    """,
    Kind.PRIVATE: """
        10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255
        100.64.0.0 100.127.255.255 fc00:: fd12:3456::1 fdff:ffff:: fec0::1 64:ff9b:1::1
        ::ffff:10.0.0.1 ::ffff:100.64.0.1 64:ff9b::192.168.1.1 2002:c0a8:101::1 ::10.0.0.1
        2001:0:4136:e378:8000:63bf:f5ff:fffe
    """,
    Kind.LINK_LOCAL: "169.254.0.1 169.254.255.255 fe80::1 febf::1 ::ffff:169.254.1.1",
    Kind.METADATA: """
        169.254.169.254 169.254.170.2 169.254.170.23 100.100.100.200 192.0.0.192 168.63.129.16
        fd00:ec2::254 fd20:ce::254 fe80::a9fe:a9fe ::ffff:169.254.169.254 64:ff9b::169.254.169.254
        2002:a9fe:a9fe:: ::169.254.169.254 2001:0:4136:e378:8000:63bf:5601:5601
    """,
    Kind.MULTICAST: "224.0.0.1 239.255.255.255 ff02::1 ff0e::1 ::ffff:224.0.0.1 2002:e000:1::",
    Kind.UNSPECIFIED: "0.0.0.0 :: ::ffff:0.0.0.0 64:ff9b::",
    Kind.RESERVED: """
        0.0.0.1 0.255.255.255 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255
        198.51.100.1 203.0.113.1 240.0.0.1 255.255.255.255
        100::1 2001:db8::1 2001:2::1 3fff::1 4000::1 5f00::1 ::ffff:0:127.0.0.1 ::2:1.1.1.1
        ::8.8.8.8 2001:0:4136:e378:8000:63bf:f7f7:f7f7 ::ffff:255.255.255.255
    """,
}


@pytest.mark.parametrize(
    ("text", "kind"), [(text, kind) for kind, texts in KINDS.items() for text in texts.split()]
)
def test_what_an_address_is(text: str, kind: Kind) -> None:
    assert kind_of(ip_address(text)) is kind
    place = Place.of(text, 443)
    assert NOWHERE.refusal(place) == (None if kind is Kind.PUBLIC else f"egress_{kind}")
    assert EVERYWHERE.refusal(place) is None


def test_a_zone_changes_nothing() -> None:
    assert Place.of("fe80::1%eth0", 80).kind is Kind.LINK_LOCAL
    assert Place.of("fe80::a9fe:a9fe%2", 80).kind is Kind.METADATA
    with pytest.raises(ValueError, match="does not appear"):
        Place.of("localhost", 80)


def to(*targets: str, port: int | None = None) -> Leave:
    return Leave(tuple((ip_network(text), port) for text in targets))


@pytest.mark.parametrize(
    ("leave", "host", "port", "code"),
    [
        (to("127.0.0.0/8"), "127.1.2.3", 1, None),
        (to("127.0.0.0/8"), "::ffff:127.1.2.3", 22, None),
        (to("127.0.0.0/8"), "::1", 80, "egress_loopback"),
        (to("127.0.0.0/8"), "10.0.0.1", 80, "egress_private"),
        (to("127.0.0.1", port=8080), "127.0.0.1", 8080, None),
        (to("127.0.0.1", port=8080), "127.0.0.1", 8081, "egress_loopback"),
        # What is covered is what is reached, not how it is written.
        (to("2002::/16"), "2002:7f00:1::", 80, "egress_loopback"),
        (to("::/0"), "::ffff:10.0.0.1", 80, "egress_private"),
        # A metadata service has to be meant.
        (to("0.0.0.0/0", "169.254.0.0/16"), "169.254.169.254", 80, "egress_metadata"),
        (to("169.254.169.254"), "169.254.169.254", 80, None),
        (to("0.0.0.0/0"), "0.0.0.0", 80, "egress_unspecified"),
        (to("0.0.0.0"), "0.0.0.0", 80, "egress_unspecified"),
        (to("0.0.0.0/0"), "8.8.8.8", 22, None),
        (Leave(ports=frozenset((22,))), "8.8.8.8", 22, None),
        (Leave(ports=frozenset((22,))), "8.8.8.8", 443, "egress_port"),
        (Leave(ports=frozenset((22,))), "10.0.0.1", 22, "egress_private"),
        (NOWHERE, "8.8.8.8", 25, "egress_port"),
    ],
)
def test_what_a_policy_opens(leave: Leave, host: str, port: int, code: str | None) -> None:
    assert leave.refusal(Place.of(host, port)) == code


def test_the_usual_ports() -> None:
    assert all(map(usual_port, (80, 443, 1024, 3000, 4021, 8000, 8080, 8443, 9443, 65535)))
    never = (1, 21, 22, 23, 25, 53, 110, 143, 389, 445, 465, 587, 873, 993, 1023)
    services = (2049, 3306, 3389, 5432, 5900, 6379, 6667, 9042, 9092, 11211, 27017)
    assert not any(map(usual_port, never + services))


# --- at the socket


class Names:
    """A resolver. Each name has its answers in turn, the last one for good."""

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self.names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[Info]:
        self.asked.append(host)
        answers = self.names.get(host)
        if answers is None:
            loop = asyncio.get_running_loop()
            return list(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address that was dialled. What is not on this machine is answered by 127.0.0.1."""
    seen: list[str] = []
    connect = aiohappyeyeballs.start_connection

    async def start_connection(infos: Sequence[Info], **options: Any) -> socket.socket:
        seen.extend(info[4][0] for info in infos)
        port = infos[0][4][1]
        here = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        return await connect([here], **options)

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    return seen


async def ask(it: Rig, host: str, port: int | None = None, *, method: bytes = b"GET") -> Answer:
    """A request in absolute form to whatever `host` says, at the provider's port."""
    authority = f"{host}:{port or it.provider.port}".encode()
    client = await it.client()
    await client.send(
        b"%b http://%b/a?q=1 HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n"
        % (method, authority, authority, CREDENTIAL)
    )
    answer = await client.answer()
    client.close()
    return answer


async def connect(it: Rig, authority: str) -> Answer:
    client = await it.client()
    line = f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n".encode()
    await client.send(line + CREDENTIAL + b"\r\n\r\n")
    answer = await client.head()
    if answer.status != 200:
        answer.body = await client.reader.readexactly(int(answer.one(b"content-length") or 0))
    client.close()
    return answer


def code(answer: Answer) -> str:
    assert answer.status == 403, answer
    assert answer.one(b"content-type") == b"application/problem+json"
    document = json.loads(answer.body)
    assert "Nothing was sent or paid" in document["detail"]
    return str(document["code"])


Asking = Callable[[Rig, str, int], Awaitable[Answer]]


async def by_http(it: Rig, host: str, port: int) -> Answer:
    return await ask(it, host, port)


async def by_https(it: Rig, host: str, port: int) -> Answer:
    client = await it.client()
    line = f"GET https://{host}:{port}/ HTTP/1.1\r\nHost: x\r\n".encode()
    await client.send(line + CREDENTIAL + b"\r\n\r\n")
    return await client.answer()


async def by_connect(it: Rig, host: str, port: int) -> Answer:
    return await connect(it, f"{host}:{port}")


WAYS = pytest.mark.parametrize("way", [by_http, by_https, by_connect])


@WAYS
async def test_nobody_is_taken_to_loopback_unasked(rig: Rig, way: Asking) -> None:
    rig.gate.ann.leave = NOWHERE
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert code(await way(rig, host, rig.provider.port)) == "egress_loopback"
    assert rig.provider.connections == 0
    first = rig.gate.refused[0]
    assert (first.agent.name, first.code) == ("ann", "egress_loopback")
    assert first.address == "127.0.0.1"
    assert first.url.endswith(f"127.0.0.1:{rig.provider.port}" + "/" * (way is by_https)) or (
        first.url == f"http://127.0.0.1:{rig.provider.port}/a?q=1"
    )
    assert len(rig.gate.refused) == 3
    # It says nothing of the provider.
    assert all(ticket.said == ["neutral"] for ticket in rig.gate.tickets)


@WAYS
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", "egress_private"),
        ("100.64.0.1", "egress_private"),
        ("fd00::1", "egress_private"),
        ("169.254.3.4", "egress_link_local"),
        ("fe80::1", "egress_link_local"),
        ("169.254.169.254", "egress_metadata"),
        ("fd00:ec2::254", "egress_metadata"),
        ("224.0.0.1", "egress_multicast"),
        ("0.0.0.0", "egress_unspecified"),
        ("240.0.0.1", "egress_reserved"),
        ("::ffff:192.168.0.1", "egress_private"),
        ("64:ff9b::7f00:1", "egress_loopback"),
    ],
)
async def test_names_count_for_nothing(
    dialled: list[str], way: Asking, address: str, expected: str
) -> None:
    async with open_rig(resolver=Names(shop_example=[[address]])) as rig:
        rig.gate.ann.leave = NOWHERE
        answer = await way(rig, "shop.example", 8080)
        assert code(answer) == expected
        assert rig.gate.refused[0].address in (address, "192.168.0.1", "127.0.0.1")
        assert address.encode() not in answer.body  # what a name stands for is not the agent's
    assert dialled == []


@WAYS
@pytest.mark.parametrize("port", [22, 25, 465, 587, 3306, 5432, 6379])
async def test_ports_of_other_services(dialled: list[str], way: Asking, port: int) -> None:
    async with open_rig(resolver=Names(mail_example=[["8.8.8.8"]])) as rig:
        assert code(await way(rig, "mail.example", port)) == "egress_port"
    assert dialled == []


async def test_what_is_refused_is_left_out(dialled: list[str]) -> None:
    answers = [["10.0.0.1", "8.8.8.8", "127.0.0.1", "::1", "2606:4700::1111"]]
    async with open_rig(resolver=Names(shop_example=answers)) as rig:
        rig.gate.ann.leave = NOWHERE
        assert (await ask(rig, "shop.example")).status == 200
        assert rig.gate.refused == []
    assert dialled == ["8.8.8.8", "2606:4700::1111"]


async def test_a_name_that_is_bound_anew(dialled: list[str]) -> None:
    """What was checked is what is dialled; the next connection is checked again."""
    names = Names(shop_example=[["8.8.8.8"], ["127.0.0.1"]])
    async with open_rig(resolver=names) as rig:
        rig.gate.ann.leave = NOWHERE
        assert (await ask(rig, "shop.example")).status == 200
        assert names.asked == ["shop.example"]
        assert dialled == ["8.8.8.8"]
        rig.plane.dialer._addresses.clear()  # ten seconds later
        assert code(await ask(rig, "shop.example")) == "egress_loopback"
        assert code(await connect(rig, "shop.example:443")) == "egress_loopback"
    assert dialled == ["8.8.8.8"]
    assert rig.provider.connections == 1


async def test_a_name_that_is_bound_anew_between_the_402_and_the_payment(
    dialled: list[str],
) -> None:
    names = Names(shop_example=[["8.8.8.8"], ["10.0.0.1"]])
    async with open_rig(resolver=names) as rig:

        async def answering(purchase: Purchase, challenge: PaymentRequired) -> Reply:
            rig.plane.dialer._addresses.clear()
            with pytest.raises(NotSent, match="private") as not_sent:
                await purchase.attempt(PAYMENT)
            assert not not_sent.value.theirs
            return Problem(502, "not_sent", "told")

        rig.gate.ann.leave = NOWHERE
        rig.gate.answering = answering
        rig.at(b"/a", sold(answered(b"goods")))
        assert (await ask(rig, "shop.example")).status == 502
        assert [what.code for what in rig.gate.refused] == ["egress_private"]
        assert not any(request.all(PAYMENT[0]) for request in rig.provider.requests)
        rig.gate.tickets[0].neutral()
    assert dialled == ["8.8.8.8"]


async def test_a_pooled_connection_is_not_for_everybody(rig: Rig) -> None:
    assert (await rig.ask()).status == 200
    assert (await rig.ask()).status == 200
    assert rig.provider.connections == 1  # ann's, idle again
    rig.gate.ann = Ann("bob", NOWHERE)
    for method in (b"GET", b"POST"):
        assert code(await ask(rig, "127.0.0.1", method=method)) == "egress_loopback"
    assert len(rig.provider.requests) == 2
    rig.gate.ann = Ann()
    assert (await rig.ask()).status == 200
    assert rig.provider.connections == 1  # and it was left where it was


async def test_a_mount_is_the_operators_word_and_nobody_elses(rig: Rig) -> None:
    """The provider of a mount may be private; the connection to it is not an agent's to use."""
    rig.gate.ann.leave = NOWHERE
    client = await rig.mounted()
    await client.send(
        b"GET /shop/a HTTP/1.1\r\nHost: x\r\nAutopay-Token: " + TOKEN.encode() + b"\r\n\r\n"
    )
    assert (await client.answer()).status == 200
    assert code(await ask(rig, "127.0.0.1")) == "egress_loopback"
    assert rig.provider.connections == 1
    assert len(rig.provider.requests) == 1


ODD = {
    "2130706433": True,
    "0x7f000001": True,
    "0x7f.1": True,
    "0177.0.0.1": True,
    "017700000001": True,
    "127.1": True,
    "127.0.1": True,
    "127.000.000.001": True,
    "0": True,
    "0.0.0.0": True,
    "127.0.0.1.": None,
    "localhost.": None,
    "LOCALHOST": True,
    "[::ffff:127.0.0.1]": True,
    "[::ffff:7f00:1]": True,
    "[0:0:0:0:0:0:0:1]": True,
    "[::]": True,
    "[::127.0.0.1]": True,
    "[64:ff9b::7f00:1]": True,
    "[::1%25lo]": None,
    "[::1%lo]": None,
    "[fe80::1%25lo]": None,
    "127.0.0.1%00": None,
    "127.0.0.1%2e": None,
    "127%2e0%2e0%2e1": None,
    "%31%32%37.0.0.1": None,
    "\uff11\uff12\uff17.0.0.1": None,
    "127\u30020\u30020\u30021": None,
    "\u24dbocalhost": None,
    "user@127.0.0.1": True,
    "8.8.8.8@127.0.0.1": True,
    "127.0.0.1#@8.8.8.8": None,
    "127.0.0.1\\@8.8.8.8": None,
}


@pytest.mark.parametrize("host", ODD)
async def test_odd_spellings(rig: Rig, host: str) -> None:
    """Whatever a host is spelled like, what counts is the address that comes of it. Those marked
    True are addresses to the system, or may be; the others must only get nowhere."""
    rig.gate.ann.leave = NOWHERE
    for asking in (ask(rig, host), connect(rig, f"{host}:{rig.provider.port}")):
        answer = await asking
        assert answer.status in ({400, 403, 502} if not ODD[host] else {400, 403}), answer
        if answer.status == 403:
            assert code(answer) in ("egress_loopback", "egress_unspecified", "egress_link_local")
    assert rig.provider.connections == 0


# --- autopay itself


async def test_nobody_is_taken_to_our_own_listeners(rig: Rig) -> None:
    """Whatever the policy allows, by whatever address of this machine."""
    rig.gate.ann.leave = EVERYWHERE
    for port in (rig.forward, rig.mounts):
        for host in ("127.0.0.1", "localhost", "127.9.9.9", "0.0.0.0", "[::ffff:127.0.0.1]"):
            assert code(await ask(rig, host, port)) == "egress_own_listener"
            assert code(await connect(rig, f"{host}:{port}")) == "egress_own_listener"
    assert (await rig.ask()).status == 200


async def test_nobody_is_taken_to_the_database(dialled: list[str]) -> None:
    names = Names(db_example=[["10.0.0.7"]], alias_example=[["10.0.0.7"]], other=[["10.0.0.8"]])
    async with open_rig(resolver=names) as rig:
        rig.plane.dialer.own.append(("db.example", rig.provider.port))
        rig.gate.ann.leave = EVERYWHERE
        for host in ("db.example", "alias.example", "10.0.0.7", "[::ffff:10.0.0.7]"):
            assert code(await ask(rig, host)) == "egress_own_listener"
        assert dialled == []
        assert (await ask(rig, "other")).status == 200


async def test_a_database_that_is_not_found_is_taken_care_of() -> None:
    """Its port is shut where it can't be told what stands behind it."""

    class Lost(Names):
        async def __call__(self, host: str, port: int) -> list[Info]:
            if host == "db.example":
                raise socket.gaierror("Name or service not known")
            return await super().__call__(host, port)

    async with open_rig(resolver=Lost()) as rig:
        rig.plane.dialer.own.append(("db.example", rig.provider.port))
        answer = await ask(rig, "127.0.0.1")
        assert answer.status == 502
        assert b"can't be told from autopay's own database" in answer.body
        assert rig.provider.connections == 0


async def test_a_mount_of_ourselves_is_refused() -> None:
    """A settings file can't make us call ourselves either."""
    async with open_rig() as rig:
        rig.plane.dialer.own.append(("127.0.0.1", rig.provider.port))
        client = await rig.mounted()
        await client.send(
            b"GET /shop/a HTTP/1.1\r\nHost: x\r\nAutopay-Token: " + TOKEN.encode() + b"\r\n\r\n"
        )
        assert code(await client.answer()) == "egress_own_listener"
        assert rig.provider.connections == 0


# --- the fast path


async def test_the_usual_way_has_no_task(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await rig.ask()).status == 200
    rig.gate.ann.leave = Leave(LOOPBACK.targets)
    spawned: list[object] = []
    monkeypatch.setattr(rig.plane, "spawn", spawned.append)
    assert (await rig.ask()).status == 200
    assert spawned == []
