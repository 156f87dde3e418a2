"""Leaves, seen by a client that verifies as strictly as OpenSSL can."""

import asyncio
import ssl
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from authority_peer import strict_client, visit
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.authority import Authority, AuthorityError, Leaves
from proxy.authority import leaves as module

DAY = timedelta(days=1)
LONG = ".".join(["a" * 63, "b" * 63, "c" * 63, "example.com"])


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> float:
        return self.now.timestamp()


class Counting(Authority):
    """An authority that says where, and how often, it signed."""

    __slots__ = ("threads",)

    def sign(self, unsigned: x509.CertificateBuilder) -> x509.Certificate:
        if not hasattr(self, "threads"):
            self.threads: list[int] = []
        self.threads.append(threading.get_ident())
        return super().sign(unsigned)


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting.create(tmp_path / "counting")


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com",
        "localhost",
        "xn--bcher-kva.example",
        "my_host.-odd-.example.com",
        "a" * 63 + ".example.com",
        LONG,
        "x" + "." + LONG[: 253 - 2],
        "127.0.0.1",
        "::1",
        "2001:db8::7",
    ],
)
async def test_a_strict_client_accepts_it(leaves: Leaves, authority: Authority, host: str) -> None:
    context = await leaves.context_for(host)
    secured, certificate = await visit(context, strict_client(authority), host)
    assert secured.version() == "TLSv1.3"
    assert secured.selected_alpn_protocol() == "http/1.1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(name.value) for name in names.value] == [host]
    # RFC 5280 section 4.2.1.6: critical where it is all the name there is.
    assert names.critical == (len(host) > 64) == (not list(certificate.subject))


@pytest.mark.parametrize("others", ["api.example.org", "x.api.example.com", "127.0.0.1"])
async def test_it_is_good_for_no_other_host(
    leaves: Leaves, authority: Authority, others: str
) -> None:
    context = await leaves.context_for("api.example.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        await visit(context, strict_client(authority), others)


async def test_nobody_else_s_client_accepts_it(leaves: Leaves, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        await visit(await leaves.context_for("a.example"), strict_client(other), "a.example")


async def test_what_a_leaf_says(leaves: Leaves, authority: Authority) -> None:
    before = datetime.now(UTC)
    context = await leaves.context_for("api.example.com")
    _, leaf = await visit(context, strict_client(authority), "api.example.com")
    assert leaf.issuer == authority.certificate.subject
    aki = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert aki.key_identifier == authority.key_identifier.digest
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.not_valid_before_utc <= before - 1.9 * DAY
    assert 7 * DAY < leaf.not_valid_after_utc - leaf.not_valid_before_utc <= 90 * DAY


async def test_names_are_the_same_in_any_case_and_with_a_dot(leaves: Leaves) -> None:
    context = await leaves.context_for("API.Example.com")
    assert leaves.cached("api.example.com") is context
    assert leaves.cached("api.EXAMPLE.com.") is context
    assert await leaves.context_for("api.example.com.") is context
    assert leaves.cached("example.com") is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "..",
        "a..b",
        ".example.com",
        "example.com..",
        "*.example.com",
        "a b.example.com",
        "a\n.example.com",
        "example.com\n",
        "a\x00.example.com",
        "a/b",
        "user@example.com",
        "example.com:443",
        "[::1]",
        "::1::",
        "fe80::1%eth0",
        "fe80::1%a\nb",
        "127.1",
        "1.2.3.4.5",
        "999.1.1.1",
        "bücher.example",
        "\u212aelvin.example",
        "a" * 64 + ".example.com",
        "a." * 126 + "example",
        "a" * 100_000,
    ],
)
async def test_what_is_no_host_is_refused(leaves: Leaves, host: str) -> None:
    with pytest.raises(ValueError, match="not a host") as error:
        await leaves.context_for(host)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400
    assert leaves.cached(host) is None


async def test_many_at_once_share_one(counting: Counting) -> None:
    leaves = Leaves(counting)
    contexts = await asyncio.gather(*(leaves.context_for("one.example") for _ in range(100)))
    assert len({id(context) for context in contexts}) == 1
    assert len(counting.threads) == 1
    await asyncio.gather(*(leaves.context_for(f"{n % 5}.example") for n in range(100)))
    assert len(counting.threads) == 6
    assert threading.get_ident() not in counting.threads  # the loop had other things to do
    leaves.close()


async def test_who_leaves_early_disturbs_nobody(counting: Counting) -> None:
    leaves = Leaves(counting)
    first, second = (asyncio.create_task(leaves.context_for("a.example")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is leaves.cached("a.example")
    alone = asyncio.create_task(leaves.context_for("b.example"))
    await asyncio.sleep(0)
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    assert await leaves.context_for("b.example")
    assert len(counting.threads) == 2
    leaves.close()


async def test_the_cache_is_bounded_and_drops_the_least_used(authority: Authority) -> None:
    leaves = Leaves(authority, size=3)
    for name in ("a", "b", "c"):
        await leaves.context_for(name)
    assert leaves.cached("a")
    await leaves.context_for("d")
    assert leaves.cached("b") is None
    assert all(leaves.cached(name) for name in ("a", "c", "d"))
    for number in range(20):
        await leaves.context_for(f"host{number}")
    kept = [number for number in range(20) if leaves.cached(f"host{number}")]
    assert kept == [17, 18, 19]
    leaves.close()


async def test_it_is_renewed_before_it_ends(counting: Counting) -> None:
    clock = Clock()
    leaves = Leaves(counting, clock=clock)
    client = strict_client(counting)
    first = await leaves.context_for("a.example")
    _, old = await visit(first, client, "a.example")
    clock.now = old.not_valid_after_utc - 2 * DAY - timedelta(seconds=1)
    assert await leaves.context_for("a.example") is first
    clock.now += timedelta(seconds=1)
    assert leaves.cached("a.example") is None
    second = await leaves.context_for("a.example")
    assert second is not first
    assert leaves.cached("a.example") is second
    assert len(counting.threads) == 2
    leaves.close()


async def test_it_never_outlives_the_authority(tmp_path: Path) -> None:
    counting = Counting.create(tmp_path / "short", lifetime=timedelta(hours=5))
    clock = Clock()
    leaves = Leaves(counting, clock=clock)
    context = await leaves.context_for("a.example")
    _, leaf = await visit(context, strict_client(counting), "a.example")
    assert leaf.not_valid_after_utc == counting.expires
    # Renewing could not make it any longer.
    clock.now = counting.expires - timedelta(seconds=1)
    assert await leaves.context_for("a.example") is context
    assert len(counting.threads) == 1
    clock.now = counting.expires
    assert leaves.cached("a.example") is None
    with pytest.raises(AuthorityError, match="autopay ca rotate"):
        await leaves.context_for("a.example")
    clock.now -= timedelta(hours=1)  # a refusal is not remembered
    assert await leaves.context_for("a.example")
    leaves.close()


async def test_a_client_sees_the_end_of_a_leaf(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    clock = Clock()
    clock.now -= 40 * DAY
    leaves = Leaves(authority, clock=clock)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        await visit(await leaves.context_for("a.example"), strict_client(authority), "a.example")
    leaves.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
async def test_old_versions_of_tls(
    leaves: Leaves, authority: Authority, version: ssl.TLSVersion
) -> None:
    client = strict_client(authority)
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = version
    context = await leaves.context_for("a.example")
    if version < ssl.TLSVersion.TLSv1_2:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await visit(context, client, "a.example")
    else:
        secured, _ = await visit(context, client, "a.example")
        assert secured.version() == "TLSv1.2"


async def test_by_way_of_the_disk_it_is_the_same_and_nothing_stays(
    leaves: Leaves, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no files in memory, as on macOS."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    seen: list[tuple[Path, int]] = []

    class Watched:
        def __init__(self, context: ssl.SSLContext) -> None:
            self.context = context

        def load_cert_chain(self, path: str) -> None:
            seen.append((Path(path).parent, Path(path).stat().st_mode & 0o777))
            self.context.load_cert_chain(path)

    def load(context: ssl.SSLContext, pem: bytes) -> None:
        module._load_from_disk(Watched(context), pem)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_load", load)
    context = await leaves.context_for("a.example")
    monkeypatch.undo()
    await visit(context, strict_client(authority), "a.example")
    assert seen == [(tmp_path / "temporary", 0o600)]
    assert list((tmp_path / "temporary").iterdir()) == []


async def test_closed_it_mints_no_more_but_what_is_there_is_good(
    leaves: Leaves, authority: Authority
) -> None:
    context = await leaves.context_for("a.example")
    leaves.close()
    await visit(context, strict_client(authority), "a.example")
    assert await leaves.context_for("a.example") is context
    with pytest.raises(RuntimeError):
        await leaves.context_for("b.example")


labels = st.text("abcxyz019-_ABZ", min_size=1, max_size=63)
names = (
    st.lists(labels, min_size=1, max_size=5)
    .map(".".join)
    .filter(lambda name: len(name) <= 253 and not name.rpartition(".")[2].isdecimal())
)
addresses = st.ip_addresses().map(str)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, Leaves]]:
    authority = Authority.create(tmp_path_factory.mktemp("lasting"))
    leaves = Leaves(authority)
    yield authority, leaves
    leaves.close()


@given(host=st.one_of(names, addresses))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_host_gets_a_leaf_that_a_strict_client_accepts(
    runner: asyncio.Runner, lasting: tuple[Authority, Leaves], host: str
) -> None:
    authority, leaves = lasting
    context = runner.run(leaves.context_for(host))
    assert leaves.cached(host) is context
    client = strict_client(authority)
    assert shake(context, client, host) == "TLSv1.3"


@given(
    host=st.one_of(
        st.text(max_size=300), names.flatmap(lambda n: st.text(max_size=3).map(n.__add__))
    )
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_comes_is_a_host_or_is_refused(
    runner: asyncio.Runner, lasting: tuple[Authority, Leaves], host: str
) -> None:
    _, leaves = lasting
    try:
        context = runner.run(leaves.context_for(host))
    except ValueError as error:
        assert str(error).isprintable()
        assert leaves.cached(host) is None
    else:
        assert isinstance(context, ssl.SSLContext)
        assert host.isascii()
        assert host.isprintable()
        assert len(host) <= 254


def shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """A handshake in memory, down to a byte that the client read: the version they agreed on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (near, far, near, far):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    far.write(b"x")
    assert near.read() == b"x"
    return near.version()
