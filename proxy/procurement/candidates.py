"""Who may be asked for an intent, and who first, by what is known of each now."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from policies import Ask, Layer, Verdict, foresee
from proxy.intents import Intent
from proxy.ledger import Agent, Directory
from proxy.procurement.ranking import Prospect, Ranked, rank
from proxy.procurement.wish import Wish
from proxy.providers import Providers
from proxy.wire.aside import Request


class Candidates:
    """Those of any intent, by the score and the breaker of each, and by policy."""

    def __init__(self, directory: Directory, providers: Providers) -> None:
        self._directory = directory
        self._providers = providers

    def rank(self, wish: Wish) -> list[Ranked]:
        """Every candidate, the best first, as a run would ask them now."""
        intent = wish.intent
        return self._ranked([wish.request(one) for one in intent.candidates], intent, wish.agent)

    def survey(self, intent: Intent, agent: Agent | None) -> list[Ranked]:
        """The same for nobody in particular, or for one agent: what a wish is that asks for no more
        than is in the settings."""
        plain = [Request(one.method or "GET", one.origin, one.target) for one in intent.candidates]
        return self._ranked(plain, intent, agent)

    def _ranked(
        self, requests: Sequence[Request], intent: Intent, agent: Agent | None
    ) -> list[Ranked]:
        among = [(one.origin.key, one.endpoint) for one in requests]
        prospects = []
        for candidate, request in zip(intent.candidates, requests, strict=True):
            why = self._providers.why(request.origin.key, request.endpoint, among=among)
            against = self._against(intent, agent, request)
            prospects.append(Prospect(candidate, why.score, why.known, against))
        return rank(prospects)

    def _against(
        self, intent: Intent, agent: Agent | None, request: Request
    ) -> tuple[str, str] | None:
        """Why it may not be asked: what can be known before it has named a price."""
        origin = request.origin
        if intent.require_https and origin.scheme != "https":
            return "https_required", "the intent asks for https"
        verdict = None if agent is None else self._foreseen(intent, agent, request)
        if verdict is not None and not verdict.allowed:
            return verdict.code, f"{verdict.detail.rstrip('.')} ({verdict.layer})"
        seconds = self._providers.left_alone(origin.key)
        if seconds is not None:
            return "breaker_open", f"its breaker is open, for {seconds:.0f} s more"
        return None

    def _foreseen(self, intent: Intent, agent: Agent, request: Request) -> Verdict:
        origin = request.origin
        policy = self._directory.policy_at(agent, origin)
        if intent.rules is not None:
            layer = Layer(f"intent {intent.name}", intent.rules)
            policy = replace(policy, layers=(*policy.layers, layer))
        return foresee(
            policy,
            Ask(
                method=request.method,
                scheme=origin.scheme,
                host=origin.host,
                port=origin.port,
                path=request.target.partition(b"?")[0].decode("utf-8", "replace"),
                pay_to="",
                asset="",
                symbol="",
                network="",
                price=0,
                at=datetime.now(UTC),
            ),
        )
