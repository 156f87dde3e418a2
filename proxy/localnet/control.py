"""`localnet_…`: the chain's controls as JSON-RPC methods, for callers in other processes.

Each takes one object of options (localnet_advance and localnet_drop a number). The answer is null
where nothing else is said.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from solders.signature import Signature

from proxy.localnet.chain import LocalChain
from proxy.localnet.faults import Fault, Faults
from proxy.localnet.params import Params, RpcError, invalid, signature
from proxy.localnet.tokens import MINTS


class Node(Protocol):
    """What the controls need of the server they are served by."""

    @property
    def chain(self) -> LocalChain: ...
    @property
    def faults(self) -> Faults: ...
    @property
    def calls(self) -> Mapping[str, int]: ...
    def pace(self, slot_seconds: float | None) -> None: ...


def advance(node: Node, params: Params) -> Any:
    """[blocks] → the new block height."""
    node.chain.advance(params.number(0))
    return node.chain.blocks.height


def set_options(node: Node, params: Params) -> Any:
    """Any of slot_seconds (0: only on demand), confirmed_after and finalized_after, index_lag."""
    options = params.config(0)
    slot_seconds = options.get("slot_seconds", (int, float))
    if slot_seconds is not None:
        node.pace(slot_seconds or None)
    confirmed, finalized = options.get("confirmed_after", int), options.get("finalized_after", int)
    if (confirmed is None) != (finalized is None):
        raise invalid("confirmed_after and finalized_after are set together")
    if confirmed is not None:
        try:
            node.chain.blocks.set_lag(confirmed, finalized)
        except ValueError as error:
            raise invalid(str(error)) from None
    node.chain.index_lag = options.get("index_lag", int, node.chain.index_lag)
    return None


def fund(node: Node, params: Params) -> Any:
    """{owner, mint, amount} → the token account; {owner, lamports} → the airdrop's signature."""
    options = params.config(0)
    owner = options.get("owner", str, "")
    try:
        lamports = options.get("lamports", int)
        if lamports is not None:
            return str(node.chain.airdrop(owner, lamports))
        mint = options.get("mint", str, "")
        if mint not in {str(known) for known in MINTS}:
            raise invalid(f"unknown mint {mint!r}")
        return str(node.chain.fund(owner, mint, options.get("amount", int, 0)))
    except ValueError as error:
        raise invalid(f"owner: {error}") from None


def drop(node: Node, params: Params) -> Any:
    """[count]: that many of the next sent transactions are lost."""
    node.chain.drop_next(params.number(0))
    return None


def hold(node: Node, _params: Params) -> Any:
    node.chain.hold()
    return None


def release(node: Node, _params: Params) -> Any:
    """→ the signatures that landed."""
    return [str(signed) for signed in node.chain.release()]


def unindex(node: Node, params: Params) -> Any:
    """[signature, …]: getSignaturesForAddress never shows these."""
    hidden: set[Signature] = {signature(text) for text in params.items(0, 1_000)}
    node.chain.unindexed |= hidden
    return None


def fault(node: Node, params: Params) -> Any:
    """{method, delay, code and message or status, after, times}: see faults.Fault."""
    options = params.config(0)
    code = options.get("code", int)
    error = None if code is None else RpcError(code, options.get("message", str, "on request"))
    node.faults.add(
        Fault(
            method=options.get("method", str, "*"),
            delay=float(options.get("delay", (int, float), 0)),
            error=error,
            status=options.get("status", int),
            after=options.get("after", bool, False),
            times=options.get("times", int),
        )
    )
    return None


def clear_faults(node: Node, _params: Params) -> Any:
    node.faults.clear()
    return None


def calls(node: Node, _params: Params) -> Any:
    """→ how often each method was called."""
    return dict(node.calls)


CONTROLS = {
    "localnet_advance": advance,
    "localnet_calls": calls,
    "localnet_clearFaults": clear_faults,
    "localnet_drop": drop,
    "localnet_fault": fault,
    "localnet_fund": fund,
    "localnet_hold": hold,
    "localnet_release": release,
    "localnet_set": set_options,
    "localnet_unindex": unindex,
}
