"""The bundle and the trust store: everything the system trusts, and our CA, once each."""

import ssl
import stat
from pathlib import Path

import pytest
from authority_peer import STRICT, visit
from cryptography.hazmat.primitives.serialization import pkcs12

from proxy.authority import (
    JAVA_PASSWORD,
    Authority,
    AuthorityError,
    Leaves,
    bundle,
    system_roots,
    write_bundle,
    write_certificate,
    write_java_truststore,
)

END = b"-----END CERTIFICATE-----"


def count(path: Path) -> int:
    return path.read_bytes().count(END)


def written(path: Path) -> tuple[int, int]:
    """Changes whenever the file is written anew."""
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture
def few_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system that trusts two roots, in a file with comments and another system's line ends."""
    path = tmp_path / "system.pem"
    first, second = (Authority.create(tmp_path / name).certificate_pem for name in "12")
    path.write_bytes(b"# First\r\n" + first.replace(b"\n", b"\r\n") + b"\n# Second\n" + second)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


def test_the_system_s_roots_are_those_python_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    ours = ssl.create_default_context(cadata=system_roots().decode())
    pythons = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if (cafile := ssl.get_default_verify_paths().cafile) is None:
        pytest.skip("Python's OpenSSL knows no file of roots here")
    pythons.load_verify_locations(cafile)
    assert len(ours.get_ca_certs()) == len(pythons.get_ca_certs()) > 10


def test_ssl_cert_file_comes_first(few_roots: Path) -> None:
    assert system_roots().count(END) == 2


@pytest.mark.parametrize("content", [None, b"", b"no certificates"])
def test_a_useless_ssl_cert_file_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """The program that we start would have had no roots at all."""
    path = tmp_path / "useless.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert system_roots().count(END) > 10


def test_without_any_roots_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_places", lambda: iter(()))
    with pytest.raises(AuthorityError, match="SSL_CERT_FILE"):
        system_roots()


async def test_with_the_bundle_a_strict_client_accepts_our_leaves(
    authority: Authority, leaves: Leaves, tmp_path: Path
) -> None:
    path = write_bundle(tmp_path / "bundle.pem", authority)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert count(path) == system_roots().count(END) + 1
    client = ssl.create_default_context(cafile=str(path))
    client.verify_flags |= STRICT
    await visit(await leaves.context_for("a.example"), client, "a.example")


def test_each_is_there_once_and_ours_is_last(
    few_roots: Path, authority: Authority, tmp_path: Path
) -> None:
    more = tmp_path / "more.pem"
    third = Authority.create(tmp_path / "3").certificate_pem
    more.write_bytes(few_roots.read_bytes() + third + authority.certificate_pem + third)
    missing = tmp_path / "missing.pem"
    path = write_bundle(tmp_path / "bundle.pem", authority, [more, missing, tmp_path])
    assert count(path) == 4
    assert path.read_bytes().endswith(authority.certificate_pem)
    assert b"\r" not in path.read_bytes()


def test_it_is_written_only_when_it_changes(
    few_roots: Path, authority: Authority, tmp_path: Path
) -> None:
    for write in (write_bundle, write_certificate, write_java_truststore):
        path = tmp_path / write.__name__
        write(path, authority)
        first = written(path)
        write(path, authority)
        assert written(path) == first, write.__name__
        write(path, Authority.create(tmp_path / f"for {write.__name__}"))
        assert written(path) != first, write.__name__
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_inside_autopay_run_a_ca_that_was_rotated_away_does_not_come_back(
    few_roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Authority.create(tmp_path / "ca")
    path = write_bundle(tmp_path / "bundle.pem", old)
    alone = write_certificate(tmp_path / "ca.pem", old)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    new = Authority.rotate(tmp_path / "ca")
    for _ in range(2):
        write_bundle(path, new, [alone, path])
        assert count(path) == 3
        assert old.certificate_pem not in path.read_bytes()
        assert path.read_bytes().endswith(new.certificate_pem)


def test_where_it_cannot_be_written_it_says_so(
    few_roots: Path, authority: Authority, tmp_path: Path
) -> None:
    for write in (write_bundle, write_certificate, write_java_truststore):
        with pytest.raises(AuthorityError) as error:
            write(tmp_path / "no" / "directory", authority)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_the_java_store_holds_the_same(authority: Authority, tmp_path: Path) -> None:
    path = write_java_truststore(tmp_path / "trust.p12", authority)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    store = pkcs12.load_pkcs12(path.read_bytes(), JAVA_PASSWORD.encode())
    assert len(store.additional_certs) == system_roots().count(END) + 1
    assert authority.certificate in {entry.certificate for entry in store.additional_certs}
    assert len({entry.friendly_name for entry in store.additional_certs}) == len(
        store.additional_certs
    )


def test_a_broken_java_store_is_made_anew(
    few_roots: Path, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "trust.p12"
    path.write_bytes(b"garbage")
    write_java_truststore(path, authority)
    assert len(pkcs12.load_pkcs12(path.read_bytes(), b"changeit").additional_certs) == 3


def test_a_root_that_cannot_be_read_is_left_out_of_the_java_store_only(
    few_roots: Path, authority: Authority, tmp_path: Path
) -> None:
    odd = tmp_path / "odd.pem"
    odd.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    write_java_truststore(tmp_path / "trust.p12", authority, [odd])
    store = pkcs12.load_pkcs12((tmp_path / "trust.p12").read_bytes(), b"changeit")
    assert len(store.additional_certs) == 3
    assert count(write_bundle(tmp_path / "bundle.pem", authority, [odd])) == 4
