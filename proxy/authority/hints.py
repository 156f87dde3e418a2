"""How people make their system trust our CA, for programs that `autopay run` does not start."""

import platform
import shlex
import sys
from pathlib import Path

_DEBIAN = """\
sudo cp {file} /usr/local/share/ca-certificates/{name}.crt
sudo update-ca-certificates
# undo: sudo rm /usr/local/share/ca-certificates/{name}.crt; sudo update-ca-certificates --fresh
"""
_FEDORA = """\
sudo cp {file} /etc/pki/ca-trust/source/anchors/{name}.pem
sudo update-ca-trust
# undo: sudo rm /etc/pki/ca-trust/source/anchors/{name}.pem; sudo update-ca-trust
"""
_ARCH = """\
sudo trust anchor --store {file}
# undo: sudo trust anchor --remove {file}
"""
_MACOS = """\
sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {file}
# undo: sudo security remove-trusted-cert -d {file}
"""
_WINDOWS = """\
# in a PowerShell that runs as administrator
Import-Certificate -CertStoreLocation Cert:\\LocalMachine\\Root -FilePath {file}
# undo: dir Cert:\\LocalMachine\\Root | where Subject -like '*CN=autopay CA *' | Remove-Item
"""
_NSS = """\
# Firefox, and Chromium on Linux, have stores of their own (certutil is in libnss3-tools, nss-tools
# or nss); Firefox's is sql: and the profile's directory, which about:support shows
certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n {name} -i {file}
# undo: certutil -d sql:$HOME/.pki/nssdb -D -n {name}
"""
_FIREFOX = """\
# Firefox looks there too if security.enterprise_roots.enabled is true in its about:config
"""
_HINTS = {
    "debian": _DEBIAN + _NSS,
    "fedora": _FEDORA + _NSS,
    "arch": _ARCH + _NSS,
    "macos": _MACOS + _FIREFOX,
    "windows": _WINDOWS + _FIREFOX,
}
PLATFORMS = tuple(_HINTS)
_RELATIVES = {"ubuntu": "debian", "alpine": "debian", "rhel": "fedora", "centos": "fedora"}


def install_hint(system: str, certificate: Path) -> str:
    """The shell lines that make `system`, one of PLATFORMS, trust the CA whose certificate is in
    the file `certificate`, and those that undo it. Raises ValueError for another system."""
    if system not in _HINTS:
        raise ValueError(f"no hint for {system!r}: there are those for {', '.join(PLATFORMS)}")
    path = str(certificate)
    quoted = "'" + path.replace("'", "''") + "'" if system == "windows" else shlex.quote(path)
    return _HINTS[system].format(file=quoted, name=shlex.quote(f"autopay-{certificate.stem}"))


def this_platform() -> str | None:
    """Which of PLATFORMS we run on, or None if on none of them."""
    if sys.platform == "darwin":
        return "macos"
    if sys.platform == "win32":
        return "windows"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return None
    for name in (release["ID"], *release.get("ID_LIKE", "").split()):
        if (known := _RELATIVES.get(name, name)) in _HINTS:
            return known
    return None
