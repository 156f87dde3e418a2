"""What a value may look like in the file or in the environment, and what it becomes.

Each reader raises ValueError with the words that end the sentence "KEY = VALUE …".
"""

import ipaddress
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from policies import PolicyError, parse_usd
from proxy.expectation import compiled, content_type, field_paths
from proxy.wire.origin import plain_host

ASKED_AGAIN = (429, 500, 502, 503, 504)
"""The statuses that a provider may mean for now only."""

_SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):([0-9]{1,5})", str(value))
    if match is None or int(match[3]) > 65535:
        raise ValueError('must be "host:port", like "127.0.0.1:8402" or "[::1]:8402"')
    return Address(match[1] or match[2], int(match[3]))


def _maybe_address(value: object) -> Address | None:
    return None if value in ("off", None) else _address(value)


def _size(value: object) -> object:
    match = re.fullmatch(r"([0-9]{1,15})\s*([a-z]*)", str(value).strip().lower())
    if isinstance(value, bool) or match is None or match[2] not in _SIZE_UNITS:
        raise ValueError('must be a whole number of bytes, or a text like "64KiB" or "100MiB"')
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _usd(value: object) -> int:
    if isinstance(value, bool | float) or not isinstance(value, str | int | Decimal):
        raise ValueError('must be an amount in USD, like "0.05"')
    try:
        return parse_usd(format(value, "f") if isinstance(value, Decimal) else str(value))
    except PolicyError as error:
        raise ValueError('must be an amount in USD with at most 6 decimals, like "0.05"') from error


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _database_url(value: object) -> object:
    if value and not re.match(r"postgres(ql)?://", str(value)):
        raise ValueError('must be like "postgresql://user:password@host/database", or empty')
    return value


def _http_url(value: object, example: str, *, bare: bool) -> str:
    text = str(value)
    try:
        url = urlsplit(text)
        plain = not re.search(r"[\s\x00-\x1f\x7f]", text) and url.port != 0
    except ValueError:
        plain = False
    if not plain or url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f'must be an http:// or https:// URL, like "{example}"')
    if bare and (url.query or url.fragment or "@" in url.netloc):
        raise ValueError(f'must have no user, query or fragment, like "{example}"')
    return text


def _upstream(value: object) -> str:
    text = _http_url(value, "https://api.example/v1", bare=True).rstrip("/")
    plain_host(urlsplit(text).hostname or "")  # that it has a name to go by
    return text


def _rpc_url(value: object) -> str:
    return _http_url(value, "https://api.devnet.solana.com", bare=False)


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be a path")
    return Path(value).expanduser().absolute()


def _maybe_path(value: object) -> Path | None:
    return None if value in ("", None) else _path(value)


def _role(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"([a-z_][a-z0-9_]{0,62})?", value):
        raise ValueError('must be a role\'s name, like "autopay_writer", or empty')
    return value


def _existing_file(value: object) -> Path:
    path = _path(value)
    if not path.is_file():
        raise ValueError("must be an existing file")
    return path


def _schema(value: object) -> object:
    """As text, wherever it stands: the file may be gone by the time it is asked."""
    text = value.strip() if isinstance(value, str) else json.dumps(value, default=str)
    if isinstance(value, str | Path) and not text.startswith("{"):
        path = _path(value)
        try:
            text = path.read_text("utf-8")
        except (OSError, ValueError):
            raise ValueError("must be a JSON Schema, or a readable file with one") from None
    compiled(text)
    return text


def _statuses(value: object) -> object:
    if not isinstance(value, list | tuple) or not set(value) <= set(ASKED_AGAIN):
        raise ValueError(f"must be a list of some of {', '.join(map(str, ASKED_AGAIN))}")
    return tuple(value)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0)]
ByteCount = Annotated[int, BeforeValidator(_size), Field(ge=0)]
Count = Annotated[int, BeforeValidator(_number), Field(gt=0)]
CountOrZero = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Tries = Annotated[int, BeforeValidator(_number), Field(ge=0, le=3)]
Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)]
MicroUsd = Annotated[int, BeforeValidator(_usd)]
Listener = Annotated[Address, BeforeValidator(_address)]
MaybeListener = Annotated[Address | None, BeforeValidator(_maybe_address)]
Hours = Annotated[float, BeforeValidator(_number), Field(gt=0, le=8760, allow_inf_nan=False)]
RoleName = Annotated[str, BeforeValidator(_role)]
MaybeLocation = Annotated[Path | None, BeforeValidator(_maybe_path)]
Location = Annotated[Path, BeforeValidator(_path)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Statuses = Annotated[tuple[int, ...], BeforeValidator(_statuses)]
SchemaText = Annotated[str, BeforeValidator(_schema)]
ContentType = Annotated[str, BeforeValidator(content_type)]
FieldPaths = Annotated[tuple[str, ...], BeforeValidator(field_paths)]
ExistingFile = Annotated[Path, BeforeValidator(_existing_file)]
Upstream = Annotated[str, BeforeValidator(_upstream)]
RpcUrl = Annotated[str, BeforeValidator(_rpc_url)]


def _host_pattern(value: object) -> str:
    text = str(value).strip().lower()
    if not isinstance(value, str) or not re.fullmatch(r"(\*\.)?[a-z0-9_.:-]{1,253}", text):
        raise ValueError('must be a host, like "api.example.com", or "*.example.com"')
    return "*." * text.startswith("*.") + plain_host(text.removeprefix("*."))


def _upstream_proxy(value: object) -> str:
    text = str(value)
    if not text:
        return text
    try:
        url = urlsplit(text)
        whole = bool(url.hostname) and url.port != 0 and url.scheme == "http"
        whole = whole and not (url.query or url.fragment or url.path.strip("/"))
    except ValueError:
        whole = False
    if not whole or re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError('must be like "http://user:password@proxy.example:3128", or empty')
    return text


def _bypass(value: object) -> str:
    text = str(value).strip().lower()
    if "/" not in text:
        return _host_pattern(value)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError('must be a host, "*.example.com" or a network, "10.0.0.0/8"') from None


def _comma_separated(value: object) -> object:
    """An environment variable can hold no list."""
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


DatabaseUrl = Annotated[str, BeforeValidator(_database_url)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
HostPattern = Annotated[str, BeforeValidator(_host_pattern)]
UpstreamProxy = Annotated[str, BeforeValidator(_upstream_proxy)]
Bypass = Annotated[
    tuple[Annotated[str, BeforeValidator(_bypass)], ...], BeforeValidator(_comma_separated)
]
RpcUrls = Annotated[tuple[RpcUrl, ...], BeforeValidator(_comma_separated)]


def _wallet_name(value: object) -> object:
    if value == "default":
        raise ValueError("is the name of the one under [wallet]: give this one another")
    return value


WalletName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=63), BeforeValidator(_wallet_name)
]
ProviderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=63)]
