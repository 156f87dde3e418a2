"""The lines that people paste to trust our CA."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.authority import PLATFORMS, install_hint, this_platform

AWKWARD = Path("/home/o'neill/my files/ca.pem")


@pytest.mark.parametrize("system", PLATFORMS)
def test_each_system_is_told_how_and_how_to_undo_it(system: str) -> None:
    hint = install_hint(system, Path("/data/ca.pem"))
    assert "/data/ca.pem" in hint
    assert "undo: " in hint
    assert "Firefox" in hint
    assert hint.endswith("\n")


@pytest.mark.parametrize("system", [system for system in PLATFORMS if system != "windows"])
def test_a_path_is_one_word_to_the_shell(system: str) -> None:
    lines = install_hint(system, AWKWARD).splitlines()
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert commands
    assert any(str(AWKWARD) in words for words in commands)
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n"], input="\n".join(lines).encode(), check=True)


def test_a_path_is_one_word_to_powershell() -> None:
    assert "'/home/o''neill/my files/ca.pem'" in install_hint("windows", AWKWARD)


def test_another_system_is_named() -> None:
    with pytest.raises(ValueError, match=r"'plan9'.*debian"):
        install_hint("plan9", Path("ca.pem"))


@pytest.mark.parametrize(
    ("release", "system"),
    [
        ({"ID": "debian"}, "debian"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "debian"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "debian"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "fedora"),
        ({"ID": "manjaro", "ID_LIKE": "arch"}, "arch"),
        ({"ID": "alpine"}, "debian"),
        ({"ID": "nixos"}, None),
        (None, None),
    ],
)
def test_the_platform_is_told_by_its_release_file(
    monkeypatch: pytest.MonkeyPatch, release: dict[str, str] | None, system: str | None
) -> None:
    def read() -> dict[str, str]:
        if release is None:
            raise OSError("no such file")
        return release

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.freedesktop_os_release", read)
    assert this_platform() == system


@pytest.mark.parametrize(("name", "system"), [("darwin", "macos"), ("win32", "windows")])
def test_the_other_platforms(monkeypatch: pytest.MonkeyPatch, name: str, system: str) -> None:
    monkeypatch.setattr("sys.platform", name)
    assert this_platform() == system
