"""How commands are called, and how they refuse."""

import os
import subprocess

import pytest

from proxy import __version__
from proxy.cli import COMMANDS, main
from proxy.cli.errors import lines_for
from tests.cli.conftest import Autopay


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_help_names_every_command_and_each_has_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = help_of(capsys=capsys)
    for command, what in COMMANDS.items():
        assert command in listed and what in listed
        assert f"autopay {command}" in help_of(command, capsys=capsys)


def test_without_a_word_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["bogus"],
        ["receipts", "--limit", "0"],
        ["receipts", "--limit", "many"],
        ["agent"],
        ["agent", "add", "x", "--daily", "-1"],
        ["agent", "add", "x", "--per-call", "0.0000001"],
        ["wallet", "import", "key", "another"],
        ["serve", "--nonsense"],
    ],
)
def test_wrong_usage_is_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "usage: autopay" in said.err


def test_an_amount_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["agent", "add", "x", "--daily", "1.2345678"])
    assert "is not an amount in USD: write at most 6 decimals" in capsys.readouterr().err


def test_version(embedded: Autopay) -> None:
    assert embedded.well("--version") == f"autopay {__version__}\n"


def test_the_settings_file_may_be_named_before_or_after_the_command(autopay: Autopay) -> None:
    autopay.config.write_text('log_level = "loud"')
    said = autopay.refused("wallet", "show")
    assert said.startswith(f'{autopay.config}: log_level = "loud" must be')
    other = autopay.data / "other.toml"
    other.write_text('log_level = "silent"')
    said = autopay.refused("wallet", "--config", str(other), "show")
    assert said.startswith(f'{other}: log_level = "silent" must be')


def test_every_bad_setting_has_its_own_line(autopay: Autopay) -> None:
    autopay.config.write_text("[breaker]\nfailures = 0\n[policy]\ndaily = -1\n")
    done = autopay("serve")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"autopay: {autopay.config}: ") for line in lines)
    assert "breaker.failures" in lines[0] and "policy.daily" in lines[1]


def test_a_settings_file_that_is_not_there(autopay: Autopay) -> None:
    autopay.config.unlink()
    assert "cannot be read" in autopay.refused("status")


def test_a_database_that_is_gone_is_one_line(autopay: Autopay) -> None:
    for words in (["receipts"], ["agent", "list"], ["serve"], ["init"]):
        done = autopay(*words, DATABASE_URL="postgresql://nobody:hunter2@127.0.0.1:1/none")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert "is PostgreSQL running where database_url" in done.stderr
        assert "hunter2" not in done.stderr


def test_a_question_does_not_leave_a_database_behind(embedded: Autopay) -> None:
    embedded.config.touch()
    assert embedded.refused("receipts").endswith("run: autopay init")
    assert not (embedded.data / "postgres").exists()


def test_a_reader_that_goes_away_is_no_error(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        autopay.command("agent", "list"),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        env=autopay.environment(),
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_bug_keeps_its_traceback() -> None:
    assert lines_for(KeyError("a bug")) == []
    assert lines_for(OSError(28, "No space left on device")) == [
        "[Errno 28] No space left on device"
    ]
    assert lines_for(OSError(2, "No such file or directory", "/books.jsonl")) == [
        "/books.jsonl: No such file or directory"
    ]
    refused = ConnectionError('PostgreSQL server at "db:5432" rejected SSL upgrade')
    assert "allow_plaintext" in lines_for(refused)[0]
