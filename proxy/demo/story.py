"""What happens in the demo, told as it happens. Every step checks what it tells."""

import json
import sys
from dataclasses import dataclass
from decimal import Decimal

from policies import format_usd
from proxy.demo.narrator import Narrator
from proxy.demo.programs import (
    Answer,
    NotAsTold,
    asking,
    environment,
    has_curl,
    has_requests,
    output,
    read_answer,
    script,
    shown,
    this_program,
)
from proxy.demo.stage import AGENT, FUNDS, PROVIDER, Stage
from proxy.ledger import history
from proxy.localnet import CASH, USDC_DEVNET
from proxy.settings import NETWORK_IDS
from proxy.x402 import read_challenge

PRICE = 1_000  # of all that is bought here: a tenth of a cent, in atomic units and in micro-USD
NETWORKS = {caip2: name for name, caip2 in NETWORK_IDS.items()}


@dataclass(frozen=True, slots=True)
class Balances:
    """On chain, in atomic units: (the wallet's, the seller's)."""

    usdc: tuple[int, int]
    cash: tuple[int, int]


class Story:
    """`tell()` it once. Raises NotAsTold at the first step that goes another way."""

    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self.checks = 0
        self._stage = stage
        self._say = narrator
        self._api = stage.net.api_url
        self._bought = 0

    async def tell(self) -> None:
        before = self._balances()
        self._introduce(before)
        await self._the_api_wants_money()
        await self._curl_pays()
        await self._python_pays()
        await self._a_body_is_sent_again()
        await self._a_base_url_will_do()
        await self._token_2022()
        await self._policy_says_no()
        await self._the_chain(before)
        await self._the_books()

    def _introduce(self, before: Balances) -> None:
        policy = self._stage.policy
        self._say.blank()
        self._say.facts(
            [
                ("API", f"{self._api}  asks for money by x402"),
                ("wallet", self._stage.wallet.address),
                ("", f"holds {_tokens(before.usdc[0])} USDC and {_tokens(before.cash[0])} CASH"),
                ("agent", f'"{AGENT}", which may be taken to this machine, too: at most'),
                (
                    "",
                    f"${format_usd(policy.per_call_limit)} per call and "
                    f"${format_usd(policy.daily_limit)} per day",
                ),
            ]
        )
        if not has_curl():
            self._say.blank()
            self._say.tell("curl is not installed here, so Python does its part.")
        self._expect(before.usdc == (FUNDS, 0), "the wallet is not funded")

    async def _the_api_wants_money(self) -> None:
        self._say.step("The API wants money")
        answer = await self._run(asking(f"{self._api}/weather"), environment())
        self._say.quote([answer.status_line])
        self._expect(answer.status == 402, "the API did not answer 402 Payment Required")
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        (offer,) = read_challenge(headers, answer.body.encode()).offers
        self._expect(offer.amount == PRICE, "the price is not 0.001 USDC")
        self._say.blank()
        self._say.tell("This is where a program ends that cannot pay. What its 402 wants:")
        self._say.facts(
            [
                (
                    "price",
                    f"{_tokens(offer.amount)} {offer.asset.symbol} (${format_usd(offer.price)})",
                ),
                ("pay to", offer.pay_to),
                ("network", f"Solana {NETWORKS[offer.network]}"),
                ("protocol", f"x402 version {offer.version}, scheme {offer.scheme}"),
            ]
        )

    async def _curl_pays(self) -> None:
        self._say.step("The same request through autopay")
        self._say.tell("One environment variable is all that is different:")
        self._say.command(f"export http_proxy={self._stage.proxy_url}")
        answer = await self._run(asking(f"{self._api}/weather"), self._through_autopay())
        await self._paid(answer, "USDC")
        (decision,) = await history.decisions(self._stage.database, limit=1)
        policy = self._stage.policy
        self._expect(decision.decision == "allow", "the decision is not in the ledger")
        self._say.blank()
        self._say.tell("What happened in between, as the ledger has it:")
        self._say.facts(
            [
                ("asked", f"{decision.method} {decision.endpoint}"),
                (
                    "policy",
                    f"{decision.decision}: ${format_usd(decision.price)} is within "
                    f"${format_usd(policy.per_call_limit)} per call and "
                    f"${format_usd(policy.daily_limit)} per day",
                ),
                (
                    "paid",
                    f"{answer.header('Autopay-Amount')}, put on chain by the seller's facilitator",
                ),
                ("left", f"${format_usd(decision.remaining_today)} for today"),
            ]
        )

    async def _python_pays(self) -> None:
        self._say.step("A Python program")
        file, text = script(self._stage.config.parent, f"{self._api}/weather")
        self._say.quote(text.splitlines())
        self._say.command(f"HTTP_PROXY=http://{AGENT}:…@{self._stage.proxy} python {file.name}")
        env = environment(HTTP_PROXY=self._stage.proxy_url)
        said = await output([sys.executable, str(file)], env)
        self._say.quote(said.splitlines())
        self._expect("status 200" in said and "Lisbon" in said, "Python did not get its answer")
        self._bought += 1
        (receipt,) = await history.receipts(self._stage.database, limit=1)
        self._expect(receipt.price == PRICE and receipt.success, "its receipt is not in the ledger")
        left = await self._left_today()
        self._say.blank()
        self._say.tell(
            f"It uses {'requests' if has_requests() else 'urllib'} and knows of no payment. The "
            f"ledger does: ${format_usd(receipt.price)} in {receipt.symbol}, transaction "
            f"{receipt.transaction[:16]}…; left today: ${format_usd(left)}."
        )

    async def _a_body_is_sent_again(self) -> None:
        self._say.step("A POST: its body is kept, and sent again with the payment")
        body = '{"question": "will it rain?"}'
        answer = await self._run(asking(f"{self._api}/echo", data=body), self._through_autopay())
        await self._paid(answer, "USDC")
        self._expect(answer.body.strip() == body, "the body did not arrive as it was sent")

    async def _a_base_url_will_do(self) -> None:
        self._say.step("A program that knows no proxy, only a base URL")
        self._say.tell(
            f"[providers.{PROVIDER}] in autopay.toml is served at /{PROVIDER} on a listener of its "
            "own. No proxy is set here; the agent's token is in the path (or in a header):"
        )
        answer = await self._run(asking(f"{self._stage.shop_url}/weather"), environment())
        await self._paid(answer, "USDC")

    async def _token_2022(self) -> None:
        self._say.step("Another token, another token program: CASH, by Token-2022")
        answer = await self._run(asking(f"{self._api}/cash"), self._through_autopay())
        await self._paid(answer, "CASH")

    async def _policy_says_no(self) -> None:
        self._say.step("Too expensive")
        spent_before = await self._spent_today()
        answer = await self._run(asking(f"{self._api}/premium"), self._through_autopay())
        problem = json.loads(answer.body)
        self._say.quote([answer.status_line, *json.dumps(problem, indent=2).splitlines()])
        self._expect(
            (answer.status, problem["code"]) == (403, "over_per_call_limit"),
            "the policy did not deny what is over its limit",
        )
        self._expect(await self._spent_today() == spent_before, "a denied call cost something")
        self._say.blank()
        self._say.tell(
            f"The API asked for ${problem['asked_usd']}; this agent may pay "
            f"${problem['limit_usd']} per call. So nothing was signed and nothing was paid, and "
            "the program is told why, in a form that it can read."
        )

    async def _the_chain(self, before: Balances) -> None:
        self._say.step("What the chain says")
        after = self._balances()
        for symbol, (wallet, seller), (wallet_now, seller_now) in (
            ("USDC", before.usdc, after.usdc),
            ("CASH", before.cash, after.cash),
        ):
            self._expect(wallet - wallet_now == seller_now - seller, f"{symbol} went elsewhere")
            for owner, was, now in (("wallet", wallet, wallet_now), ("seller", seller, seller_now)):
                self._say.block(
                    f"{owner}  {symbol}  before {_exact(was):>10}  after {_exact(now):>10}"
                    f"  {_exact(now - was):>+10}"
                )
        moved = after.usdc[1] + after.cash[1]
        spent = await self._spent_today()
        self._expect(moved == spent == self._bought * PRICE, "the ledger and the chain disagree")
        self._say.blank()
        self._say.tell(
            f"{self._bought} payments of ${format_usd(PRICE)} make ${format_usd(moved)}, and the "
            f"ledger says the same: ${format_usd(spent)} spent today, "
            f"${format_usd(await self._left_today())} left."
        )

    async def _the_books(self) -> None:
        self._say.step("The books")
        receipts = await self._autopay("receipts")
        self._expect(receipts.count("\n") == 1 + self._bought, "a receipt is missing")
        decisions = await self._autopay("decisions")
        self._expect(
            decisions.count(" allow ") == self._bought and decisions.count(" deny ") == 1,
            "a decision is missing",
        )

    # --- what the steps are made of

    async def _run(self, command: list[str], env: dict[str, str]) -> Answer:
        self._say.command(shown(command))
        return read_answer(await output(command, env))

    async def _autopay(self, question: str) -> str:
        """The very command that an operator uses, on the demo's settings."""
        self._say.command(f"autopay {question}")
        command = [*this_program(), "--config", str(self._stage.config), question]
        said = await output(command, environment())
        self._say.block(said)
        return said

    async def _paid(self, answer: Answer, symbol: str) -> None:
        """Show a paid answer, and check it against the ledger."""
        told = [
            (name, value) for name, value in answer.headers if name.lower().startswith("autopay-")
        ]
        self._say.quote(
            [
                answer.status_line,
                *(f"{name}: {value}" for name, value in told),
                *answer.body.splitlines(),
            ]
        )
        self._bought += 1
        self._expect(answer.status == 200, "the paid answer did not come")
        self._expect(answer.header("Autopay-Amount") == f"0.001 {symbol}", "the price is another")
        left = await self._left_today()
        self._expect(
            answer.header("Autopay-Remaining") == f"{format_usd(left)} USD",
            "the answer and the ledger disagree on what is left",
        )
        (receipt,) = await history.receipts(self._stage.database, limit=1)
        self._expect(
            str(receipt.id) == answer.header("Autopay-Payment")
            and receipt.transaction == answer.header("Autopay-Transaction"),
            "the receipt is not that of the answer",
        )

    def _through_autopay(self) -> dict[str, str]:
        return environment(http_proxy=self._stage.proxy_url)

    async def _left_today(self) -> int:
        (today,) = await history.today(self._stage.database)
        return today.remaining

    async def _spent_today(self) -> int:
        (today,) = await history.today(self._stage.database)
        return today.spent

    def _balances(self) -> Balances:
        chain, owners = (
            self._stage.net.chain,
            (self._stage.wallet.pubkey, self._stage.net.seller.pubkey()),
        )
        usdc, cash = (
            [chain.balance(owner, mint) for owner in owners] for mint in (USDC_DEVNET, CASH)
        )
        return Balances((usdc[0], usdc[1]), (cash[0], cash[1]))

    def _expect(self, as_told: bool, otherwise: str) -> None:
        self.checks += 1
        if not as_told:
            raise NotAsTold(otherwise)


def _exact(amount: int) -> Decimal:
    return Decimal(amount).scaleb(-6)


def _tokens(amount: int) -> str:
    """Atomic units of a token with six decimals, like all that are used here."""
    return format_usd(amount)
