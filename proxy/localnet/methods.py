"""The methods of a Solana node, each a function of the chain and the call's parameters."""

from collections.abc import Callable
from typing import Any

from solders.message import MessageV0, from_bytes_versioned
from solders.pubkey import Pubkey

from proxy.localnet import answers
from proxy.localnet.blocks import SKIPPED_SLOTS, Commitment
from proxy.localnet.chain import LAMPORTS_PER_SIGNATURE, LocalChain, signatures_hold
from proxy.localnet.history import Landed
from proxy.localnet.params import (
    MIN_CONTEXT_SLOT,
    PREFLIGHT_FAILURE,
    SIGNATURE_FAILURE,
    UNSUPPORTED_VERSION,
    Config,
    Params,
    RpcError,
    encoded_bytes,
    invalid,
    pubkey,
    signature,
)
from proxy.localnet.tokens import read_holding

Method = Callable[[LocalChain, Params], Any]

SLOTS_PER_EPOCH = 432_000
# A node's status cache; older ones need searchTransactionHistory.
RECENT_STATUSES = 300
MAX_SIGNATURES = 1_000
MAX_STATUSES = 256
MAX_ACCOUNTS = 100


def _bank(chain: LocalChain, config: Config, option: str = "commitment") -> Commitment:
    """The commitment asked for; refused while the chain there is before minContextSlot."""
    commitment = config.commitment(option)
    slot = chain.blocks.slot(chain.blocks.at(commitment))
    if slot < config.get("minContextSlot", int, 0):
        message = "Minimum context slot has not been reached"
        raise RpcError(MIN_CONTEXT_SLOT, message, {"contextSlot": slot})
    return commitment


# Accounts


def get_account_info(chain: LocalChain, params: Params) -> Any:
    config = params.config(1)
    commitment = _bank(chain, config)
    found = chain.account(params.pubkey(0), commitment)
    return answers.context(chain.blocks, commitment, answers.account(chain, found, config))


def get_multiple_accounts(chain: LocalChain, params: Params) -> Any:
    config = params.config(1)
    commitment = _bank(chain, config)
    addresses = [pubkey(text) for text in params.items(0, MAX_ACCOUNTS)]
    found = [chain.account(address, commitment) for address in addresses]
    bodies = [answers.account(chain, account, config) for account in found]
    return answers.context(chain.blocks, commitment, bodies)


def get_balance(chain: LocalChain, params: Params) -> Any:
    config = params.config(1)
    commitment = _bank(chain, config)
    found = chain.account(params.pubkey(0), commitment)
    return answers.context(chain.blocks, commitment, found.lamports if found else 0)


def get_token_account_balance(chain: LocalChain, params: Params) -> Any:
    config = params.config(1)
    commitment = _bank(chain, config)
    found = chain.account(params.pubkey(0), commitment)
    if found is None:
        raise invalid("Invalid param: could not find account")
    held = read_holding(found)
    if held is None:
        raise invalid("Invalid param: not a Token account")
    amount = answers.token_amount(held.amount, chain.decimals(held.mint) or 0)
    return answers.context(chain.blocks, commitment, amount)


def get_token_accounts_by_owner(chain: LocalChain, params: Params) -> Any:
    wanted, config = params.config(1), params.config(2)
    commitment = _bank(chain, config)
    mint, program = wanted.get("mint", str), wanted.get("programId", str)
    if (mint is None) == (program is None):
        raise invalid("Invalid params: expected either mint or programId")
    wanted_mint: Pubkey | None = pubkey(mint) if mint else None
    wanted_program: Pubkey | None = pubkey(program) if program else None
    found = []
    for address, account in chain.holdings(params.pubkey(0), commitment):
        held = read_holding(account)
        if (held and held.mint == wanted_mint) or account.owner == wanted_program:
            found.append(answers.keyed_account(address, answers.account(chain, account, config)))
    return answers.context(chain.blocks, commitment, found)


def get_minimum_balance_for_rent_exemption(chain: LocalChain, params: Params) -> Any:
    return chain.rent_exempt(params.number(0))


def request_airdrop(chain: LocalChain, params: Params) -> Any:
    return str(chain.airdrop(params.pubkey(0), params.number(1)))


# Time


def get_latest_blockhash(chain: LocalChain, params: Params) -> Any:
    config = params.config(0)
    commitment = _bank(chain, config)
    blockhash, last_valid = chain.blocks.latest(commitment)
    value = {"blockhash": str(blockhash), "lastValidBlockHeight": last_valid}
    return answers.context(chain.blocks, commitment, value)


def is_blockhash_valid(chain: LocalChain, params: Params) -> Any:
    config = params.config(1)
    commitment = _bank(chain, config)
    valid = chain.blocks.is_valid(params.blockhash(0), commitment)
    return answers.context(chain.blocks, commitment, valid)


def get_block_height(chain: LocalChain, params: Params) -> Any:
    return chain.blocks.at(_bank(chain, params.config(0)))


def get_slot(chain: LocalChain, params: Params) -> Any:
    return chain.blocks.slot(chain.blocks.at(_bank(chain, params.config(0))))


def get_block_time(chain: LocalChain, params: Params) -> Any:
    return chain.block_time(params.number(0) - SKIPPED_SLOTS)


def get_first_available_block(chain: LocalChain, _params: Params) -> Any:
    return chain.history.first_slot


def get_epoch_info(chain: LocalChain, params: Params) -> Any:
    height = chain.blocks.at(_bank(chain, params.config(0)))
    slot = chain.blocks.slot(height)
    return {
        "absoluteSlot": slot,
        "blockHeight": height,
        "epoch": slot // SLOTS_PER_EPOCH,
        "slotIndex": slot % SLOTS_PER_EPOCH,
        "slotsInEpoch": SLOTS_PER_EPOCH,
        "transactionCount": len(chain.history),
    }


def get_health(_chain: LocalChain, _params: Params) -> Any:
    return "ok"


def get_version(_chain: LocalChain, _params: Params) -> Any:
    return {"solana-core": answers.API_VERSION, "feature-set": 0}


def get_genesis_hash(chain: LocalChain, _params: Params) -> Any:
    return chain.genesis


# History


def get_signatures_for_address(chain: LocalChain, params: Params) -> Any:
    """Newest first. As in agave an unknown `before` finds nothing, an unknown `until` all."""
    config = params.config(1)
    height = chain.blocks.at(_committed(chain, config))
    limit = config.get("limit", int, MAX_SIGNATURES)
    if not 1 <= limit <= MAX_SIGNATURES:
        raise invalid(f"Invalid limit; max {MAX_SIGNATURES}")
    before, until = config.get("before", str), config.get("until", str)
    before = signature(before) if before else None
    until = signature(until) if until else None
    seen_to = min(height, chain.blocks.height - chain.index_lag)
    started = before is None
    lines: list[dict[str, Any]] = []
    for record in chain.history.newest_first(params.pubkey(0)):
        if record.signature == until or len(lines) == limit:
            break
        if started and record.height <= seen_to and record.signature not in chain.unindexed:
            lines.append(answers.index_entry(chain.blocks, record))
        started = started or record.signature == before
    return lines


def get_transaction(chain: LocalChain, params: Params) -> Any:
    config = params.config_or_encoding(1)
    height = chain.blocks.at(_committed(chain, config))
    record = chain.history.get(signature(params.text(0)))
    if record is None or record.height > height:
        return None
    supported = config.get("maxSupportedTransactionVersion", int)
    if isinstance(record.transaction.message, MessageV0) and supported is None:
        raise RpcError(
            UNSUPPORTED_VERSION,
            "Transaction version (0) is not supported by the requesting client. Please try the "
            "request again with the following configuration parameter: "
            '"maxSupportedTransactionVersion": 0',
        )
    return answers.transaction(record, config.get("encoding", str, "json"))


def get_signature_statuses(chain: LocalChain, params: Params) -> Any:
    search = params.config(1).get("searchTransactionHistory", bool, False)
    oldest = 0 if search else chain.blocks.height - RECENT_STATUSES
    statuses = []
    for text in params.items(0, MAX_STATUSES):
        record: Landed | None = chain.history.get(signature(text))
        known = record is not None and record.height > oldest
        statuses.append(answers.status(chain.blocks, record) if record and known else None)
    return answers.context(chain.blocks, "processed", statuses)


def _committed(chain: LocalChain, config: Config) -> Commitment:
    commitment = _bank(chain, config)
    if commitment == "processed":
        raise invalid("Method does not support commitment below `confirmed`")
    return commitment


# Transactions


def simulate_transaction(chain: LocalChain, params: Params) -> Any:
    config = params.config(1)
    commitment = _bank(chain, config)
    tx = params.transaction(0, config.get("encoding", str, "base58"))
    replace = config.get("replaceRecentBlockhash", bool, False)
    if config.get("sigVerify", bool, False):
        if replace:
            raise invalid("sigVerify may not be used with replaceRecentBlockhash")
        if not signatures_hold(tx):
            raise RpcError(SIGNATURE_FAILURE, "Transaction signature verification failure")
    run = chain.simulate(tx, commitment=commitment, check_blockhash=not replace)
    value: dict[str, Any] = {
        "err": run.err,
        "logs": list(run.logs),
        "accounts": None,
        "unitsConsumed": run.compute_units,
        "returnData": None,
        "innerInstructions": None,
    }
    if replace:
        blockhash, last_valid = chain.blocks.latest(commitment)
        value["replacementBlockhash"] = {
            "blockhash": str(blockhash),
            "lastValidBlockHeight": last_valid,
        }
    return answers.context(chain.blocks, commitment, value)


def send_transaction(chain: LocalChain, params: Params) -> Any:
    """Answers with the signature, which promises nothing: without preflight not even validity."""
    config = params.config(1)
    commitment = _bank(chain, config, "preflightCommitment")
    tx = params.transaction(0, config.get("encoding", str, "base58"))
    if not config.get("skipPreflight", bool, False):
        if not signatures_hold(tx):
            raise RpcError(SIGNATURE_FAILURE, "Transaction signature verification failure")
        run = chain.simulate(tx, commitment=commitment)
        if run.err is not None:
            raise RpcError(
                PREFLIGHT_FAILURE,
                f"Transaction simulation failed: {answers.describe(run.err)}",
                {
                    "err": run.err,
                    "logs": list(run.logs),
                    "accounts": None,
                    "unitsConsumed": run.compute_units,
                    "returnData": None,
                    "innerInstructions": None,
                },
            )
    chain.submit(tx)
    return str(tx.signatures[0])


def get_fee_for_message(chain: LocalChain, params: Params) -> Any:
    config = params.config(1)
    commitment = _bank(chain, config)
    raw = encoded_bytes(params.text(0), "base64")
    try:
        message = from_bytes_versioned(raw)
    except Exception as error:  # solders raises its own BincodeError, which it does not export
        raise invalid(f"failed to deserialize message: {error}") from None
    fee: int | None = None
    if chain.blocks.is_valid(message.recent_blockhash, commitment):
        fee = LAMPORTS_PER_SIGNATURE * message.header.num_required_signatures
    return answers.context(chain.blocks, commitment, fee)


METHODS: dict[str, Method] = {
    "getAccountInfo": get_account_info,
    "getBalance": get_balance,
    "getBlockHeight": get_block_height,
    "getBlockTime": get_block_time,
    "getEpochInfo": get_epoch_info,
    "getFeeForMessage": get_fee_for_message,
    "getFirstAvailableBlock": get_first_available_block,
    "getGenesisHash": get_genesis_hash,
    "getHealth": get_health,
    "getLatestBlockhash": get_latest_blockhash,
    "getMinimumBalanceForRentExemption": get_minimum_balance_for_rent_exemption,
    "getMultipleAccounts": get_multiple_accounts,
    "getSignatureStatuses": get_signature_statuses,
    "getSignaturesForAddress": get_signatures_for_address,
    "getSlot": get_slot,
    "getTokenAccountBalance": get_token_account_balance,
    "getTokenAccountsByOwner": get_token_accounts_by_owner,
    "getTransaction": get_transaction,
    "getVersion": get_version,
    "isBlockhashValid": is_blockhash_valid,
    "requestAirdrop": request_airdrop,
    "sendTransaction": send_transaction,
    "simulateTransaction": simulate_transaction,
}
