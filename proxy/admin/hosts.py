"""By which names the operator's listener may be asked for.

A page in a browser can make a name of its own lead here (DNS rebinding). It can't make the browser
say another name than that in Host; nor can it bring a key, but what needs none would be told too.
"""

import ipaddress
from collections.abc import Sequence

from aiohttp import web

from proxy.wire.problem import Problem


class Hosts:
    """Addresses and `localhost` always; `names` besides: exact, or `*.domain` for all below it."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._exact = {"localhost", *(name for name in names if not name.startswith("*."))}
        self._below = tuple(name[1:] for name in names if name.startswith("*."))

    def check(self, request: web.Request) -> None:
        """Raises Problem. Who says no name at all (HTTP/1.0) is no browser."""
        for host in request.headers.getall("Host", []):
            if not self._is_known(host):
                raise Problem(
                    421,
                    "host_not_allowed",
                    "This name is not one that the operator's listener is asked for by. Use its"
                    " address, or name it in [admin] hosts.",
                )

    def _is_known(self, host: str) -> bool:
        name, _, port = host.rpartition(":")
        if not name or not port.isdecimal():  # no port, or the end of an IPv6 address
            name = host
        name = name.lower().removesuffix(".")
        if name in self._exact or name.endswith(self._below):
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True
