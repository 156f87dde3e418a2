"""The files that make programs trust our CA, kept in the data directory and made when needed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from proxy.authority import (
    JAVA_PASSWORD,
    KEY_NAME,
    Authority,
    write_bundle,
    write_certificate,
    write_java_truststore,
)
from proxy.launch.environment import (
    ADDED_ROOTS_VARIABLES,
    NPM_CAFILE_VARIABLES,
    ROOTS_VARIABLES,
    Trust,
)
from proxy.paths import ca_directory, private_directory

CERTIFICATE_NAME = "autopay-ca.pem"


def authority_of(data_dir: Path) -> tuple[Authority, bool]:
    """The CA of this installation, and whether it was made just now. Raises AuthorityError or
    PathError."""
    directory = ca_directory(data_dir)
    if (directory / KEY_NAME).exists():
        return Authority.load(directory), False
    private_directory(data_dir)
    return Authority.create(directory), True


def certificate_file(data_dir: Path, authority: Authority) -> Path:
    """The CA's certificate as a file of its own."""
    return write_certificate(private_directory(data_dir / "trust") / CERTIFICATE_NAME, authority)


def prepare(data_dir: Path, environ: Mapping[str, str], home: Path) -> Trust:
    """Write what is not written yet. What `environ` and the settings in `home` made programs trust
    so far stays trusted. Raises AuthorityError or PathError."""
    authority, _ = authority_of(data_dir)
    certificate = certificate_file(data_dir, authority)
    directory = certificate.parent
    npm_cafile = _npm_cafile(environ, home)
    extra = _extra_roots(environ, npm_cafile, certificate.parent)
    # A bundle for each set of such files: two runs may have been started with different ones.
    mark = _mark("\0".join(map(str, extra)))
    return Trust(
        certificate=certificate,
        bundle=write_bundle(directory / f"roots{mark}.pem", authority, extra),
        java_store=write_java_truststore(directory / f"java{mark}.p12", authority, extra),
        java_password=JAVA_PASSWORD,
        wgetrc=_wgetrc(directory, environ, home, directory / f"roots{mark}.pem"),
        npm_has_own=npm_cafile is not None,
    )


def _extra_roots(environ: Mapping[str, str], npm: Path | None, own: Path) -> list[Path]:
    named = [environ.get(name) for name in (*ROOTS_VARIABLES, *ADDED_ROOTS_VARIABLES)]
    paths = [Path(name) for name in named if name] + ([npm] if npm else [])
    # In a run inside a run they are ours.
    return sorted({path for path in paths if path.parent != own})


def _npm_cafile(environ: Mapping[str, str], home: Path) -> Path | None:
    """The file that npm was told to trust instead of all else, if it was."""
    for name in NPM_CAFILE_VARIABLES:
        if path := environ.get(name):
            return Path(path)
    for line in _text(home / ".npmrc").splitlines():
        key, equals, value = line.partition("=")
        if key.strip() == "cafile" and equals:
            return Path(value.strip().strip("\"'")).expanduser()
    return None


def _wgetrc(directory: Path, environ: Mapping[str, str], home: Path, bundle: Path) -> Path:
    """wget reads roots from no variable, but its settings file from one: the user's own, and a
    line more. It may hold passwords."""
    before = Path(environ.get("WGETRC") or home / ".wgetrc")
    if before.parent == directory:
        return before
    text = _text(before)
    if text and not text.endswith("\n"):
        text += "\n"
    text += f"ca_certificate = {bundle}\n"
    path = directory / f"wgetrc{_mark(text)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _mark(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return f"-{digest[:12]}" if text else ""
