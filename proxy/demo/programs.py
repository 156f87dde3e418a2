"""The programs that buy. None of them knows of payments: autopay is in their environment only."""

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.subprocesses import heard

PATIENCE_SECONDS = 30.0

WITH_REQUESTS = """\
import requests

answer = requests.get("{url}")
print("status", answer.status_code)
print("answer", answer.json())
"""
WITH_URLLIB = """\
import urllib.request

with urllib.request.urlopen("{url}") as answer:
    print("status", answer.status)
    print("answer", answer.read().decode())
"""
# What curl does, for a machine that has none.
_INSTEAD_OF_CURL = """\
import sys, urllib.error, urllib.request

url, data = sys.argv[1], sys.argv[2].encode() if len(sys.argv) > 2 else None
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, data))
except urllib.error.HTTPError as error:
    answer = error
sys.stdout.write(f"HTTP/1.1 {answer.status} {answer.reason}\\n{answer.headers}")
sys.stdout.write(answer.read().decode())
"""


class NotAsTold(Exception):
    """The demo went another way than its story. One clear line."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as a program printed it."""

    status_line: str
    headers: Sequence[tuple[str, str]]
    body: str

    @property
    def status(self) -> int:
        return int(self.status_line.split(" ")[1])

    def header(self, name: str) -> str:
        """Its value; "" if there is none."""
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return ""


def has_curl() -> bool:
    return shutil.which("curl") is not None


def has_requests() -> bool:
    return importlib.util.find_spec("requests") is not None


def environment(**variables: str) -> dict[str, str]:
    """Ours without anything that tells of a proxy or of autopay, and with `variables`."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not is_setting(name)
    } | variables


def is_setting(variable: str) -> bool:
    """Whether autopay takes a setting from this environment variable."""
    return variable.startswith("AUTOPAY_") or variable == "DATABASE_URL"


def asking(url: str, *, data: str | None = None) -> list[str]:
    """The command line that asks for `url`, by POST if there is `data`."""
    if has_curl():
        return ["curl", "-sS", "-i", *(["-d", data] if data is not None else []), url]
    return [sys.executable, "-c", _INSTEAD_OF_CURL, url, *([data] if data is not None else [])]


def shown(command: Sequence[str]) -> str:
    """A command line as one would type it."""
    words = ["…" if word == _INSTEAD_OF_CURL else word for word in command]
    if words[0] == sys.executable:
        words[0] = "python"
    return shlex.join(words).replace("'…'", "…")


def this_program() -> list[str]:
    """The words that start this very program again."""
    called = Path(sys.argv[0])
    return [str(called.absolute())] if called.stem == "autopay" else [sys.executable, "-m", "proxy"]


def script(directory: Path, url: str) -> tuple[Path, str]:
    """A Python program that asks for `url`: its file, and its text."""
    text = (WITH_REQUESTS if has_requests() else WITH_URLLIB).format(url=url)
    file = directory / "weather.py"
    file.write_text(text)
    return file, text


async def output(command: Sequence[str], env: Mapping[str, str]) -> str:
    """Run a program to its end; what it printed. Raises NotAsTold if it failed."""
    status, out, err = await heard(command, env, PATIENCE_SECONDS)
    if status is None:
        raise NotAsTold(f"{command[0]} did not end within {PATIENCE_SECONDS:.0f} s")
    if status:
        said = " ".join(err.split())[-300:]
        raise NotAsTold(f"{command[0]} ended with status {status}: {said}")
    return out


def read_answer(text: str) -> Answer:
    """What `curl -i` printed."""
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(first, headers, body)
