"""Every TLS library within reach accepts our leaves, by name and by address, and no others.

OpenSSL's own programs, curl, Node, Java and GnuTLS (wget); each is skipped where it is missing.
"""

import shutil
import textwrap
from pathlib import Path

import pytest
from authority_peer import served, shell

from proxy.authority import (
    JAVA_PASSWORD,
    Authority,
    Leaves,
    write_bundle,
    write_certificate,
    write_java_truststore,
)

LONG = ".".join(["a" * 63, "b" * 63, "example.com"])
HOSTS = ["api.example.com", "xn--bcher-kva.example", LONG, "127.0.0.1"]


def tool(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


@pytest.fixture
def certificate(authority: Authority, tmp_path: Path) -> str:
    return str(write_certificate(tmp_path / "ca.pem", authority))


@pytest.mark.parametrize("host", HOSTS)
async def test_openssl(leaves: Leaves, certificate: str, tmp_path: Path, host: str) -> None:
    openssl = tool("openssl")
    of_whom = ["-verify_ip" if host == "127.0.0.1" else "-verify_hostname", host]
    async with served(await leaves.context_for(host)) as port:
        said = await shell(
            openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-showcerts", "-x509_strict",
            "-CAfile", certificate, "-verify_return_error", "-alpn", "h2,http/1.1", *of_whom,
        )  # fmt: skip
    assert "Verify return code: 0 (ok)" in said
    assert "ALPN protocol: http/1.1" in said
    assert said.count("BEGIN CERTIFICATE") == 1, "the root is not sent along"
    (tmp_path / "leaf.pem").write_text(said)
    said = await shell(
        openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", certificate,
        str(tmp_path / "leaf.pem"),
    )  # fmt: skip
    assert said.rstrip().endswith("OK")


async def test_the_authority_alone_by_openssl(certificate: str) -> None:
    said = await shell(
        tool("openssl"), "verify", "-x509_strict", "-check_ss_sig", "-CAfile", certificate,
        certificate,
    )  # fmt: skip
    assert said.rstrip().endswith("OK")


@pytest.mark.parametrize("host", HOSTS)
async def test_curl(leaves: Leaves, authority: Authority, tmp_path: Path, host: str) -> None:
    curl = tool("curl")
    bundle = write_bundle(tmp_path / "bundle.pem", authority)
    async with served(await leaves.context_for(host)) as port:
        for name in (host, "other.example"):
            visit = shell(
                curl, "-sS", "--noproxy", "*", "--cacert", str(bundle),
                "--connect-to", f"{name}:443:127.0.0.1:{port}", f"https://{name}/",
            )  # fmt: skip
            if name == host:
                assert await visit == "hello"
            else:
                with pytest.raises(AssertionError, match=r"curl: \((60|51)\)"):
                    await visit


async def test_wget_which_is_gnutls_on_debian(leaves: Leaves, certificate: str) -> None:
    wget = tool("wget")
    async with served(await leaves.context_for("localhost")) as port:
        said = await shell(
            wget, "-qO-", "--no-proxy", "--no-config", "-t1", "-T5",
            f"--ca-certificate={certificate}", f"https://localhost:{port}/",
        )  # fmt: skip
        assert said == "hello"
        with pytest.raises(AssertionError):
            await shell(wget, "-qO-", "--no-proxy", "-t1", f"https://localhost:{port}/")


NODE = """
const https = require("https");
const [port, ...hosts] = process.argv.slice(1);
const visit = host => new Promise(done => https.get(
    {host: "127.0.0.1", port: port, servername: host === "127.0.0.1" ? "" : host, path: "/"},
    answer => answer.on("data", data => done(`${host} ${data}`)),
).on("error", error => done(`${host} ${error.code}`)));
(async () => { for (const host of hosts) console.log(await visit(host)); })();
"""


@pytest.mark.parametrize("host", HOSTS)
async def test_node(
    leaves: Leaves, certificate: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", certificate)
    async with served(await leaves.context_for(host)) as port:
        said = await shell(tool("node"), "-e", NODE, str(port), host, "other.example")
    assert said.splitlines() == [f"{host} hello", "other.example ERR_TLS_CERT_ALTNAME_INVALID"]


JAVA = """
    import java.io.*; import java.net.*; import javax.net.ssl.*;
    public class Visit {
        public static void main(String[] hosts) throws Exception {
            var factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
            for (String each : hosts) {
                String host = each.split("=")[0]; int port = Integer.parseInt(each.split("=")[1]);
                var plain = new Socket("127.0.0.1", port);
                try (var socket = (SSLSocket) factory.createSocket(plain, host, port, true)) {
                    var wanted = socket.getSSLParameters();
                    wanted.setEndpointIdentificationAlgorithm("HTTPS");
                    socket.setSSLParameters(wanted);
                    socket.getOutputStream().write("GET / HTTP/1.1\\r\\n\\r\\n".getBytes());
                    var all = new String(socket.getInputStream().readAllBytes());
                    System.out.println(host + " " + all.substring(all.length() - 5));
                } catch (SSLHandshakeException refused) {
                    System.out.println(host + " refused");
                }
            }
        }
    }
"""


async def test_java(leaves: Leaves, authority: Authority, tmp_path: Path) -> None:
    java = tool("java")
    store = write_java_truststore(tmp_path / "trust.p12", authority)
    source = tmp_path / "Visit.java"
    source.write_text(textwrap.dedent(JAVA))
    async with (
        served(await leaves.context_for(HOSTS[0])) as a,
        served(await leaves.context_for(HOSTS[1])) as b,
        served(await leaves.context_for(HOSTS[2])) as c,
        served(await leaves.context_for(HOSTS[3])) as d,
    ):
        visits = [f"{host}={port}" for host, port in zip(HOSTS, (a, b, c, d), strict=True)]
        said = await shell(
            java, f"-Djavax.net.ssl.trustStore={store}",
            f"-Djavax.net.ssl.trustStorePassword={JAVA_PASSWORD}", "-XX:TieredStopAtLevel=1",
            str(source), *visits, f"other.example={a}",
        )  # fmt: skip
    lines = [line for line in said.splitlines() if not line.startswith("Picked up")]
    assert lines == [*(f"{host} hello" for host in HOSTS), "other.example refused"]


async def test_keytool_lists_the_store(authority: Authority, tmp_path: Path) -> None:
    keytool = tool("keytool")
    bundle = write_bundle(tmp_path / "bundle.pem", authority)
    store = write_java_truststore(tmp_path / "trust.p12", authority)
    said = await shell(
        keytool, "-list", "-keystore", str(store), "-storepass", JAVA_PASSWORD,
        "-J-XX:TieredStopAtLevel=1",
    )  # fmt: skip
    assert said.count("trustedCertEntry") == bundle.read_bytes().count(b"END CERTIFICATE")
    assert authority.fingerprint in said


async def test_another_python(leaves: Leaves, certificate: str) -> None:
    """Python 3.13 and later are strict without being told."""
    for name in ("python3.14", "python3.13"):
        if (python := shutil.which(name)) and await _runs(python):
            break
    else:
        pytest.skip("no Python 3.13 or later is installed")
    code = (
        "import sys, urllib.request, ssl;"
        "c = ssl.create_default_context(cafile=sys.argv[1]);"
        "assert c.verify_flags & ssl.VERIFY_X509_STRICT;"
        "print(urllib.request.urlopen(sys.argv[2], context=c).read().decode())"
    )
    async with served(await leaves.context_for("127.0.0.1")) as port:
        said = await shell(python, "-c", code, certificate, f"https://127.0.0.1:{port}/")
    assert said == "hello\n"


async def _runs(python: str) -> bool:
    """A version manager's shim may lead nowhere."""
    try:
        await shell(python, "-c", "import ssl")
    except AssertionError:
        return False
    return True
