"""Our own eyes on the chain: the few JSON-RPC calls that payments need.

Every failure, of whatever kind, becomes Unpayable("rpc_unavailable") with one line that names the
host and the kind of failure. Never more of the URL: paths and queries of RPC URLs are API keys.

On aiohttp rather than on solana-py's AsyncClient, because (measured, 0.39 with solders 0.27):
rate-limit answers (-32005, -32002 without `data`) make its parser panic, a BaseException with a
backtrace on stderr; it logs whole URLs at INFO; it cannot be told to ignore HTTP_PROXY, which on
this machine is likely to be ourselves; 510 µs of CPU per call against 145; 84 ms and 12 MB more to
import.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from solders.hash import Hash, ParseHashError
from solders.pubkey import Pubkey

from proxy.chains import Unpayable

# What a supermajority has voted for; finalized blockhashes are already 13 seconds old.
_CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True)
class Blockhash:
    """A recent blockhash, what it lives until, and the slot of the answer that gave it."""

    hash: str
    last_valid_block_height: int
    slot: int


@dataclass(frozen=True, slots=True)
class Account:
    """An account: the program that owns it, and its bytes."""

    owner: Pubkey
    data: bytes


class RpcRefusal(Unpayable):
    """The node answered, with a JSON-RPC error. `rpc_code` is its number, None if it had none."""

    def __init__(self, detail: str, rpc_code: int | None) -> None:
        super().__init__("rpc_unavailable", detail, retry_after=2)
        self.rpc_code = rpc_code


class Rpc:
    """A Solana RPC node. `calls` counts requests, `errors` those that failed."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        """`timeout` is in seconds, over a whole call. Raises ValueError for a URL of no use."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a Solana RPC URL starts with http:// or https:// and names a host")
        self.host = parts.hostname
        self.name = parts.netloc.rpartition("@")[2]
        self.calls = 0
        self.errors = 0
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def latest_blockhash(self) -> Blockhash:
        """The newest confirmed blockhash. Raises Unpayable."""
        answer = await self.call("getLatestBlockhash", {"commitment": _CONFIRMED})
        try:
            value = answer["value"]
            return Blockhash(
                hash=str(Hash.from_string(value["blockhash"])),
                last_valid_block_height=_height(value["lastValidBlockHeight"]),
                slot=_height(answer["context"]["slot"]),
            )
        except (LookupError, TypeError, ValueError, ParseHashError):
            raise self._unintelligible() from None

    async def block_height(self) -> int:
        """The confirmed one. Raises Unpayable."""
        answer = await self.call("getBlockHeight", {"commitment": _CONFIRMED})
        try:
            return _height(answer)
        except TypeError:
            raise self._unintelligible() from None

    async def accounts(self, keys: list[Pubkey]) -> list[Account | None]:
        """The accounts at these addresses, in order, None for missing ones. Raises Unpayable."""
        options = {"commitment": _CONFIRMED, "encoding": "base64"}
        answer = await self.call("getMultipleAccounts", [str(key) for key in keys], options)
        try:
            found = [None if value is None else _account(value) for value in answer["value"]]
        except (LookupError, TypeError, ValueError):
            raise self._unintelligible() from None
        if len(found) != len(keys):
            raise self._unintelligible()
        return found

    async def call(self, method: str, *params: Any) -> Any:
        """Any method; the `result` as parsed JSON. Raises Unpayable."""
        self.calls += 1
        if self._session is None:
            # Made here, within the loop; a proxy in the environment is not used, it may be us.
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        question = {"jsonrpc": "2.0", "id": self.calls, "method": method, "params": params}
        try:
            async with self._session.post(
                self._url, json=question, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise self._unavailable(f"HTTP status {response.status}")
                answer = json.loads(await response.read())
        except TimeoutError:
            raise self._unavailable(f"no answer within {self._timeout.total:g} s") from None
        except aiohttp.ClientError as error:
            # Its kind alone: the text of some of these is the URL.
            raise self._unavailable(type(error).__name__) from None
        except (ValueError, RecursionError):
            raise self._unintelligible() from None
        if isinstance(answer, dict) and "result" in answer:
            return answer["result"]
        refusal = answer.get("error") if isinstance(answer, dict) else None
        if isinstance(refusal, dict):
            code = refusal.get("code")
            number = code if type(code) is int else None
            words = "no code" if number is None else f"code {number}"
            failure = self._unavailable(f"it refused the call ({words})")
            raise RpcRefusal(failure.detail, number)
        raise self._unintelligible()

    def _unintelligible(self) -> Unpayable:
        return self._unavailable("its answer is not what Solana nodes say")

    def _unavailable(self, why: str) -> Unpayable:
        self.errors += 1
        return Unpayable(
            "rpc_unavailable", f"the Solana RPC at {self.host} failed: {why}", retry_after=2
        )


def _account(value: Any) -> Account:
    data, encoding = value["data"]
    if encoding != "base64":
        raise ValueError("asked for base64")
    return Account(Pubkey.from_string(value["owner"]), base64.b64decode(data, validate=True))


def _height(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("a height is a whole number")
    return value
