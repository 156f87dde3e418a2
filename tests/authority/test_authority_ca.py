"""The CA on disk: made once, read by its owner alone, never lost and never half there."""

import os
import pickle
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy.authority import KEY_NAME, Authority, AuthorityError

DAY = timedelta(days=1)


def one_line(error: pytest.ExceptionInfo[AuthorityError]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def test_it_is_made_private_and_is_read_back_the_same(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "ca"
    made = Authority.create(directory)
    assert [path.name for path in directory.iterdir()] == [KEY_NAME]
    assert stat.S_IMODE((directory / KEY_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    read = Authority.load(directory)
    assert read.certificate == made.certificate
    assert len(bytes.fromhex(read.fingerprint)) == 32


def test_it_stays_private_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Authority.create(tmp_path / "ca")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ca" / KEY_NAME).stat().st_mode) == 0o600


def test_the_certificate_is_what_strict_verifiers_ask_of_a_root(authority: Authority) -> None:
    certificate = authority.certificate
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.issuer == certificate.subject
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    public = certificate.public_key()
    assert identifier.value == x509.SubjectKeyIdentifier.from_public_key(public)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(purposes.value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_it_lasts_ten_years_or_as_long_as_is_asked(tmp_path: Path) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    long = Authority.create(tmp_path / "long", clock=now.timestamp)
    assert long.expires == now + 3650 * DAY
    assert long.certificate.not_valid_before_utc == now - 2 * DAY
    short = Authority.create(tmp_path / "short", lifetime=30 * DAY, clock=now.timestamp)
    assert short.expires == now + 30 * DAY


def test_no_two_share_a_name_a_serial_number_or_a_key(tmp_path: Path) -> None:
    all_of_them = [Authority.create(tmp_path / str(n)).certificate for n in range(20)]
    assert len({one.subject for one in all_of_them}) == 20
    assert len({one.serial_number for one in all_of_them}) == 20
    assert len({one.public_key().public_numbers() for one in all_of_them}) == 20


def test_it_is_never_overwritten(tmp_path: Path) -> None:
    Authority.create(tmp_path)
    before = (tmp_path / KEY_NAME).read_bytes()
    with pytest.raises(AuthorityError) as error:
        Authority.create(tmp_path)
    assert "never overwritten" in one_line(error)
    assert (tmp_path / KEY_NAME).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_of_many_who_make_it_at_once_one_does(tmp_path: Path) -> None:
    def make(_: int) -> str | None:
        try:
            return Authority.create(tmp_path).fingerprint
        except AuthorityError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [fingerprint for fingerprint in pool.map(make, range(32)) if fingerprint]
    assert made == [Authority.load(tmp_path).fingerprint]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o666])
def test_one_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    Authority.create(tmp_path)
    (tmp_path / KEY_NAME).chmod(mode)
    with pytest.raises(AuthorityError) as error:
        Authority.load(tmp_path)
    assert "chmod 600" in one_line(error)
    with pytest.raises(AuthorityError):
        Authority.rotate(tmp_path)


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(AuthorityError) as error:
        Authority.create(tmp_path)
    assert "can be written by others" in one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_authority_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / KEY_NAME
    with pytest.raises(AuthorityError, match="autopay init") as error:
        Authority.load(tmp_path)
    one_line(error)

    one, other = Authority.create(tmp_path / "1"), Authority.create(tmp_path / "2")
    good = (tmp_path / "1" / KEY_NAME).read_bytes()
    key, certificate = good.split(b"-----END PRIVATE KEY-----\n")
    key += b"-----END PRIVATE KEY-----\n"
    leaf = one.sign(
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .public_key(one.certificate.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2030, 1, 1))
        .not_valid_after(datetime(2031, 1, 1))
    ).public_bytes(Encoding.PEM)
    bad = {
        "empty": b"",
        "garbage": b"\xff\x00" * 1000,
        "text": b"hello",
        "key only": key,
        "certificate only": certificate,
        "cut short": good[:-40],
        "of two": key + other.certificate_pem,
        "a leaf": key + leaf,
        "encrypted": key.replace(b"PRIVATE", b"ENCRYPTED PRIVATE") + certificate,
    }
    for what, content in bad.items():
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(AuthorityError) as error:
            Authority.load(tmp_path)
        assert str(path) in one_line(error), what
    path.write_bytes(certificate + key)
    assert Authority.load(tmp_path).fingerprint == one.fingerprint


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: object) -> None:
    make(tmp_path / KEY_NAME)  # type: ignore[operator]
    with pytest.raises(AuthorityError):
        Authority.load(tmp_path)


def test_where_it_cannot_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AuthorityError) as error:
        Authority.create(tmp_path / "file" / "ca")
    one_line(error)


def test_the_key_shows_nowhere(authority: Authority, tmp_path: Path) -> None:
    secret = authority._key.private_numbers().private_value
    shown = f"{authority!r} {authority} {authority.certificate_pem.decode()}"
    assert authority.fingerprint in shown
    assert "PRIVATE" not in shown
    assert f"{secret:x}" not in shown
    assert str(secret) not in shown
    with pytest.raises(TypeError):
        pickle.dumps(authority)


def test_rotate_makes_a_new_one_and_keeps_the_old_certificate(tmp_path: Path) -> None:
    old = Authority.create(tmp_path)
    old_file = (tmp_path / KEY_NAME).read_bytes()
    new = Authority.rotate(tmp_path, lifetime=10 * DAY)
    assert new.fingerprint != old.fingerprint
    assert new.certificate.subject != old.certificate.subject
    assert new.expires < old.expires
    assert Authority.load(tmp_path).fingerprint == new.fingerprint
    kept = tmp_path / f"ca-{old.fingerprint}.pem"
    assert kept.read_bytes() == old.certificate_pem
    assert {path.name for path in tmp_path.iterdir()} == {KEY_NAME, kept.name}
    assert stat.S_IMODE((tmp_path / KEY_NAME).stat().st_mode) == 0o600
    old_key = old_file.split(b"-----")[2].strip()
    assert not any(old_key in path.read_bytes() for path in tmp_path.iterdir())
    Authority.rotate(tmp_path)
    assert len(list(tmp_path.glob("ca-*.pem"))) == 2


def test_without_one_there_is_nothing_to_rotate(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match="autopay init"):
        Authority.rotate(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Does it again and again, each time in a child that dies, as by SIGKILL, one touch of the file
# system later; the last one lives.
DYING = textwrap.dedent("""
    import os, shutil, sys
    from pathlib import Path
    from proxy.authority import Authority

    place, verb = Path(sys.argv[1]), sys.argv[2]
    left = 0

    def watch(event, arguments):
        global left
        if event in ("open", "os.rename", "os.link", "os.remove", "os.chmod", "os.mkdir"):
            left -= 1
            if left < 0:
                os._exit(9)

    for touches in range(100):
        directory = place / f"after {touches}"
        if verb == "rotate":
            shutil.copytree(place / "old", directory)
        else:
            directory.mkdir(mode=0o700)
        child = os.fork()
        if not child:
            left = touches
            sys.addaudithook(watch)
            getattr(Authority, verb)(directory)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            print(touches)
            break
""")


@pytest.mark.parametrize("verb", ["create", "rotate"])
def test_a_crash_anywhere_leaves_a_whole_one(tmp_path: Path, verb: str) -> None:
    old = Authority.create(tmp_path / "old")
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), verb], check=True, capture_output=True
    )
    outcomes = []
    for touches in range(int(done.stdout) + 1):
        directory = tmp_path / f"after {touches}"
        if not (directory / KEY_NAME).exists():
            assert verb == "create"
            outcomes.append("none")
            Authority.create(directory)  # what was left behind is in nobody's way
            continue
        found = Authority.load(directory)
        outcomes.append("old" if found.fingerprint == old.fingerprint else "new")
        if verb == "rotate" and outcomes[-1] == "new":
            assert (directory / f"ca-{old.fingerprint}.pem").read_bytes() == old.certificate_pem
    before = "old" if verb == "rotate" else "none"
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome != before)
    assert outcomes.count(before) >= 2
    assert outcomes.count("new") >= 2  # one that lived, and one that died when it was in place
