"""A TLS server on one of our contexts, and clients as strict as they come."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cryptography import x509

from proxy.authority import Authority

# What Python 3.13 sets by itself, and any older one can.
STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


@asynccontextmanager
async def served(context: ssl.SSLContext, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """The port of a server that says hello to whoever accepts its certificate."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_ANSWER)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # a client that wanted the handshake only
        writer.close()

    server = await asyncio.start_server(answer, host, 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def strict_client(authority: Authority) -> ssl.SSLContext:
    client = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    client.verify_flags |= STRICT
    client.set_alpn_protocols(["h2", "http/1.1"])
    return client


async def visit(
    context: ssl.SSLContext, client: ssl.SSLContext, host: str
) -> tuple[ssl.SSLObject, x509.Certificate]:
    """A real handshake over a real socket, as one who wants `host`: what came of it."""
    async with served(context) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname=host
        )
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"hello")
        secured = writer.get_extra_info("ssl_object")
        certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True))
        writer.close()
        return secured, certificate


async def shell(*command: str, stdin: bytes = b"") -> str:
    """What a program says, both ways out; it must end well."""
    program = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await program.communicate(stdin)
    assert program.returncode == 0, said.decode(errors="replace")
    return said.decode(errors="replace")
