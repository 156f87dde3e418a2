"""Whose request is this, and where does it go? One answer for each kind of listener."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from proxy.wire.agent import Agent, Caller
from proxy.wire.gate import Gate
from proxy.wire.headers import RequestFields, header
from proxy.wire.inside import MOUNT, ORIGIN
from proxy.wire.intents import MOUNT as INTENTS
from proxy.wire.intents import origin_for as intent_origin
from proxy.wire.origin import DEFAULT_PORTS, Origin, plain_host
from proxy.wire.parsers import RequestHead
from proxy.wire.problem import Problem
from proxy.wire.target import MountPoint, Target


class Router(Protocol):
    """Finds the target of a request, or raises Problem."""

    def route(self, head: RequestHead, fields: RequestFields) -> Target: ...
    def connect(self, head: RequestHead, fields: RequestFields) -> tuple[Caller, str, int]: ...


class ForwardRouter:
    """An HTTP proxy: absolute-form targets and CONNECT; the agent in Proxy-Authorization.

    The user name is the agent's, or `AGENT~SESSION`: a session for programs that can set no header.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def route(self, head: RequestHead, fields: RequestFields) -> Target:
        url = head.url
        if not url.absolute or not url.raw_host:
            raise Problem(
                400,
                "not_a_proxy_request",
                "This is an HTTP proxy: set HTTP_PROXY to this address and ask for an absolute"
                " URL. No payment was made.",
            )
        scheme = url.scheme.lower()
        if scheme not in DEFAULT_PORTS:
            raise Problem(
                400, "scheme_not_supported", "Only http and https URLs go through this proxy."
            )
        agent, session, _ = self._credential(fields)
        if url.port == 0:
            raise Problem(400, "bad_request", "Port 0 is not a port.")
        origin = Origin(scheme, _host(url.raw_host, "bad_request"), url.port)
        fields.session = fields.session or session
        return Target(agent, origin, _origin_form(head))

    def connect(self, head: RequestHead, fields: RequestFields) -> tuple[Caller, str, int]:
        agent, session, token = self._credential(fields)
        host, port = head.url.raw_host, head.url.explicit_port
        if not host or not port or "@" in head.path:
            raise Problem(400, "bad_connect", "CONNECT needs a host and a port, as host:443.")
        caller = Caller(agent, fields.session or session, self._gate.holder(token))
        return caller, _host(host, "bad_connect"), port

    def _credential(self, fields: RequestFields) -> tuple[Agent, str | None, str]:
        """Who asks, in which session, by which token."""
        agent, session, token = None, "", ""
        credentials = basic_credentials(fields.proxy_authorization)
        if credentials is not None:
            user, token = credentials
            name, _, session = user.partition("~")
            agent = self._gate.by_credentials(name, token)
        if agent is None:
            raise _no_credential("was not accepted" if fields.proxy_authorization else "is missing")
        return agent, session or None, token


class TunnelRouter:
    """What is inside a tunnel: requests to the one origin that it was opened to."""

    def __init__(self, caller: Caller, origin: Origin) -> None:
        self.origin = origin
        self._caller = caller

    def route(self, head: RequestHead, fields: RequestFields) -> Target:
        agent = self._caller.still()
        if agent is None:  # the token has ended since the CONNECT
            raise _no_credential("was not accepted", last=True)
        path = target_bytes(head)
        if head.url.absolute:  # odd in here, but clients do it
            named = Origin(
                head.url.scheme.lower(),
                _host(head.url.raw_host or "", "bad_request"),
                head.url.port or 0,
            )
            path = _origin_form(head)
        else:
            named = _named_by_host(head, self.origin)
        if named != self.origin:
            raise Problem(
                421,
                "misdirected_request",
                f"This tunnel leads to {self.origin.key}, and the request in it names"
                " another host. Nothing was sent or paid.",
            )
        fields.session = fields.session or self._caller.session
        return Target(agent, self.origin, path)

    def connect(self, head: RequestHead, fields: RequestFields) -> tuple[Caller, str, int]:
        raise Problem(405, "method_not_allowed", "There is no CONNECT inside a CONNECT.")


class MountRouter:
    """A reverse proxy: `/NAME/...` is the provider of that name.

    The agent's token comes as Autopay-Token, as `Authorization: Bearer`, or in the path
    (`/~TOKEN/NAME/...`) where the provider needs Authorization for itself. It never goes on.
    """

    def __init__(self, gate: Gate, upstreams: Mapping[str, str]) -> None:
        """`upstreams` maps a name to an http(s) URL, which may have a base path."""
        self._gate = gate
        self._mounts: dict[bytes, MountPoint] = {}
        for name, upstream in upstreams.items():
            inner = urlsplit(upstream).path.rstrip("/").encode()
            outer = b"/" + name.encode()
            self._mounts[name.encode()] = MountPoint(name, origin_of(upstream), outer, inner)

    def route(self, head: RequestHead, fields: RequestFields) -> Target:
        path = target_bytes(head)
        if not path.startswith(b"/"):
            raise Problem(
                400,
                "not_an_origin_form_request",
                "This listener serves named providers under /NAME/...; it is not an HTTP proxy.",
            )
        agent, path, prefix = self._agent(path, fields)
        name, slash, rest = path[1:].partition(b"/")
        bare, question, query = name.partition(b"?")
        if bare == MOUNT:
            return Target(agent, ORIGIN, slash + rest or b"/")
        if bare == INTENTS:
            intent = re.split(rb"[/?]", rest, maxsplit=1)[0]
            below = rest[len(intent) :]
            if not below.startswith(b"/"):
                below = b"/" + below
            return Target(agent, intent_origin(intent.decode("latin-1")), below)
        mount = self._mounts.get(bare)
        if mount is None or (slash and question):
            known = ", ".join(sorted(m.name for m in self._mounts.values())) or "none"
            raise Problem(
                404,
                "no_such_provider",
                f"No provider is mounted here. Mounted providers: {known}. Add one to"
                ' autopay.toml as [providers.NAME] upstream = "https://...".',
            )
        inner = mount.inner + (slash + rest if slash else b"/" + question + query)
        if prefix:
            mount = MountPoint(mount.name, mount.origin, prefix + mount.outer, mount.inner)
        return Target(agent, mount.origin, inner, mount)

    def connect(self, head: RequestHead, fields: RequestFields) -> tuple[Caller, str, int]:
        raise Problem(405, "method_not_allowed", "This listener is not an HTTP proxy.")

    def _agent(self, path: bytes, fields: RequestFields) -> tuple[Agent, bytes, bytes]:
        """The agent, the path without its token, and the prefix that was taken off."""
        prefix, token = b"", b""
        if path.startswith(b"/~"):
            token, slash, rest = path[2:].partition(b"/")
            prefix, path = b"/~" + token, slash + rest
        elif fields.token is not None:
            token = fields.token
        elif fields.authorization is not None and fields.authorization[:7].lower() == b"bearer ":
            token = fields.authorization[7:].strip()
        agent = self._gate.by_token(token.decode("ascii", "replace")) if token else None
        if agent is None:
            raise Problem(
                401,
                "authentication_required",
                "Send the agent's token as Autopay-Token, as Authorization: Bearer, or in the path"
                " as /~TOKEN/NAME/... (`autopay agent add NAME` prints one). Nothing was sent or"
                " paid.",
                headers=((b"WWW-Authenticate", b'Bearer realm="autopay"'),),
            )
        # Wherever it came: in Authorization, or in a Referer that repeats the path.
        fields.lines = [line for line in fields.lines if token not in line]
        return agent, path, prefix


def origin_of(url: str) -> Origin:
    """The provider of an http(s) URL. Raises ValueError, in one line, for what has none."""
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return Origin(parts.scheme, plain_host(parts.hostname or ""), port)


def _no_credential(said: str, *, last: bool = False) -> Problem:
    return Problem(
        407,
        "proxy_authentication_required",
        f"The agent's credential {said}: set HTTP_PROXY=http://AGENT:TOKEN@HOST:PORT"
        " (`autopay agent add NAME` prints it). Nothing was sent or paid.",
        headers=((b"Proxy-Authenticate", b'Basic realm="autopay", charset="UTF-8"'),),
        last=last,
    )


def basic_credentials(value: bytes | None) -> tuple[str, str] | None:
    """(name, token) of a Basic credential, or None."""
    if value is None or value[:6].lower() != b"basic ":
        return None
    try:
        name, colon, token = base64.b64decode(value[6:].strip(), validate=True).partition(b":")
        return (name.decode(), token.decode()) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _host(written: str, code: str) -> str:
    """A host that a program asks for, in its one spelling; Problem if it has none."""
    try:
        return plain_host(written)
    except ValueError as error:
        raise Problem(400, code, f"{written}: {error}. Nothing was sent or paid.") from None


def _named_by_host(head: RequestHead, origin: Origin) -> Origin:
    """The origin that the Host header names, given the scheme and port of the connection."""
    host = header(head.raw_headers, b"host")
    if host is None:  # HTTP/1.0
        return origin
    try:
        parts = urlsplit(f"{origin.scheme}://{host.decode('ascii')}")
        port = parts.port or DEFAULT_PORTS[origin.scheme]
        # A Host without a port is taken for the port of the tunnel: clients differ on it.
        return Origin(
            origin.scheme,
            plain_host(parts.hostname or ""),
            origin.port if parts.port is None else port,
        )
    except ValueError:
        return Origin(origin.scheme, "", 0)


def target_bytes(head: RequestHead) -> bytes:
    """The request target, byte for byte."""
    return head.path.encode("utf-8", "surrogateescape")


def _origin_form(head: RequestHead) -> bytes:
    """An absolute-form target's path and query, byte for byte (RFC 9112 section 3.2.1)."""
    target = target_bytes(head).partition(b"#")[0]
    start = target.find(b"//") + 2
    ends = [at for at in (target.find(b"/", start), target.find(b"?", start)) if at >= 0]
    path = target[min(ends) :] if ends else b""
    if not path:
        return b"*" if head.method == "OPTIONS" else b"/"
    return path if path.startswith(b"/") else b"/" + path


def rewrite_location(lines: list[bytes], mount: MountPoint) -> list[bytes]:
    """A mounted provider's redirect to itself, as the program has to ask for it."""
    return [_relocated(line, mount) if line[:9].lower() == b"location:" else line for line in lines]


def _relocated(line: bytes, mount: MountPoint) -> bytes:
    value = line[9:].strip()
    base = mount.origin.scheme.encode() + b"://" + mount.origin.authority
    if value.startswith(base) and value[len(base) : len(base) + 1] in (b"", b"/", b"?"):
        value = value[len(base) :] or b"/"
    local = value.startswith(b"/") and not value.startswith(b"//")
    inner = len(mount.inner)
    if local and value.startswith(mount.inner) and value[inner : inner + 1] in (b"", b"/", b"?"):
        return b"Location: " + mount.outer + value[inner:]
    return line
