"""`autopay secret`: what is under which key, a new one, and the old ones gone."""

import json
import secrets
import sys
from typing import Any

import pytest

from tests.cli.conftest import Autopay

OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)


def status(autopay: Autopay, **env: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(autopay.well("secret", "status", "--json", **env))
    return record


def states(autopay: Autopay, **env: str) -> list[tuple[str, int]]:
    return [(key["state"], key["sealed"]) for key in status(autopay, **env)["keys"]]


def test_from_the_first_key_to_the_third(autopay: Autopay) -> None:
    key = autopay.data / "secret.key"
    assert "None was needed yet" in autopay.well("secret", "status")
    autopay.well("agent", "list")
    assert not key.exists(), "who only asks needs no key"
    autopay.well("agent", "add", "bot")
    assert key.stat().st_mode & 0o777 == 0o600
    assert states(autopay) == [("current", 2)]
    first = key.read_text()

    said = autopay.well("secret", "rotate")
    assert "2 values were put under it" in said and f"Keep a copy of {key}" in said
    assert states(autopay) == [("current", 2), ("old", 0)]
    assert key.read_text().endswith(first) and key.read_text().count("\n") == 2
    assert "is gone" in autopay.well("secret", "drop-old")
    assert key.read_text().count("\n") == 1 and first not in key.read_text()
    assert "There is no old key." in autopay.well("secret", "drop-old")
    shown = autopay.well("secret", "status")
    assert "current" in shown and key.read_text().strip() not in shown


def test_an_old_key_stays_while_anything_is_under_it(autopay: Autopay) -> None:
    key = autopay.data / "secret.key"
    autopay.well("agent", "add", "bot")
    first = key.read_text()
    autopay.well("secret", "rotate")
    both = key.read_text()
    key.write_text(first)  # as a proxy has it that has not read the new one yet
    autopay.well("agent", "add", "late")
    key.write_text(both)
    assert states(autopay) == [("current", 2), ("old", 2)]
    assert "stays: 2 values are under it" in autopay.well("secret", "drop-old")
    assert key.read_text() == both


def test_a_lost_key(autopay: Autopay) -> None:
    key = autopay.data / "secret.key"
    autopay.well("agent", "add", "bot")
    key.unlink()
    refusal = autopay.refused("agent", "rotate", "bot")
    assert "copy it from where autopay ran before" in refusal and not key.exists()
    said = autopay("status").stdout
    assert "tokens    1 in the database are not accepted" in said and "bot" in said
    record = json.loads(autopay("status", "--json").stdout)
    (one,) = record["unaccepted_tokens"]
    assert (one["agent"], one["tokens"]) == ("bot", 1) and "sealed under" in one["why"]
    assert record["well"] is False

    assert "2 were left as they were" in autopay.well("secret", "rotate")
    autopay.well("agent", "rotate", "bot")
    assert "each is sealed with your secret key" in autopay("status").stdout


def test_a_key_file_that_others_can_read(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot")
    (autopay.data / "secret.key").chmod(0o644)
    assert "chmod 600" in autopay.refused("agent", "add", "other")
    assert "chmod 600" in autopay.refused("secret", "rotate")
    assert "chmod 600" in autopay("status").stdout
    assert "bot" in autopay.well("agent", "list"), "what needs no key is not kept from anybody"


@pytest.mark.parametrize("name", ["AUTOPAY_SECRETS__KEY", "AUTOPAY_SECRETS__KEY_COMMAND"])
def test_a_key_of_the_operators_own(autopay: Autopay, name: str) -> None:
    def given(*keys: str) -> dict[str, str]:
        text = ",".join(keys)
        if name == "AUTOPAY_SECRETS__KEY":
            return {name: text}
        return {name: f"{sys.executable} -c \"print('{text}')\""}

    autopay.well("agent", "add", "bot", **given(OLD))
    assert not (autopay.data / "secret.key").exists()
    by_hand = autopay.well("secret", "rotate", **given(OLD))
    assert "openssl rand -base64 32" in by_hand and OLD not in by_hand
    assert states(autopay, **given(NEW, OLD)) == [("current", 0), ("old", 2)]
    assert "2 values were put under it" in autopay.well("secret", "rotate", **given(NEW, OLD))
    assert states(autopay, **given(NEW)) == [("current", 2)]
    assert "not in a file" in autopay.refused("secret", "drop-old", **given(NEW, OLD))
    assert states(autopay, **given(OLD)) == [("current", 0), ("not here", 2)]


def test_a_command_that_fails_is_one_line(autopay: Autopay) -> None:
    env = {"AUTOPAY_SECRETS__KEY_COMMAND": "sh -c 'echo denied >&2; exit 4'"}
    refusal = autopay.refused("agent", "add", "bot", **env)
    assert refusal == "secrets.key_command failed with status 4: denied"
    assert autopay.well("agent", "list", **env).startswith("No agents")


def test_the_key_is_not_handed_to_programs(autopay: Autopay) -> None:
    autopay.config.write_text('[listen]\nproxy = "127.0.0.1:0"\nmounts = "127.0.0.1:0"\n')
    autopay.inside = False
    code = "import os; print(sorted(n for n in os.environ if n.startswith('AUTOPAY_')))"
    done = autopay("run", "--", sys.executable, "-c", code, AUTOPAY_SECRETS__KEY=OLD)
    assert done.stdout == "['AUTOPAY_DATA_DIR']\n", done
