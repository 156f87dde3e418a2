"""Which variables make which runtime use autopay. Pure: from values to values.

| read by | proxy | roots |
|---|---|---|
| curl, libcurl | http_proxy (lower case only), HTTPS_PROXY | CURL_CA_BUNDLE |
| wget | http_proxy, https_proxy (lower case only) | `ca_certificate` in the file of WGETRC |
| git | as curl | GIT_SSL_CAINFO |
| Python: requests, pip | both cases | REQUESTS_CA_BUNDLE, PIP_CERT |
| Python: urllib, httpx, aiohttp (trust_env) | both cases | SSL_CERT_FILE |
| Go, Ruby, OpenSSL, rustls-native-certs | both cases | SSL_CERT_FILE |
| AWS SDKs, cargo, Deno | both cases | AWS_CA_BUNDLE, CARGO_HTTP_CAINFO, DENO_CERT |
| Node | `preload.cjs` by NODE_OPTIONS, NODE_USE_ENV_PROXY | NODE_EXTRA_CA_CERTS |
| Java | system properties by JAVA_TOOL_OPTIONS | a trust store of its own form |

Most of those roots replace the system's, so they name a bundle of both; NODE_EXTRA_CA_CERTS and
DENO_CERT add to them. ALL_PROXY is left alone: it is for the protocols that are not HTTP.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.launch import bypass

PRELOAD = Path(__file__).parent / "node" / "preload.cjs"

# Files of roots that programs may have been given before; ours must hold what is in them too.
ROOTS_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
)
ADDED_ROOTS_VARIABLES = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
NPM_CAFILE_VARIABLES = ("npm_config_cafile", "NPM_CONFIG_CAFILE")


@dataclass(frozen=True, slots=True)
class Trust:
    """The files that make programs trust our CA. `npm_has_own`: npm was told of a file of roots,
    which takes the place of all others for it."""

    certificate: Path
    bundle: Path
    java_store: Path
    java_password: str
    wgetrc: Path
    npm_has_own: bool = False


def variables(
    environ: Mapping[str, str], *, proxy_url: str, trust: Trust, lender_port: int | None
) -> dict[str, str]:
    """What to set on top of `environ`.

    `proxy_url` holds the credential; `lender_port` is that of a loopback listener which needs none,
    for Java, or None where there is no such listener: then nothing is set for Java.
    """
    hosts = bypass.merged(environ)
    bundle, certificate = str(trust.bundle), str(trust.certificate)
    told = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), proxy_url)
    told |= dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))
    told |= dict.fromkeys(ROOTS_VARIABLES, bundle)
    for name in ADDED_ROOTS_VARIABLES:
        # One file each: where there was one already, ours has to hold its roots too.
        told[name] = bundle if environ.get(name) else certificate
    if trust.npm_has_own:
        told[NPM_CAFILE_VARIABLES[0]] = bundle
    told["WGETRC"] = str(trust.wgetrc)
    told["NODE_USE_ENV_PROXY"] = "1"
    told["NODE_OPTIONS"] = _joined(environ.get("NODE_OPTIONS"), f"--require {_node_word(PRELOAD)}")
    if lender_port is not None:
        told["JAVA_TOOL_OPTIONS"] = _joined(
            environ.get("JAVA_TOOL_OPTIONS"), *_java_options(hosts, trust, lender_port)
        )
    return told


def _java_options(hosts: tuple[str, ...], trust: Trust, port: int) -> list[str]:
    properties = {
        "http.proxyHost": "127.0.0.1",
        "http.proxyPort": str(port),
        "https.proxyHost": "127.0.0.1",
        "https.proxyPort": str(port),
        "http.nonProxyHosts": bypass.for_java(hosts),  # for https too
        "javax.net.ssl.trustStore": str(trust.java_store),
        "javax.net.ssl.trustStorePassword": trust.java_password,
    }
    # Java reads quotes in this variable, but no backslashes.
    return [_java_word(f"-D{name}={value}") for name, value in properties.items()]


def _java_word(word: str) -> str:
    return shlex.quote(word) if any(char.isspace() for char in word) else word


def _node_word(path: Path) -> str:
    """NODE_OPTIONS splits at spaces, reads double quotes, and backslashes inside of them."""
    text = str(path)
    if " " not in text and '"' not in text and "\\" not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _joined(before: str | None, *ours: str) -> str:
    """Ours last: where a runtime takes one value only, it takes the last. Once is enough, for a
    run inside a run."""
    kept = before or ""
    return " ".join([kept, *(word for word in ours if word not in kept)]).strip()
