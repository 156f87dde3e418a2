"""The data directory is where the platform wants it, and private."""

import os
from pathlib import Path

import pytest

from proxy import paths


def test_the_variable_decides_else_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.data_dir({"AUTOPAY_DATA_DIR": "/somewhere"}) == Path("/somewhere")
    assert paths.data_dir({"AUTOPAY_DATA_DIR": "relative"}).is_absolute()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert paths.data_dir({}) == Path("/var/lib/autopay")
    assert paths.user_config_dir() == Path("/etc/autopay")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    assert paths.data_dir({}) == Path("/home/ann/.local/share/autopay")


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    made = paths.private_directory(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    assert paths.private_directory(made) == made


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_one_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(paths.PathError, match=r"can be written by others .*chmod 700"):
        paths.private_directory(tmp_path)


def test_one_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(paths.PathError, match="AUTOPAY_DATA_DIR"):
        paths.private_directory(tmp_path)


def test_one_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(paths.PathError, match="cannot be made"):
        paths.private_directory(tmp_path / "file" / "x")
