"""What is set for which runtime: values in, values out."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.launch import bypass
from proxy.launch.environment import PRELOAD, ROOTS_VARIABLES, Trust, _node_word, variables
from proxy.launch.shells import exports

PROXY = "http://bot:ap_x@127.0.0.1:8402"
TRUST = Trust(
    certificate=Path("/data/ca.pem"),
    bundle=Path("/data/roots.pem"),
    java_store=Path("/data/java.p12"),
    java_password="changeit",
    wgetrc=Path("/data/wgetrc"),
)


def told(environ: dict[str, str] | None = None, port: int | None = 4711) -> dict[str, str]:
    return variables(environ or {}, proxy_url=PROXY, trust=TRUST, lender_port=port)


def test_every_client_finds_the_proxy() -> None:
    found = told({"ALL_PROXY": "socks5://s", "http_proxy": "http://corporate"})
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        assert found[name] == PROXY
    assert "ALL_PROXY" not in found and "all_proxy" not in found
    assert found["NODE_USE_ENV_PROXY"] == "1"


def test_what_replaces_the_systems_roots_names_both_and_what_adds_to_them_ours() -> None:
    found = told()
    assert {found[name] for name in ROOTS_VARIABLES} == {"/data/roots.pem"}
    assert found["NODE_EXTRA_CA_CERTS"] == found["DENO_CERT"] == "/data/ca.pem"
    assert found["WGETRC"] == "/data/wgetrc"
    assert "npm_config_cafile" not in found  # unset, npm takes Node's
    corporate = told({"NODE_EXTRA_CA_CERTS": "/corporate.pem"})
    assert corporate["NODE_EXTRA_CA_CERTS"] == "/data/roots.pem"


@pytest.mark.parametrize(
    ("upper", "lower", "merged"),
    [
        ("", "", "localhost,127.0.0.1,::1"),
        ("a.test, .b.test", "c.test,a.test", "a.test,.b.test,c.test,localhost,127.0.0.1,::1"),
        ("*.b.test,10.*,*", "10.0.0.0/8", ".b.test,10.0.0.0/8,localhost,127.0.0.1,::1"),
        ("127.0.0.1,,", "", "127.0.0.1,localhost,::1"),
    ],
)
def test_no_proxy_is_merged_and_has_no_globs(upper: str, lower: str, merged: str) -> None:
    found = told({"NO_PROXY": upper, "no_proxy": lower})
    assert found["NO_PROXY"] == found["no_proxy"] == merged


def test_a_run_inside_a_run_says_nothing_twice() -> None:
    once = told()
    assert told(once) == once | {"NODE_EXTRA_CA_CERTS": "/data/roots.pem"} | {
        "DENO_CERT": "/data/roots.pem"
    }


def test_java_reads_properties_and_needs_no_credential() -> None:
    options = told({"JAVA_TOOL_OPTIONS": "-Xmx1g", "NO_PROXY": ".b.test"})["JAVA_TOOL_OPTIONS"]
    words = options.split()
    assert words[0] == "-Xmx1g"
    assert "-Dhttps.proxyHost=127.0.0.1" in words and "-Dhttp.proxyPort=4711" in words
    assert "-Djavax.net.ssl.trustStore=/data/java.p12" in words
    assert "-Dhttp.nonProxyHosts=*.b.test|b.test|localhost|127.*|[::1]" in words
    assert "ap_x" not in options
    assert "JAVA_TOOL_OPTIONS" not in told(port=None)


def test_javas_own_words_for_hosts() -> None:
    entries = ["a.test:8080", "10.0.0.0/8", "[fe80::1]", "fe80::2"]
    assert bypass.for_java(entries) == "a.test|[fe80::1]|[fe80::2]"


def test_nodes_options_are_kept() -> None:
    assert told({"NODE_OPTIONS": "--no-warnings"})["NODE_OPTIONS"] == (
        f"--no-warnings --require {PRELOAD}"
    )


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_reads_a_path_of_any_kind(tmp_path: Path) -> None:
    file = tmp_path / 'a "b" \\c' / "x.cjs"
    file.parent.mkdir()
    file.write_text("console.log('loaded')")
    options = {"NODE_OPTIONS": f"--require {_node_word(file)}"}
    done = subprocess.run(
        ["node", "-e", ""],
        check=False,
        env=options | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "loaded\n", done.stderr


EVIL = {"A": "it's $HOME `id` \"x\" \\ \\' *"}


def test_a_shell_reads_what_was_meant() -> None:
    script = exports(EVIL, "sh") + '\nprintf %s "$A"'
    assert subprocess.check_output(["sh", "-c", script], text=True) == EVIL["A"]
    assert exports(EVIL, "powershell") == "$env:A = 'it''s $HOME `id` \"x\" \\ \\'' *'"
    assert exports({"A": "it's\\"}, "fish") == "set -gx A 'it\\'s\\\\'"
    assert shlex.split(exports({"A": "b c"}, "sh")) == ["export", "A=b c"]
