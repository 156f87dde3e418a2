"""One small program per runtime that asks for a URL as people write it: no word of proxies.

Each prints the status, if the runtime tells it, and the body.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_REQUESTS = """\
import sys, requests
answer = requests.get(sys.argv[1])
print(answer.status_code, answer.text)
"""
_HTTPX = """\
import sys, httpx
answer = httpx.get(sys.argv[1])
print(answer.status_code, answer.text)
"""
_AIOHTTP = """\
import asyncio, sys, aiohttp

async def main():
    async with aiohttp.ClientSession(trust_env=True) as session:
        async with session.get(sys.argv[1]) as answer:
            print(answer.status, await answer.text())

asyncio.run(main())
"""
_URLLIB = """\
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1])
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""
_NODE_FETCH = """\
fetch(process.argv[1]).then(async (answer) => console.log(answer.status, await answer.text()))
  .catch((error) => { console.error(String(error.cause || error)); process.exit(1); });
"""
_NODE_GET = """\
const url = process.argv[1];
require(url.split(':')[0]).get(url, (answer) => {
  let body = '';
  answer.on('data', (data) => { body += data; });
  answer.on('end', () => console.log(answer.statusCode, body));
}).on('error', (error) => { console.error(error.message); process.exit(1); });
"""
_AXIOS = """\
require('axios').get(process.argv[1], { validateStatus: () => true })
  .then((answer) => console.log(answer.status, JSON.stringify(answer.data)))
  .catch((error) => { console.error(error.message); process.exit(1); });
"""
_JAVA_CLIENT = """\
import java.net.URI;
import java.net.http.*;

class Probe {
  public static void main(String[] words) throws Exception {
    var request = HttpRequest.newBuilder(URI.create(words[0])).build();
    var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
    System.out.println(answer.statusCode() + " " + answer.body());
  }
}
"""
_JAVA_CONNECTION = """\
import java.net.*;

class Probe {
  public static void main(String[] words) throws Exception {
    var connection = (HttpURLConnection) new URL(words[0]).openConnection();
    int status = connection.getResponseCode();
    var body = status < 400 ? connection.getInputStream() : connection.getErrorStream();
    System.out.println(status + " " + new String(body.readAllBytes()));
  }
}
"""
_GO = """\
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	answer, err := http.Get(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	body, _ := io.ReadAll(answer.Body)
	fmt.Println(answer.StatusCode, string(body))
}
"""

_NPM_VERSION = "console.log(require('{}/package.json').version)"
_MODULE_VERSION = "import {0}; print({0}.__version__)"


@dataclass(frozen=True, slots=True)
class Runtime:
    """How to find one, what to run, and what makes it work.

    `version` is a command that fails where the runtime is not there. `command` gives that of the
    program for (a directory to write in, a URL). `buys` is false for what is never sold.
    """

    name: str
    version: Sequence[str]
    command: Callable[[Path, str], Sequence[str]]
    needs: str
    buys: bool = True


def _by(*words: str) -> Callable[[Path, str], Sequence[str]]:
    return lambda _directory, url: [*words, url]


def _source(name: str, text: str, *words: str) -> Callable[[Path, str], Sequence[str]]:
    """A program in a file of its own."""

    def command(directory: Path, url: str) -> Sequence[str]:
        file = directory / name
        file.write_text(text)
        return [*words, str(file), url]

    return command


def _module(name: str, text: str, title: str, needs: str) -> Runtime:
    version = ("python3", "-c", _MODULE_VERSION.format(name))
    return Runtime(title, version, _by("python3", "-c", text), needs)


_NODE = "NODE_OPTIONS=--require …/preload.cjs, NODE_USE_ENV_PROXY, NODE_EXTRA_CA_CERTS"
_JAVA = "JAVA_TOOL_OPTIONS, while `autopay run` lives (-Dhttp.proxyHost …, a trust store)"

RUNTIMES = (
    Runtime(
        "curl",
        ("curl", "--version"),
        _by("curl", "-sS", "-w", " %{http_code}"),
        "http_proxy (lower case), HTTPS_PROXY, CURL_CA_BUNDLE",
    ),
    Runtime(
        "wget",
        ("wget", "--version"),
        _by("wget", "-nv", "-O", "-", "--tries=1"),
        "http_proxy, https_proxy (lower case); ca_certificate in a WGETRC",
    ),
    _module("requests", _REQUESTS, "Python requests", "HTTP(S)_PROXY, REQUESTS_CA_BUNDLE"),
    _module("httpx", _HTTPX, "Python httpx", "HTTP(S)_PROXY, SSL_CERT_FILE"),
    _module(
        "aiohttp", _AIOHTTP, "Python aiohttp", "HTTP(S)_PROXY, SSL_CERT_FILE; trust_env=True in it"
    ),
    Runtime(
        "Python urllib",
        ("python3", "--version"),
        _by("python3", "-c", _URLLIB),
        "HTTP(S)_PROXY, SSL_CERT_FILE",
    ),
    Runtime("Node fetch", ("node", "--version"), _by("node", "-e", _NODE_FETCH, "--"), _NODE),
    Runtime("Node http(s).get", ("node", "--version"), _by("node", "-e", _NODE_GET, "--"), _NODE),
    Runtime(
        "Node axios",
        ("node", "-e", _NPM_VERSION.format("axios")),
        _by("node", "-e", _AXIOS, "--"),
        "HTTP(S)_PROXY, NODE_EXTRA_CA_CERTS",
    ),
    Runtime(
        "Java HttpClient",
        ("java", "-version"),
        _source("Probe.java", _JAVA_CLIENT, "java"),
        _JAVA,
    ),
    Runtime(
        "Java URLConnection",
        ("java", "-version"),
        _source("Probe.java", _JAVA_CONNECTION, "java"),
        _JAVA,
    ),
    Runtime(
        "Go",
        ("go", "version"),
        _source("probe.go", _GO, "go", "run"),
        "HTTP(S)_PROXY, SSL_CERT_FILE",
    ),
    Runtime(
        "git",
        ("git", "--version"),
        lambda _directory, url: ["git", "ls-remote", url],
        "http_proxy, https_proxy, GIT_SSL_CAINFO",
        buys=False,
    ),
)
