"""The node through its socket: as the `solana` client reads it, and as plain JSON where that hides
something."""

import asyncio
import time

import pytest
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.models import TokenAccountOpts, TxOpts
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction
from solders.transaction_status import (
    InstructionErrorCustom,
    TransactionConfirmationStatus,
    TransactionErrorInstructionError,
)

from proxy.localnet import base58
from proxy.localnet.chain import LocalChain
from proxy.localnet.faults import Fault
from proxy.localnet.params import RpcError
from proxy.localnet.rpc import RpcNode
from proxy.localnet.tokens import (
    CASH,
    MINTS,
    TOKEN,
    TOKEN_2022,
    USDC_DEVNET,
    USDC_MAINNET,
    Holding,
    ata,
    read_holding,
)
from tests.localnet.wallets import Wire, as_base64, call, parties, payment

SKIP = TxOpts(skip_preflight=True, preflight_commitment=Confirmed)
CAREFUL = TxOpts(skip_preflight=False, preflight_commitment=Confirmed)


async def test_a_payment_from_blockhash_to_finality(rpc: AsyncClient, chain: LocalChain) -> None:
    chain.blocks.set_lag(2, 5)
    who = parties(chain)
    latest = (await rpc.get_latest_blockhash(Confirmed)).value
    chain.advance(3)
    tx = payment(who, latest.blockhash)
    signature = (await rpc.send_transaction(tx, CAREFUL)).value
    assert signature == tx.signatures[0]
    levels = []
    for _ in range(6):
        status = (await rpc.get_signature_statuses([signature])).value[0]
        assert status is not None
        assert status.err is None
        levels.append((status.confirmation_status, status.confirmations))
        chain.advance()
    status_names = TransactionConfirmationStatus
    assert levels == [
        (status_names.Processed, 0),
        (status_names.Processed, 1),
        (status_names.Confirmed, 2),
        (status_names.Confirmed, 3),
        (status_names.Confirmed, 4),
        (status_names.Finalized, None),
    ]
    account = ata(who.seller.pubkey(), USDC_DEVNET, TOKEN)
    balance = (await rpc.get_token_account_balance(account, Finalized)).value
    assert (balance.amount, balance.decimals, balance.ui_amount_string) == ("1000", 6, "0.001")


async def test_heights_and_slots_per_commitment(rpc: AsyncClient, chain: LocalChain) -> None:
    chain.blocks.set_lag(2, 32)
    chain.advance(100)
    height = chain.blocks.height
    assert (await rpc.get_block_height(Processed)).value == height
    assert (await rpc.get_block_height(Confirmed)).value == height - 2
    assert (await rpc.get_block_height(Finalized)).value == height - 32
    epoch = (await rpc.get_epoch_info(Finalized)).value
    slot = (await rpc.get_slot(Finalized)).value
    assert (epoch.block_height, epoch.absolute_slot) == (height - 32, slot)
    assert slot > height - 32


async def test_a_blockhash_s_life_as_a_client_sees_it(
    rpc: AsyncClient, wire: Wire, chain: LocalChain
) -> None:
    latest = (await rpc.get_latest_blockhash(Confirmed)).value
    text = str(latest.blockhash)
    confirmed = {"commitment": "confirmed"}
    chain.advance(latest.last_valid_block_height + 1 - chain.blocks.height)
    assert (await wire.result("isBlockhashValid", text, confirmed))["value"] is True
    who = parties(chain)
    late = await rpc.send_transaction(payment(who, latest.blockhash), CAREFUL)
    assert chain.history.get(late.value) is not None, "one block after the last valid one"
    chain.advance(1)
    assert (await wire.result("isBlockhashValid", text, confirmed))["value"] is False
    # A finalized bank is 32 blocks younger, and to it the hash is alive.
    assert (await wire.result("isBlockhashValid", text))["value"] is True
    error = await wire.error(
        "sendTransaction",
        as_base64(payment(who, latest.blockhash, memo="too late")),
        {"encoding": "base64", "preflightCommitment": "confirmed"},
    )
    assert error["code"] == -32002
    assert error["message"] == "Transaction simulation failed: Blockhash not found"
    assert error["data"]["err"] == "BlockhashNotFound"


async def test_without_preflight_a_dead_transaction_is_taken_and_never_seen(
    rpc: AsyncClient, chain: LocalChain
) -> None:
    who = parties(chain)
    sent = await rpc.send_transaction(payment(who, Hash.default()), SKIP)
    assert (await rpc.get_signature_statuses([sent.value])).value == [None]


async def test_the_same_payment_twice_is_one(rpc: AsyncClient, chain: LocalChain) -> None:
    who = parties(chain)
    tx = payment(who, (await rpc.get_latest_blockhash(Confirmed)).value.blockhash)
    for _ in range(2):
        assert (await rpc.send_transaction(tx, SKIP)).value == tx.signatures[0]
    assert chain.balance(who.seller.pubkey(), USDC_DEVNET) == 1_000
    with pytest.raises(RPCException, match="already been processed"):
        await rpc.send_transaction(tx, CAREFUL)


async def test_get_transaction_tells_what_moved(rpc: AsyncClient, chain: LocalChain) -> None:
    who = parties(chain, CASH)
    tx = payment(who, chain.blocks.latest("confirmed")[0], mint=CASH)
    await rpc.send_transaction(tx, SKIP)
    found = await rpc.get_transaction(
        tx.signatures[0], "json", Confirmed, max_supported_transaction_version=0
    )
    assert found.value is not None
    meta = found.value.transaction.meta
    assert meta is not None
    assert meta.err is None
    assert meta.fee == 10_000
    assert any("Instruction: TransferChecked" in line for line in meta.log_messages or [])
    before = {b.owner: b.ui_token_amount.amount for b in meta.pre_token_balances or []}
    after = {b.owner: b.ui_token_amount.amount for b in meta.post_token_balances or []}
    assert before == {who.payer.pubkey(): "1000000", who.seller.pubkey(): "0"}
    assert after == {who.payer.pubkey(): "999000", who.seller.pubkey(): "1000"}
    assert {str(b.program_id) for b in meta.post_token_balances or []} == {str(TOKEN_2022)}
    raw = await rpc.get_transaction(
        tx.signatures[0], "base64", Confirmed, max_supported_transaction_version=0
    )
    assert raw.value is not None
    assert raw.value.transaction.transaction == tx


async def test_a_versioned_transaction_is_kept_from_a_client_that_does_not_know_them(
    rpc: AsyncClient, wire: Wire, chain: LocalChain
) -> None:
    who = parties(chain)
    signature = str(chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 1))
    error = await wire.error("getTransaction", signature, {"commitment": "confirmed"})
    assert error["code"] == -32015
    # The same transaction is not there at all before it is finalized, and that is the default.
    assert await wire.result("getTransaction", signature) is None


async def test_a_legacy_transaction_goes_the_same_way(rpc: AsyncClient, chain: LocalChain) -> None:
    payer, other = Keypair(), Keypair().pubkey()
    await rpc.request_airdrop(payer.pubkey(), 10**9)
    step = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=other, lamports=10**8))
    latest = (await rpc.get_latest_blockhash(Confirmed)).value
    tx = Transaction.new_signed_with_payer([step], payer.pubkey(), [payer], latest.blockhash)
    signature = (await rpc.send_transaction(tx, CAREFUL)).value
    await rpc.confirm_transaction(signature, Confirmed)
    assert (await rpc.get_balance(other, Confirmed)).value == 10**8
    found = await rpc.get_transaction(signature, "json", Confirmed)
    assert found.value is not None


async def test_accounts_in_every_encoding(rpc: AsyncClient, wire: Wire, chain: LocalChain) -> None:
    owner = Keypair().pubkey()
    address = chain.fund(owner, CASH, 1_250_000)
    account = (await rpc.get_account_info(address)).value
    assert read_holding(account) == Holding(CASH, owner, 1_250_000)
    parsed = (await rpc.get_account_info_json_parsed(address)).value
    assert parsed is not None
    assert parsed.data.program == "spl-token-2022"
    assert parsed.data.parsed["info"]["tokenAmount"]["uiAmountString"] == "1.25"
    mint = (await rpc.get_account_info_json_parsed(USDC_MAINNET)).value
    assert mint is not None
    assert mint.owner == TOKEN
    assert mint.data.parsed["info"]["decimals"] == 6
    both = (await rpc.get_multiple_accounts([address, Keypair().pubkey()])).value
    assert both == [account, None]
    sliced = {"encoding": "base58", "dataSlice": {"offset": 0, "length": 32}}
    answer = await wire.result("getAccountInfo", str(address), sliced)
    assert answer["value"]["data"] == [str(CASH), "base58"]
    error = await wire.error("getAccountInfo", str(address))
    assert "less than 128 bytes" in error["message"]


async def test_token_accounts_of_an_owner(rpc: AsyncClient, chain: LocalChain) -> None:
    owner = Keypair().pubkey()
    usdc, cash = chain.fund(owner, USDC_DEVNET, 1), chain.fund(owner, CASH, 2)
    by_mint = TokenAccountOpts(mint=USDC_DEVNET, encoding="base64")
    assert [a.pubkey for a in (await rpc.get_token_accounts_by_owner(owner, by_mint)).value] == [
        usdc
    ]
    by_program = TokenAccountOpts(program_id=TOKEN_2022)
    found = (await rpc.get_token_accounts_by_owner_json_parsed(owner, by_program)).value
    assert [a.pubkey for a in found] == [cash]


async def test_a_balance_of_something_else_is_refused(wire: Wire) -> None:
    error = await wire.error("getTokenAccountBalance", str(Keypair().pubkey()))
    assert error == {"code": -32602, "message": "Invalid param: could not find account"}
    error = await wire.error("getTokenAccountBalance", str(CASH))
    assert error["message"] == "Invalid param: not a Token account"


async def test_the_index_of_an_account(rpc: AsyncClient, chain: LocalChain) -> None:
    who = parties(chain)
    source = ata(who.payer.pubkey(), USDC_DEVNET, TOKEN)
    sent = []
    for n in range(5):
        sent.append(
            chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, n + 1, memo=f"no {n}")
        )
        chain.advance()
    newest_first = sent[::-1]

    async def index(**options: object) -> list[Signature]:
        found = await rpc.get_signatures_for_address(source, commitment=Confirmed, **options)
        return [line.signature for line in found.value]

    assert await index() == newest_first
    assert await index(limit=2) == newest_first[:2]
    assert await index(until=sent[2]) == newest_first[:2]
    assert await index(before=sent[2]) == newest_first[3:]
    assert await index(before=sent[4], until=sent[1]) == newest_first[1:3]
    assert await index(before=Signature.new_unique()) == []
    assert await index(until=Signature.new_unique()) == newest_first
    line = (await rpc.get_signatures_for_address(source, commitment=Confirmed)).value[0]
    assert (line.memo, line.err) == ("[4] no 4", None)
    assert (await rpc.get_signatures_for_address(source, commitment=Finalized)).value == []


async def test_the_index_may_lag_and_miss(rpc: AsyncClient, chain: LocalChain) -> None:
    who = parties(chain)
    source = ata(who.payer.pubkey(), USDC_DEVNET, TOKEN)

    async def index() -> list[Signature]:
        found = await rpc.get_signatures_for_address(source, commitment=Confirmed)
        return [line.signature for line in found.value]

    chain.index_lag = 3
    sent = chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 1)
    chain.advance(2)
    assert await index() == []
    status = (await rpc.get_signature_statuses([sent])).value[0]
    assert status is not None, "only the index lags"
    chain.advance(1)
    assert await index() == [sent]
    chain.unindexed.add(sent)
    assert await index() == []


async def test_a_failed_payment_is_in_the_index_with_its_error(
    rpc: AsyncClient, chain: LocalChain
) -> None:
    who = parties(chain, amount=1)
    tx = payment(who, chain.blocks.latest("confirmed")[0], memo="poor")
    await rpc.send_transaction(tx, SKIP)
    source = ata(who.payer.pubkey(), USDC_DEVNET, TOKEN)
    line = (await rpc.get_signatures_for_address(source, commitment=Confirmed)).value[0]
    assert line.memo == "[4] poor"
    assert line.err == TransactionErrorInstructionError(2, InstructionErrorCustom(1))
    status = (await rpc.get_signature_statuses([tx.signatures[0]])).value[0]
    assert status is not None
    assert status.err is not None


async def test_a_node_behind_says_so(wire: Wire, chain: LocalChain) -> None:
    slot = await wire.result("getSlot", {"commitment": "finalized"})
    address = str(USDC_DEVNET)
    for method, params in [
        ("getSignaturesForAddress", [address, {"minContextSlot": slot + 1}]),
        ("getEpochInfo", [{"minContextSlot": slot + 1}]),
        ("getAccountInfo", [address, {"minContextSlot": slot + 1, "encoding": "base64"}]),
    ]:
        error = await wire.error(method, *params)
        assert (error["code"], error["data"]) == (-32016, {"contextSlot": slot})
    chain.advance(1)
    assert await wire.result("getSignaturesForAddress", address, {"minContextSlot": slot + 1}) == []


async def test_when_a_block_was_made_and_how_far_back_there_are_any(
    rpc: AsyncClient, chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.time() - 60
    who = parties(chain)
    chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 1)
    landed = chain.blocks.slot(chain.blocks.height)
    assert (await rpc.get_block_time(landed)).value is None  # not made yet
    chain.advance(1)
    for slot in (landed, chain.blocks.slot(chain.blocks.at("finalized"))):
        made = (await rpc.get_block_time(slot)).value
        assert made is not None and begun < made <= time.time()
    chain.advance(200)
    assert (await rpc.get_block_time(landed)).value is None  # long ago
    assert (await rpc.get_first_available_block()).value == 0
    monkeypatch.setattr("proxy.localnet.history.KEPT", 1)
    chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 1)
    assert (await rpc.get_first_available_block()).value == landed + 1


async def test_old_statuses_need_a_search(rpc: AsyncClient, chain: LocalChain) -> None:
    who = parties(chain)
    sent = chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 1)
    chain.advance(301)
    assert (await rpc.get_signature_statuses([sent])).value == [None]
    found = (await rpc.get_signature_statuses([sent], search_transaction_history=True)).value[0]
    assert found is not None
    assert found.confirmation_status == TransactionConfirmationStatus.Finalized


async def test_simulation_checks_what_it_is_asked_to(
    rpc: AsyncClient, wire: Wire, chain: LocalChain
) -> None:
    who = parties(chain)
    good = payment(who, chain.blocks.latest("confirmed")[0])
    run = (await rpc.simulate_transaction(good, sig_verify=True, commitment=Confirmed)).value
    assert run.err is None
    assert run.units_consumed == chain.simulate(good).compute_units
    assert chain.balance(who.seller.pubkey(), USDC_DEVNET) == 0
    stale = payment(who, Hash.default())
    unsigned = as_base64(type(stale).populate(stale.message, [Signature.default()] * 2))
    options = {"encoding": "base64", "commitment": "confirmed"}
    answer = await wire.result("simulateTransaction", unsigned, options)
    assert answer["value"]["err"] == "BlockhashNotFound"
    answer = await wire.result(
        "simulateTransaction", unsigned, options | {"replaceRecentBlockhash": True}
    )
    assert answer["value"]["err"] is None
    assert set(answer["value"]["replacementBlockhash"]) == {"blockhash", "lastValidBlockHeight"}
    error = await wire.error("simulateTransaction", unsigned, options | {"sigVerify": True})
    assert error["code"] == -32003
    error = await wire.error(
        "simulateTransaction",
        unsigned,
        options | {"sigVerify": True, "replaceRecentBlockhash": True},
    )
    assert error["code"] == -32602


async def test_preflight_keeps_a_failing_payment_off_the_chain(
    wire: Wire, chain: LocalChain
) -> None:
    who = parties(chain, amount=1)
    tx = payment(who, chain.blocks.latest("confirmed")[0])
    error = await wire.error(
        "sendTransaction",
        base58.encode(bytes(tx)),
        {"preflightCommitment": "confirmed"},
    )
    assert error["code"] == -32002
    assert error["message"].endswith("Error processing Instruction 2: custom program error: 0x1")
    assert error["data"]["err"] == {"InstructionError": [2, {"Custom": 1}]}
    assert any("insufficient funds" in line for line in error["data"]["logs"])
    assert chain.history.get(tx.signatures[0]) is None


async def test_small_questions(rpc: AsyncClient, chain: LocalChain) -> None:
    assert await rpc.is_connected()
    assert str((await rpc.get_genesis_hash()).value).startswith("EtWTRABZaYq6iMfeYKouRu166VU2xqa1")
    assert (await rpc.get_version()).value.solana_core
    assert (await rpc.get_minimum_balance_for_rent_exemption(165)).value == 2_039_280
    who = parties(chain)
    message = payment(who, chain.blocks.latest("processed")[0]).message
    assert isinstance(message, MessageV0)
    assert (await rpc.get_fee_for_message(message, Processed)).value == 10_000
    assert (await rpc.get_fee_for_message(message, Finalized)).value is None


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("getBlock", [1], -32601),
        ("getBalance", [], -32602),
        ("getBalance", ["not a key"], -32602),
        ("getBalance", [7], -32602),
        ("getBalance", {"by": "name"}, -32602),
        ("getSlot", [{"commitment": "certain"}], -32602),
        ("getSlot", ["confirmed"], -32602),
        ("getSlot", [{"minContextSlot": True}], -32602),
        ("isBlockhashValid", ["0OIl"], -32602),
        ("getAccountInfo", [str(USDC_DEVNET), {"encoding": "rot13"}], -32602),
        ("getMultipleAccounts", [[str(CASH)] * 101], -32602),
        ("getMultipleAccounts", [[None]], -32602),
        ("getSignatureStatuses", [[str(Signature.default())] * 257], -32602),
        ("getSignatureStatuses", [["x"]], -32602),
        ("getSignaturesForAddress", [str(CASH), {"commitment": "processed"}], -32602),
        ("getSignaturesForAddress", [str(CASH), {"limit": 0}], -32602),
        ("getSignaturesForAddress", [str(CASH), {"limit": 1001}], -32602),
        ("getSignaturesForAddress", [str(CASH), {"before": "x"}], -32602),
        ("getTransaction", [str(Signature.default()), {"commitment": "processed"}], -32602),
        ("getTokenAccountsByOwner", [str(CASH), {}], -32602),
        ("sendTransaction", ["!!", {"encoding": "base64"}], -32602),
        ("sendTransaction", ["AAAA", {"encoding": "base64"}], -32602),
        ("sendTransaction", ["A" * 1644, {"encoding": "base64"}], -32602),
        ("sendTransaction", ["0", {"encoding": "base58"}], -32602),
        ("sendTransaction", ["AAAA", {"encoding": "hex"}], -32602),
        ("getMinimumBalanceForRentExemption", [-1], -32602),
    ],
)
async def test_what_cannot_be_understood_has_its_code(
    wire: Wire, method: str, params: object, code: int
) -> None:
    answer = await wire.post({"jsonrpc": "2.0", "id": "a", "method": method, "params": params})
    assert answer["error"]["code"] == code
    assert answer["id"] == "a"


async def test_batches_answer_in_order_and_one_by_one(wire: Wire) -> None:
    calls = [call("getHealth"), call("nothing"), call("getGenesisHash")]
    calls = [each | {"id": index} for index, each in enumerate(calls)]
    answers = await wire.post(calls)
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert answers[0]["result"] == "ok"
    assert answers[1]["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", -32700), (b"\xff", -32700), (b"[]", -32600), (b"7", -32600)]
)
async def test_what_is_no_call_at_all(wire: Wire, body: bytes, code: int) -> None:
    assert (await wire.post(body))["error"]["code"] == code


async def test_the_server_makes_blocks_by_itself(node: RpcNode, node_url: str) -> None:
    start = node.chain.blocks.height
    node.pace(0.01)
    while node.chain.blocks.height < start + 3:
        await asyncio.sleep(0.01)
    node.pace(None)
    height = node.chain.blocks.height
    await asyncio.sleep(0.05)
    assert node.chain.blocks.height == height


async def test_errors_on_request_wear_off(wire: Wire, node: RpcNode) -> None:
    node.faults.add(Fault("getSlot", error=RpcError(-32005, "Node is behind"), times=2))
    for _ in range(2):
        assert (await wire.error("getSlot"))["code"] == -32005
    assert await wire.result("getSlot") == 1_032


async def test_a_node_that_is_down_answers_with_a_status(rpc: AsyncClient, node: RpcNode) -> None:
    node.faults.add(Fault("*", status=503))
    with pytest.raises(SolanaRpcException):
        await rpc.get_slot()
    node.faults.clear()
    await rpc.get_slot()


async def test_an_answer_may_get_lost_after_the_deed(
    rpc: AsyncClient, chain: LocalChain, node: RpcNode
) -> None:
    who = parties(chain)
    node.faults.add(Fault("sendTransaction", status=504, after=True, times=1))
    tx = payment(who, chain.blocks.latest("confirmed")[0])
    with pytest.raises(SolanaRpcException):
        await rpc.send_transaction(tx, SKIP)
    assert chain.balance(who.seller.pubkey(), USDC_DEVNET) == 1_000


async def test_answers_may_take_their_time(wire: Wire, node: RpcNode) -> None:
    node.faults.add(Fault("getSlot", delay=0.05, times=1))
    started = time.monotonic()
    await wire.result("getSlot")
    assert time.monotonic() - started >= 0.05


async def test_the_controls_from_another_process(wire: Wire, chain: LocalChain) -> None:
    key = Keypair().pubkey()
    owner = str(key)
    funding = {"owner": owner, "mint": str(CASH), "amount": 9_000}
    assert await wire.result("localnet_fund", funding) == str(ata(key, CASH, TOKEN_2022))
    assert chain.balance(owner, CASH) == 9_000
    await wire.result("localnet_fund", {"owner": owner, "lamports": 10**8})
    value = await wire.result("getBalance", owner, {"commitment": "processed"})
    assert value["value"] == 10**8
    height = chain.blocks.height
    assert await wire.result("localnet_advance", 5) == height + 5
    await wire.result("localnet_set", {"confirmed_after": 1, "finalized_after": 2, "index_lag": 4})
    chain.advance(1)
    assert chain.blocks.at("finalized") == chain.blocks.height - 2
    assert chain.index_lag == 4
    await wire.result("localnet_drop", 1)
    who = parties(chain)
    blockhash = chain.blocks.latest("confirmed")[0]
    options = {"encoding": "base64", "skipPreflight": True}
    await wire.result("sendTransaction", as_base64(payment(who, blockhash, memo="a")), options)
    assert chain.balance(who.seller.pubkey(), USDC_DEVNET) == 0
    await wire.result("localnet_hold")
    sent = await wire.result(
        "sendTransaction", as_base64(payment(who, blockhash, memo="b")), options
    )
    assert chain.balance(who.seller.pubkey(), USDC_DEVNET) == 0
    assert await wire.result("localnet_release") == [sent]
    assert chain.balance(who.seller.pubkey(), USDC_DEVNET) == 1_000
    await wire.result("localnet_unindex", [sent])
    assert chain.unindexed == {Signature.from_string(sent)}
    await wire.result("localnet_fault", {"method": "*", "code": -32005, "message": "behind"})
    assert (await wire.error("getSlot"))["message"] == "behind"
    await wire.result("localnet_clearFaults")
    await wire.result("getSlot")
    assert (await wire.result("localnet_calls"))["sendTransaction"] == 2


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("localnet_set", [{"confirmed_after": 3}]),
        ("localnet_set", [{"confirmed_after": 3, "finalized_after": 1}]),
        ("localnet_fund", [{"owner": "x", "mint": str(CASH), "amount": 1}]),
        ("localnet_fund", [{"owner": str(CASH), "mint": str(TOKEN), "amount": 1}]),
        ("localnet_advance", []),
    ],
)
async def test_controls_refuse_nonsense(wire: Wire, method: str, params: list[object]) -> None:
    assert (await wire.error(method, *params))["code"] == -32602


def test_base58_of_any_length() -> None:
    for data in (b"", b"\0", b"\0\0\x01", bytes(range(200)), bytes(MINTS[CASH])):
        assert base58.decode(base58.encode(data)) == data
    assert base58.encode(bytes(CASH)) == str(CASH)
    assert base58.decode(str(TOKEN)) == bytes(TOKEN)
