"""A layer of the book of policies as the API takes and gives it: the keys of the files.

What a value means is `policies/rules.py`'s to say; here is what it looks like.
"""

from types import GenericAlias
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from policies.rules import (
    KEYS,
    MOST_PAYMENTS,
    MOST_TIMEOUT_SECONDS,
    MOST_WAIT_SECONDS,
    NOT_OF_DEFAULTS,
    NOT_OF_PROVIDERS,
    PINNINGS,
)
from proxy.admin.shapes import Body, Name, Text, Usd

_MOST_ENTRIES = 1_000

Entry = Annotated[Text, Field(min_length=1, max_length=1_000)]
Window = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}[hd]$", examples=["24h"])]
Counted = Annotated[
    str, Field(pattern=r"^(hour|day|month|lifetime|[1-9][0-9]{0,2}[hd])$", examples=["day"])
]
Ratio = Annotated[str, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?$", examples=["1.5"])]
Patterns = Annotated[
    list[Entry],
    Field(max_length=_MOST_ENTRIES, examples=[["GET https://api.example.com/v1/*"]]),
]


def _number(least: int, most: int) -> Any:
    return Annotated[int, Field(ge=least, le=most)]


def _up_to(entry: Any) -> Any:
    return Annotated[GenericAlias(list, (entry,)), Field(max_length=_MOST_ENTRIES)]


_AMOUNTS = (
    *("per_call", "hourly", "daily", "monthly", "session", "trace", "lifetime"),
    *("loss_cap", "approval_above"),
)
_KINDS: dict[str, Any] = {
    **dict.fromkeys(_AMOUNTS, Usd),
    **dict.fromkeys(("allowed_endpoints", "denied_endpoints"), Patterns),
    **dict.fromkeys(("max_price_ratio_last", "max_price_ratio_median"), Ratio),
    **dict.fromkeys(("frozen", "share_identical"), bool),
    "rolling": dict[Window, Usd],
    "payments": GenericAlias(dict, (Counted, _number(0, MOST_PAYMENTS))),
    "pay_to_pinning": Literal[PINNINGS],
    "max_timeout_seconds": _number(1, MOST_TIMEOUT_SECONDS),
    "approval_wait_seconds": _number(0, MOST_WAIT_SECONDS),
    "wallet": Name,
    "allowed_ports": _up_to(_number(1, 65535)),
}


def _layer(name: str, text: str, *, without: tuple[str, ...] = (), **more: Any) -> type[BaseModel]:
    kinds = {key: _KINDS.get(key, _up_to(Entry)) for key in KEYS if key not in without}
    # `| None`: null says nothing, like a key that is missing; in a PATCH it takes the rule away.
    fields: dict[str, Any] = {key: (kind | None, None) for key, kind in kinds.items()}
    made: type[BaseModel] = create_model(name, __base__=_Layer, __doc__=text, **fields, **more)
    return made


class _Layer(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"per_call": "0.05", "daily": "1.00", "allowed_assets": ["USDC"]}]
        }
    )


Defaults = _layer(
    "Defaults",
    "What holds where an agent's own layer says nothing of the same rule.",
    without=NOT_OF_DEFAULTS,
)
OfProvider = _layer(
    "ProviderLayer",
    "What holds at a provider: for all agents together, or for one agent.",
    without=NOT_OF_PROVIDERS,
)
OfAgent = _layer("AgentLayer", "What an agent's own layer says.")
Provider = Annotated[str, Field(min_length=1, max_length=300, examples=["api.example.com"])]
AgentTables = _layer(
    "AgentTables",
    "An agent's own layer, and those for it at providers.",
    provider=(dict[Provider, OfProvider], Field(default_factory=dict)),  # type: ignore[valid-type]
)


class BookDocument(Body):
    """The whole book, as the files have it: layers by whom they are about."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "defaults": {"per_call": "0.05", "daily": "1.00"},
                    "provider": {"*.example.com": {"daily": "5.00"}},
                    "agent": {"shopper": {"provider": {"api.example.com": {"daily": "0.50"}}}},
                }
            ]
        }
    )

    version: Annotated[
        int | None, Field(ge=0, description="only if this is the version still, like If-Match")
    ] = None
    defaults: Defaults | None = None  # type: ignore[valid-type]
    provider: dict[Provider, OfProvider] = Field(default_factory=dict)  # type: ignore[valid-type]
    agent: dict[Name, AgentTables] = Field(default_factory=dict)  # type: ignore[valid-type]


def plain(model: BaseModel) -> dict[str, Any]:
    """What a document says, under its keys: what is null says nothing."""
    return model.model_dump(mode="json", exclude_none=True)
