"""Whatever comes, and however it is cut, the process goes on serving."""

import asyncio
import contextlib
import random

import pytest
from wire_rig import (
    CREDENTIAL,
    TOKEN,
    Client,
    Connection,
    Request,
    Rig,
    demand,
    ok,
    provider,
    sold,
    until,
)

from proxy.wire.egress import Leave

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SEEDS = [11, 402]


def conversation(it: Rig) -> tuple[bytes, list[bytes]]:
    """Pipelined requests of every framing, and the bodies of their answers."""
    raw = (
        it.request(b"/1")
        + it.request(b"/paid", method=b"POST", body=b"abc")
        + it.request(b"/2", b"Transfer-Encoding: chunked", method=b"PUT")
        + b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nTrailer: 1\r\n\r\n"
        + it.request(b"/chunks")
        + it.request(b"/402")
        + it.request(b"/last")
    )
    bodies = [
        b"GET /1 HTTP/1.1",
        b"goods",
        b"PUT /2 HTTP/1.1",
        b"abcde",
        b"no",
        b"GET /last HTTP/1.1",
    ]
    return raw, bodies


def scenes(it: Rig) -> None:
    async def answering(purchase, challenge):  # type: ignore[no-untyped-def]
        if purchase.path == "/paid":
            return await it.gate.buy(purchase, challenge)
        from proxy.wire.gate import PassThrough

        return PassThrough()

    it.at(b"/paid", sold(ok(b"goods")))
    it.at(b"/402", demand(b"no"))
    it.at(b"/chunks", CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    it.gate.answering = answering


async def test_every_cut_of_a_conversation_in_two(rig: Rig) -> None:
    scenes(rig)
    raw, bodies = conversation(rig)
    sockets = asyncio.Semaphore(8)

    async def one(at: int) -> None:
        async with sockets:
            client = await rig.client()
            client.writer.write(raw[:at])
            await asyncio.sleep(0.002)
            client.writer.write(raw[at:])
            assert [(await client.answer()).body for _ in bodies] == bodies, at
            client.close()

    await asyncio.gather(*(one(at) for at in range(1, len(raw), 7)))


async def test_a_conversation_byte_by_byte(rig: Rig) -> None:
    scenes(rig)
    raw, bodies = conversation(rig)
    client = await rig.client()

    async def send() -> None:
        for at in range(len(raw)):
            client.writer.write(raw[at : at + 1])
            await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    assert [(await client.answer()).body for _ in bodies] == bodies
    await sending


@pytest.mark.parametrize("seed", SEEDS)
async def test_answers_cut_anywhere(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)
    raw = (
        b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n"
        + CHUNKED
        + b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: 1\r\n\r\n"
    )

    async def scene(connection: Connection, request: Request) -> None:
        at = 0
        while at < len(raw):
            step = dice.randint(1, 40)
            await connection.send(raw[at : at + step])
            await asyncio.sleep(0)
            at += step

    rig.at(b"/cut", scene)
    rig.at(b"/paid", sold(scene))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    for turn in range(60):
        await client.send(rig.request(b"/cut" if turn % 2 else b"/paid"))
        assert (await client.head()).status == 103
        answer = await client.answer()
        assert (answer.body, answer.trailers) == (b"abc0123456789abcdef", [(b"T", b"1")])


def mutated(dice: random.Random, raw: bytes) -> bytes:
    """A few bytes changed, dropped, doubled or put in; what they are is what parsers stumble on."""
    data = bytearray(raw)
    spice = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"\xff",
        b" ",
        b":",
        b",",
        b"0",
        b"\t",
        b"chunked",
        b"-1",
    ]
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data))
        match dice.randrange(5):
            case 0:
                data[at] = dice.randrange(256)
            case 1:
                del data[at : at + dice.randint(1, 9)]
            case 2:
                data[at:at] = data[at : at + dice.randint(1, 30)]
            case 3:
                data[at:at] = dice.choice(spice)
            case _:
                del data[dice.randrange(len(data)) :]
        if not data:
            break
    return bytes(data)


async def drain(client: Client) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(0.02):
            while data := await client.reader.read(1 << 16):
                got += data
    return got


@pytest.mark.parametrize("seed", SEEDS)
async def test_mutated_requests(rig: Rig, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """What reaches the provider is well formed (its own reader asserts it), and we go on."""
    scenes(rig)
    dice = random.Random(seed)
    raw, _ = conversation(rig)
    mount = b"POST /shop/x HTTP/1.1\r\nHost: a\r\nAutopay-Token: %b\r\nContent-Length: 3\r\n\r\nabc"
    connect = b"CONNECT %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
    # A changed port or host must not send us to a stranger.
    samples = [
        (raw, rig.forward),
        (mount % TOKEN.encode() * 3, rig.mounts),
        (connect % (rig.provider.authority, CREDENTIAL), rig.forward),
    ]
    faults: list[BaseException] = []
    honest = rig.provider.play

    async def play(connection: Connection) -> None:
        try:
            await honest(connection)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise
        except Exception as error:
            faults.append(error)
            raise ConnectionError from error

    rig.provider.play = play  # type: ignore[method-assign]

    async def elsewhere(*_: object) -> object:
        raise OSError("no strangers in tests")

    honest_connect = rig.plane.dialer.connect

    async def connect_only(host: str, port: int, leave: Leave):  # type: ignore[no-untyped-def]
        if (host, port) == (rig.provider.host, rig.provider.port):
            return await honest_connect(host, port, leave)
        return await elsewhere()

    rig.plane.dialer.connect = connect_only  # type: ignore[method-assign]
    lanes = asyncio.Semaphore(16)

    async def one(sample: bytes, port: int) -> None:
        async with lanes:
            client = await rig.client(port)
            client.writer.write(sample)
            if dice.random() < 0.3:
                client.half_close()
            await drain(client)
            client.reset() if dice.random() < 0.3 else client.close()

    work = []
    for _ in range(250):
        sample, port = dice.choice(samples)
        work.append(one(mutated(dice, sample), port))
    await asyncio.gather(*work)
    # In a tunnel the provider hears the program itself, mistakes and all.
    tunnelled = [fault for fault in faults if not isinstance(fault, AssertionError | IndexError)]
    assert not tunnelled, faults
    assert (await rig.ask(b"/still-here")).body == b"GET /still-here HTTP/1.1"
    await until(lambda: not rig.plane._tasks)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("seed", SEEDS)
async def test_mutated_answers(rig: Rig, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """What reaches the program is well formed or breaks off, and we go on."""
    dice = random.Random(seed)
    samples = [
        ok(b"abcdefgh", b"X-Y: z", b"Set-Cookie: a=b"),
        CHUNKED + b"3\r\nabc\r\n5\r\ndefgh\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"late"),
        demand(b"pay", b"PAYMENT-REQUIRED: e30="),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw",
    ]

    async def scene(connection: Connection, request: Request) -> None:
        raw = mutated(dice, dice.choice(samples))
        at = dice.randrange(len(raw) + 1)
        await connection.send(raw[:at])
        await asyncio.sleep(0)
        await connection.send(raw[at:])
        if dice.random() < 0.5:
            connection.close()

    rig.at(b"/m", scene)
    rig.at(b"/paid", sold(scene))
    rig.gate.answering = rig.gate.buy
    lanes = asyncio.Semaphore(16)

    async def one(path: bytes) -> None:
        async with lanes:
            client = await rig.client()
            client.writer.write(rig.request(path))
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(0.05):
                    answer = await client.head()
                    while answer.status < 200:
                        assert answer.status != 101
                        answer = await client.head()
                    assert (
                        len(answer.all(b"content-length") + answer.all(b"transfer-encoding")) <= 1
                    )
            client.close()

    await asyncio.gather(*(one(dice.choice([b"/m", b"/paid"])) for _ in range(250)))
    async with provider() as fresh:
        client = await rig.client()
        await client.send(rig.request(b"/ok").replace(rig.provider.url, fresh.url))
        assert (await client.answer()).status == 200
        rig.plane.pool.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
