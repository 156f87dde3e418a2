"""A seller whose answers are cacheable, and the same program asking again."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policies import Policy
from proxy.ledger import agents
from proxy.localnet import Localnet
from tests.e2e.house import LOOPBACK, Answer, House, until
from tests.e2e.seller import Seen, Seller, b64, challenge, offer, reply

PRICE = 1000  # micro-USD
FRESH = (b"Cache-Control", b"max-age=60")

Answering = Callable[[Seen], bytes]


def paid(
    headers: Sequence[tuple[bytes, bytes]] = (FRESH,), body: bytes = b"goods", status: int = 200
) -> bytes:
    """An answer whose money was taken."""
    receipt = {"success": True, "transaction": "", "network": "n", "payer": "p"}
    return reply(status, [(b"PAYMENT-RESPONSE", b64(receipt)), *headers], body)


@dataclass
class Stall:
    """`goods` answers requests with a payment, `free` those without, where it says anything."""

    seller: Seller
    net: Localnet
    goods: Answering = lambda seen: paid()
    free: Callable[[Seen], bytes | None] = lambda seen: None

    def __post_init__(self) -> None:
        entry = offer(str(self.net.seller.pubkey()), str(self.net.fee_payer.pubkey()), amount=PRICE)
        asks = challenge(entry)

        def answer(seen: Seen) -> bytes:
            if seen.payment is not None:
                return self.goods(seen)
            return self.free(seen) or asks

        self.seller.answer = answer

    @property
    def url(self) -> str:
        return self.seller.url

    @property
    def sold(self) -> int:
        """How many payments came."""
        return len(self.seller.payments)

    @property
    def asked(self) -> list[Seen]:
        return self.seller.seen


def state(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.headers.get("Autopay-State")


async def another(home: House, name: str, **policy: object) -> str:
    """A second agent: the proxy's URL for its programs."""
    new = await agents.add(
        home.operator,
        home.service.store.vault,
        name,
        Policy(name, **({"allowed_targets": LOOPBACK} | policy)),  # type: ignore[arg-type]
    )
    await until(lambda: home.service.directory.by_token(new.token) is not None)
    host, port = home.service.proxy_address
    return f"http://{name}:{new.token}@{host}:{port}"


def by_hand(home: House, url: str) -> bytes:
    """A request for a socket of one's own."""
    credential = b64encode(f"{home.agent}:{home.token}".encode()).decode()
    return (
        f"GET {url} HTTP/1.1\r\nHost: stall\r\nProxy-Authorization: Basic {credential}\r\n\r\n"
    ).encode()
