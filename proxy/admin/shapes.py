"""The values of the API, as they are written: what is taken, and what is given.

What is taken is checked against these; of what is given they tell in /openapi.json, and the tests
hold every answer against that.
"""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import GenericAlias
from typing import Annotated, Any, get_type_hints

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
)

from policies import PolicyError, parse_usd

_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must hold no NUL")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must hold no half of a surrogate pair")
    return text


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable characters, without spaces around it")
    return text


def _amount(text: str) -> str:
    try:
        parse_usd(text)
    except PolicyError as error:
        raise ValueError(str(error)) from None
    return text


def _written(value: object) -> object:
    if not isinstance(value, str) or _MOMENT.fullmatch(value) is None:
        raise ValueError("must be a moment with its time zone, like 2026-01-31T08:00:00Z")
    return value


def _within(moment: datetime) -> datetime:
    if not _FIRST <= moment < _LAST:
        raise ValueError("must be a moment of the years 1970 to 8999")
    return moment


Text = Annotated[str, AfterValidator(_storable)]
Line = Annotated[str, AfterValidator(_printable)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", examples=["shopper"])]
Session = Annotated[Line, Field(min_length=1, max_length=200, examples=["run-7"])]
Usd = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?$",
        description="an amount in USD, exact",
        examples=["0.05"],
    ),
    AfterValidator(_amount),
]
SignedUsd = Annotated[str, Field(pattern=r"^-?[0-9]+\.[0-9]{2,6}$", examples=["0.05"])]
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_written),
    AfterValidator(_within),
    Field(examples=["2026-01-31T08:00:00Z"]),
]


class Body(BaseModel):
    """What is sent: nothing in it may be unknown, and no value is bent to fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Query(BaseModel):
    """A URL's parameters: none may be unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Given(BaseModel):
    """What is answered: nothing but what is told of here."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@lru_cache(maxsize=256)
def shape(record: type, money: Sequence[str] | None = None, **more: Any) -> type[BaseModel]:
    """What `as_fields` makes of a dataclass: the model of it. `more`: fields that are added.

    The fields of `money` (by default: those that its MONEY names) become exact dollars, as there.
    """
    assert is_dataclass(record)
    money = getattr(record, "MONEY", ()) if money is None else money
    hints = get_type_hints(record)
    made: dict[str, Any] = {}
    for one in fields(record):
        if one.name in money:
            nullable = type(None) in getattr(hints[one.name], "__args__", ())
            made[f"{one.name}_usd"] = (SignedUsd | None if nullable else SignedUsd, ...)
        else:
            made[one.name] = (hints[one.name], ...)
    made |= {name: (kind, ...) for name, kind in more.items()}
    model: type[BaseModel] = create_model(
        record.__name__, __base__=Given, __doc__=record.__doc__, **made
    )
    return model


def items_of(kind: type, **more: Any) -> type[BaseModel]:
    """`{"items": […]}`, a whole list: of a model, or of what `as_fields` makes of a dataclass."""
    return _list_of("List", kind, more, {})


def page_of(kind: type, **more: Any) -> type[BaseModel]:
    """The same, a page of it: `next` is what `before` must be for the page behind it, null on the
    last."""
    return _list_of("Page", kind, more, {"next": (str | None, ...)})


def _list_of(
    word: str, kind: type, more: dict[str, Any], besides: dict[str, Any]
) -> type[BaseModel]:
    item = shape(kind, **more) if is_dataclass(kind) else kind
    fields_: dict[str, Any] = {"items": (GenericAlias(list, (item,)), ...), **besides}
    made: type[BaseModel] = create_model(f"{item.__name__}{word}", __base__=Given, **fields_)
    return made
