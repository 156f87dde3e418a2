"""All layers of all agents and providers, and which of them hold for whom."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from policies.errors import PolicyError, RuleError
from policies.policy import Layer, Policy
from policies.provider import parse_provider
from policies.rules import NOT_OF_DEFAULTS, NOT_OF_PROVIDERS, Rules


class LayerKey(NamedTuple):
    """Whom a layer is about: (None, None) are the defaults, ("bot", None) is an agent's own."""

    agent: str | None = None
    provider: str | None = None

    def __str__(self) -> str:
        """Its name: `defaults`, `agent bot`, `provider "*.example.com"`, or the two together."""
        agent = f"agent {self.agent}" if self.agent is not None else ""
        provider = f'provider "{self.provider}"' if self.provider is not None else ""
        return " ".join(filter(None, (agent, provider))) or "defaults"


@dataclass(frozen=True, slots=True)
class Book:
    """Every layer. Providers are named by their pattern in its one spelling (`parse_provider`)."""

    version: int = 0
    defaults: Rules = field(default_factory=Rules)
    providers: Mapping[str, Rules] = field(default_factory=dict)
    agents: Mapping[str, Rules] = field(default_factory=dict)
    agent_providers: Mapping[tuple[str, str], Rules] = field(default_factory=dict)

    def policy(self, agent: str, scheme: str, host: str, port: int) -> Policy:
        """What holds for this agent at this provider. An agent that the book does not know has no
        layer of its own."""
        layers = [
            Layer(str(LayerKey(None, pattern)), self.providers[pattern], pattern, per_agent=False)
            for pattern in _matching(self.providers, scheme, host, port)
        ]
        mine = [pattern for name, pattern in self.agent_providers if name == agent]
        for pattern in _matching(mine, scheme, host, port):
            rules = self.agent_providers[agent, pattern]
            layers.append(Layer(str(LayerKey(agent, pattern)), rules, pattern))
        own = self.agents.get(agent, Rules())
        said = tuple(layer for layer in layers if layer.rules)
        return Policy.of(agent, own, self.defaults, version=self.version, layers=said)

    def layers(self) -> Iterator[tuple[LayerKey, Rules]]:
        """Every layer that says anything, by its key: defaults, providers, agents, each by name."""
        if self.defaults:
            yield LayerKey(), self.defaults
        for pattern in sorted(self.providers):
            yield LayerKey(None, pattern), self.providers[pattern]
        for name in sorted({*self.agents, *(agent for agent, _ in self.agent_providers)}):
            if name in self.agents:
                yield LayerKey(name), self.agents[name]
            for agent, pattern in sorted(self.agent_providers):
                if agent == name:
                    yield LayerKey(agent, pattern), self.agent_providers[agent, pattern]

    @classmethod
    def of(cls, layers: Mapping[LayerKey, Rules], version: int = 0) -> "Book":
        """The book of these layers."""
        return cls(
            version=version,
            defaults=layers.get(LayerKey(), Rules()),
            providers={
                key.provider: rules
                for key, rules in layers.items()
                if key.agent is None and key.provider is not None
            },
            agents={
                key.agent: rules
                for key, rules in layers.items()
                if key.agent is not None and key.provider is None
            },
            agent_providers={
                (key.agent, key.provider): rules
                for key, rules in layers.items()
                if key.agent is not None and key.provider is not None
            },
        )

    def to_json(self) -> dict[str, Any]:
        """The tables of the files, and the version."""
        agents: dict[str, dict[str, Any]] = {
            name: rules.to_json() for name, rules in sorted(self.agents.items())
        }
        for (name, pattern), rules in sorted(self.agent_providers.items()):
            agents.setdefault(name, {}).setdefault("provider", {})[pattern] = rules.to_json()
        return {
            "version": self.version,
            "defaults": self.defaults.to_json(),
            "provider": {
                pattern: rules.to_json() for pattern, rules in sorted(self.providers.items())
            },
            "agent": agents,
        }

    @classmethod
    def from_json(cls, document: object) -> "Book":
        """Reads what `to_json` writes; every part may be missing. Raises RuleError."""
        if not isinstance(document, Mapping):
            raise RuleError((), "a policy is a table")
        version = document.get("version", 0)
        if not isinstance(version, int) or isinstance(version, bool) or version < 0:
            raise RuleError(("version",), "a version is a whole number")
        tables = {key: value for key, value in document.items() if key != "version"}
        found = {key: rules for key, _, rules in read_layers(tables)}
        return cls.of(found, version)


def _matching(patterns: Iterable[str], scheme: str, host: str, port: int) -> list[str]:
    """Of these the ones about this provider, the broadest first."""
    found = []
    for text in patterns:
        pattern = parse_provider(text)
        if pattern.matches(scheme, host, port):
            found.append((pattern.narrowness, text))
    return [text for _, text in sorted(found)]


def read_layers(document: Mapping[str, Any]) -> Iterator[tuple[LayerKey, tuple[str, ...], Rules]]:
    """Each layer of a document's tables: its key, the path it is written under, what it says.

    Raises RuleError at the first that cannot be meant.
    """
    for key, table in document.items():
        if key == "defaults":
            yield LayerKey(), (key,), _rules((key,), table, NOT_OF_DEFAULTS)
        elif key == "provider":
            yield from _providers(None, (key,), table)
        elif key == "agent":
            for name, inner in _table((key,), table).items():
                path = (key, name)
                own = dict(_table(path, inner))
                below = own.pop("provider", None)
                if own or below is None:
                    yield LayerKey(name), path, _rules(path, own)
                if below is not None:
                    yield from _providers(name, (*path, "provider"), below)
        else:
            raise RuleError((key,), "a policy has the tables defaults, provider and agent")


def _providers(
    agent: str | None, path: tuple[str, ...], table: object
) -> Iterator[tuple[LayerKey, tuple[str, ...], Rules]]:
    seen: set[str] = set()
    for text, inner in _table(path, table).items():
        try:
            pattern = parse_provider(text).text
        except PolicyError as error:
            raise RuleError((*path, text), str(error)) from None
        if pattern in seen:
            raise RuleError((*path, text), f"this is {pattern} once more")
        seen.add(pattern)
        rules = _rules((*path, text), inner, NOT_OF_PROVIDERS)
        yield LayerKey(agent, pattern), (*path, text), rules


def _rules(path: tuple[str, ...], table: object, foreign: Sequence[str] = ()) -> Rules:
    inner = _table(path, table)
    for key in inner:
        if key in foreign:
            raise RuleError((*path, key), "this cannot be said here, but in an agent's own layer")
    try:
        return Rules.from_json(inner)
    except RuleError as error:
        raise error.under(*path) from None


def _table(path: tuple[str, ...], value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RuleError(path, "this is a table")
    return value
