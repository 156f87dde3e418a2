"""The JSON shapes of a Solana node's answers."""

import base64
from typing import Any

from solders.account import Account
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from proxy.localnet import base58
from proxy.localnet.blocks import Blocks, Commitment
from proxy.localnet.chain import LocalChain
from proxy.localnet.history import Landed, TokenBalance
from proxy.localnet.params import INVALID_REQUEST, Config, RpcError, invalid
from proxy.localnet.tokens import TOKEN, read_holding, read_mint

API_VERSION = "2.2.0"
RENT_EXEMPT_EPOCH = 2**64 - 1


def context(blocks: Blocks, commitment: Commitment, value: Any) -> dict[str, Any]:
    slot = blocks.slot(blocks.at(commitment))
    return {"context": {"slot": slot, "apiVersion": API_VERSION}, "value": value}


def token_amount(amount: int, decimals: int) -> dict[str, Any]:
    whole, fraction = divmod(amount, 10**decimals)
    text = f"{whole}.{fraction:0{decimals}}".rstrip("0").rstrip(".") if decimals else str(whole)
    return {
        "amount": str(amount),
        "decimals": decimals,
        # A float in the format itself; nobody who counts money reads it.
        "uiAmount": float(text),
        "uiAmountString": text,
    }


def account(chain: LocalChain, found: Account | None, config: Config) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "data": _data(chain, found, config),
        "executable": found.executable,
        "lamports": found.lamports,
        "owner": str(found.owner),
        "rentEpoch": RENT_EXEMPT_EPOCH,
        "space": len(found.data),
    }


def _data(chain: LocalChain, found: Account, config: Config) -> Any:
    encoding = config.get("encoding", str, "base58")
    data = bytes(found.data)
    if encoding == "jsonParsed":
        parsed = _parsed(chain, found)
        if parsed is not None:
            program = "spl-token" if found.owner == TOKEN else "spl-token-2022"
            return {"program": program, "parsed": parsed, "space": len(data)}
        encoding = "base64"  # what a node falls back to for a program it cannot read
    window = config.get("dataSlice", dict)
    if window is not None:
        start = Config(window).get("offset", int, 0)
        data = data[start : start + Config(window).get("length", int, 0)]
    if encoding == "base64":
        return [base64.b64encode(data).decode(), "base64"]
    if encoding == "base58":
        if len(data) > 128:
            raise RpcError(
                INVALID_REQUEST,
                "Encoded binary (base 58) data should be less than 128 bytes, "
                "please use Base64 encoding.",
            )
        return [base58.encode(data), "base58"]
    raise invalid(f"unsupported encoding: {encoding}")


def _parsed(chain: LocalChain, found: Account) -> dict[str, Any] | None:
    mint = read_mint(found)
    if mint is not None:
        info: dict[str, Any] = {
            "decimals": mint.decimals,
            "freezeAuthority": None,
            "isInitialized": True,
            "mintAuthority": None,
            "supply": str(mint.supply),
        }
        return {"type": "mint", "info": info}
    held = read_holding(found)
    if held is None:
        return None
    info = {
        "isNative": False,
        "mint": str(held.mint),
        "owner": str(held.owner),
        "state": "initialized",
        "tokenAmount": token_amount(held.amount, chain.decimals(held.mint) or 0),
    }
    return {"type": "account", "info": info}


def status(blocks: Blocks, record: Landed) -> dict[str, Any]:
    level = blocks.level(record.height)
    return {
        "slot": record.slot,
        "confirmations": None if level == "finalized" else blocks.height - record.height,
        "err": record.err,
        "status": _result(record.err),
        "confirmationStatus": level,
    }


def index_entry(blocks: Blocks, record: Landed) -> dict[str, Any]:
    """One line of getSignaturesForAddress."""
    return {
        "signature": str(record.signature),
        "slot": record.slot,
        "err": record.err,
        "memo": record.memo,
        "blockTime": record.block_time,
        "confirmationStatus": blocks.level(record.height),
    }


def transaction(record: Landed, encoding: str) -> dict[str, Any]:
    tx = record.transaction
    return {
        "slot": record.slot,
        "blockTime": record.block_time,
        "version": 0 if isinstance(tx.message, MessageV0) else "legacy",
        "transaction": _encoded_transaction(tx, encoding),
        "meta": _meta(record),
    }


def _encoded_transaction(tx: VersionedTransaction, encoding: str) -> Any:
    if encoding == "base64":
        return [base64.b64encode(bytes(tx)).decode(), "base64"]
    if encoding == "base58":
        return [base58.encode(bytes(tx)), "base58"]
    if encoding != "json":
        raise invalid(f"unsupported encoding: {encoding}. Supported: base58, base64, json")
    message = tx.message
    header = message.header
    body: dict[str, Any] = {
        "accountKeys": [str(key) for key in message.account_keys],
        "header": {
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
            "numRequiredSignatures": header.num_required_signatures,
        },
        "instructions": [
            {
                "programIdIndex": instruction.program_id_index,
                "accounts": list(instruction.accounts),
                "data": base58.encode(bytes(instruction.data)),
                "stackHeight": 1,
            }
            for instruction in message.instructions
        ],
        "recentBlockhash": str(message.recent_blockhash),
    }
    if isinstance(message, MessageV0):
        body["addressTableLookups"] = [
            {
                "accountKey": str(lookup.account_key),
                "readonlyIndexes": list(lookup.readonly_indexes),
                "writableIndexes": list(lookup.writable_indexes),
            }
            for lookup in message.address_table_lookups
        ]
    return {"signatures": [str(signature) for signature in tx.signatures], "message": body}


def _meta(record: Landed) -> dict[str, Any]:
    return {
        "err": record.err,
        "status": _result(record.err),
        "fee": record.fee,
        "preBalances": list(record.pre_balances),
        "postBalances": list(record.post_balances),
        "preTokenBalances": [_token_balance(balance) for balance in record.pre_tokens],
        "postTokenBalances": [_token_balance(balance) for balance in record.post_tokens],
        "innerInstructions": [],
        "loadedAddresses": {"readonly": [], "writable": []},
        "logMessages": list(record.logs),
        "rewards": [],
        "computeUnitsConsumed": record.compute_units,
    }


def _token_balance(balance: TokenBalance) -> dict[str, Any]:
    return {
        "accountIndex": balance.account_index,
        "mint": str(balance.holding.mint),
        "owner": str(balance.holding.owner),
        "programId": str(balance.program),
        "uiTokenAmount": token_amount(balance.holding.amount, balance.decimals),
    }


def keyed_account(address: Pubkey, body: dict[str, Any] | None) -> dict[str, Any]:
    return {"pubkey": str(address), "account": body}


def _result(err: Any) -> dict[str, Any]:
    return {"Ok": None} if err is None else {"Err": err}


def describe(err: Any) -> str:
    """agave's sentence for the errors that clients are known to match on; else its JSON name."""
    if err == "BlockhashNotFound":
        return "Blockhash not found"
    if err == "AlreadyProcessed":
        return "This transaction has already been processed"
    if err == "AccountNotFound":
        return "Attempt to debit an account but found no record of a prior credit."
    if isinstance(err, dict) and "InstructionError" in err:
        index, reason = err["InstructionError"]
        custom = isinstance(reason, dict) and "Custom" in reason
        text = f"custom program error: {reason['Custom']:#x}" if custom else reason
        return f"Error processing Instruction {index}: {text}"
    return str(err)
