"""The files that make programs trust our CA, and what they trusted before."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from proxy.authority import Authority
from proxy.launch import trust


def test_what_was_trusted_stays_trusted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    corporate = Authority.create(tmp_path / "corporate")
    (tmp_path / "corporate.pem").write_bytes(corporate.certificate_pem)
    environ = {"REQUESTS_CA_BUNDLE": str(tmp_path / "corporate.pem")}
    data = tmp_path / "data"

    plain = trust.prepare(data, {}, home)
    mine = Authority.load(data / "ca").certificate_pem
    assert plain.bundle.read_bytes().endswith(mine)
    assert plain.bundle.read_bytes().count(b"BEGIN CERT") > 10  # the system's are there
    assert corporate.certificate_pem not in plain.bundle.read_bytes()
    assert mine in plain.certificate.read_bytes()

    merged = trust.prepare(data, environ, home)
    assert corporate.certificate_pem in merged.bundle.read_bytes()
    assert merged.bundle != plain.bundle  # another run's is not pulled away
    again = trust.prepare(data, {"SSL_CERT_FILE": str(plain.bundle)}, home)
    assert again.bundle == plain.bundle  # a run inside a run
    assert Authority.load(data / "ca").certificate_pem == mine


def test_wgets_own_settings_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".wgetrc").write_text("user = me\npassword = hunter2")
    made = trust.prepare(tmp_path / "data", {}, tmp_path).wgetrc
    lines = made.read_text().splitlines()
    assert lines[:2] == ["user = me", "password = hunter2"]
    assert lines[2].startswith("ca_certificate = ")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    inner = trust.prepare(tmp_path / "data", {"WGETRC": str(made)}, tmp_path)
    assert inner.wgetrc == made


def test_npm_is_told_only_where_it_was_told_before(tmp_path: Path) -> None:
    assert not trust.prepare(tmp_path / "data", {}, tmp_path).npm_has_own
    own = Authority.create(tmp_path / "own")
    (tmp_path / "npm.pem").write_bytes(own.certificate_pem)
    (tmp_path / ".npmrc").write_text(f"fund=false\ncafile = {tmp_path / 'npm.pem'}\n")
    made = trust.prepare(tmp_path / "data", {}, tmp_path)
    assert made.npm_has_own
    assert own.certificate_pem in made.bundle.read_bytes()


@pytest.mark.skipif(shutil.which("keytool") is None, reason="no JDK here")
def test_java_can_read_its_store(tmp_path: Path) -> None:
    made = trust.prepare(tmp_path / "data", {}, tmp_path)
    listed = subprocess.check_output(
        ["keytool", "-list", "-keystore", made.java_store, "-storepass", made.java_password],
        text=True,
    )
    assert Authority.load(tmp_path / "data/ca").fingerprint in listed
