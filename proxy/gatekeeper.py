"""The answers to the data plane's questions (`proxy.wire.gate.Gate`)."""

from proxy import refusals
from proxy.exchange import Exchange
from proxy.ledger import Agent, Directory
from proxy.providers import BreakerOpen, Providers
from proxy.wire.gate import PaymentRequired, Purchase, Reply, Ticket
from proxy.wire.origin import Origin


class Gatekeeper:
    """Who is this, may they go there now, and what of this 402."""

    def __init__(self, directory: Directory, providers: Providers, exchange: Exchange) -> None:
        self._directory = directory
        self._providers = providers
        self._exchange = exchange

    def by_credentials(self, name: str, token: str) -> Agent | None:
        return self._directory.authenticate(name, token)

    def by_token(self, token: str) -> Agent | None:
        return self._directory.by_token(token)

    def admit(self, origin: Origin) -> Ticket:
        try:
            return self._providers.admit(origin.key)
        except BreakerOpen as error:
            raise refusals.breaker_open(error.key, error.retry_after, error.last_error) from None

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply:
        return await self._exchange.pay(purchase, challenge)
