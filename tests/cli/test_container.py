"""The image's build takes exactly the files that the wheel needs, and none of another's."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lines(name: str) -> list[str]:
    return (ROOT / name).read_text().replace("\\\n", " ").splitlines()


def copied() -> list[str]:
    """What the Dockerfile takes from the build's context."""
    found = [line.split()[1:-1] for line in lines("Dockerfile") if line.startswith("COPY ")]
    return [name for names in found for name in names if not names[0].startswith("--from=")]


def test_what_is_copied_is_let_through() -> None:
    patterns = lines(".dockerignore")
    assert patterns[0] == "*"
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == set(copied())


def test_the_wheel_of_what_is_copied_is_whole(tmp_path: Path) -> None:
    for name in copied():
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", "dist"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("autopay-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for room in ("proxy", "policies", "sql"):
        ours = {
            str(path.relative_to(ROOT))
            for path in (ROOT / room).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert ours and not ours - packed


def test_it_ends_as_nobody_in_particular_with_all_it_writes_in_the_volume() -> None:
    final = lines("Dockerfile")
    final = final[max(n for n, line in enumerate(final) if line.startswith("FROM ")) :]
    text = "\n".join(final)
    assert re.search(r"^USER [1-9]\d*(:\d+)?$", text, re.M), "by number, and not root"
    (volume,) = re.findall(r"^VOLUME (\S+)$", text, re.M)
    for name in ("AUTOPAY_DATA_DIR", "XDG_CONFIG_HOME"):
        assert f"{name}={volume}" in text
    assert "pip" not in text, "what builds stays in the stage that builds"
