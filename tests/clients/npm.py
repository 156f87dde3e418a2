"""What Node's programs need, installed when it is first asked for, and kept in .cache."""

import functools
import shutil
import subprocess
from pathlib import Path

WANTED = Path(__file__).parent / "node"
FOLDER = Path(__file__).parents[2] / ".cache" / "clients-node"
SECONDS = 240


@functools.cache
def node_modules() -> tuple[Path, str]:
    """The folder, and why there is none ("" if there is)."""
    folder = FOLDER / "node_modules"
    if shutil.which("npm") is None:
        return folder, "npm is not on this machine"
    lock = (WANTED / "package-lock.json").read_bytes()
    done = FOLDER / "installed"
    if done.exists() and done.read_bytes() == lock:
        return folder, ""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(WANTED / name, FOLDER / name)
    # Not `npm ci`: a lock made on one platform lacks the packages that are for others only.
    words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        tried = subprocess.run(
            words, cwd=FOLDER, check=False, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return folder, f"npm did not install it within {SECONDS} s"
    if tried.returncode:
        lines = [line for line in tried.stderr.splitlines() if "npm error" in line]
        return folder, f"npm cannot install it: {(lines or ['it says nothing'])[0][:200]}"
    done.write_bytes(lock)
    return folder, ""
