"""A validation error as lines for people: origin, key, value, and what would be right."""

import difflib
import json
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.settings.errors import SettingsError
from proxy.settings.sources import PREFIX, Key, Sources

# Values that may hold a password or an API key: never shown whole.
_SECRET = {"database_url", "key", "owner_url", "rpc_url", "upstream", "upstream_proxy"}
_WORDS = {
    "missing": "is missing",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "string_type": "must be a text",
    "string_pattern_mismatch": "must be named by a-z, 0-9 and -, beginning with no -",
    "string_too_long": "must have a shorter name",
}


def explained(error: ValidationError, model: type[BaseModel], sources: Sources) -> SettingsError:
    """The same error with one line for each bad setting."""
    return SettingsError(*dict.fromkeys(_line(one, model, sources) for one in error.errors()))


def _line(details: ErrorDetails, model: type[BaseModel], sources: Sources) -> str:
    # "[key]" is pydantic's sign that the name of an entry is wrong, not its value.
    key = tuple(str(part) for part in details["loc"] if part != "[key]")
    where = f"{sources.origin(key)}: {'.'.join(key)}"
    names_it = details["loc"][-1] == "[key]"
    if details["type"] == "extra_forbidden" or (names_it and details["type"] == "literal_error"):
        return f"{where} is not a setting; {_instead(key, model)}"
    if names_it or details["type"] == "missing":
        return f"{where} {_words(details)}"
    return f"{where} = {_shown(key[-1], details['input'])} {_words(details)}"


def _words(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "value_error":
            return str(context["error"])
        case "greater_than":
            return f"must be more than {context['gt']}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "literal_error":
            return f"must be {context['expected']}"
        case kind:
            return _WORDS.get(kind, details["msg"])


def _instead(key: Key, model: type[BaseModel]) -> str:
    """The known key that was probably meant."""
    for section in model.model_fields:
        for name in _known_names((section,), model):
            # The key in the wrong table; or AUTOPAY_POLICY_DAILY, one underscore for two.
            if key[-1] in (name, f"{section}_{name}"):
                return _did_you_mean((section, name))
    known = _known_names(key[:-1], model)
    if near := difflib.get_close_matches(key[-1], known, n=1):
        return _did_you_mean((*key[:-1], near[0]))
    return f"known here: {', '.join(known)}"


def _did_you_mean(key: Key) -> str:
    return f"did you mean {'.'.join(key)} ({PREFIX}{'__'.join(key).upper()})?"


def _known_names(table: Key, model: type[BaseModel]) -> list[str]:
    """The names that the table under `table` may hold; none where any name will do."""
    kind: Any = model
    for part in table:
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[part].annotation if is_section else get_args(kind)[1]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [field.alias or name for name, field in kind.model_fields.items()]
    names = get_args(get_args(kind)[0]) if get_origin(kind) is dict else ()
    return [name for name in names if isinstance(name, str)]


def _shown(name: str, value: object) -> str:
    """The value as written, bounded; of one that may hold a secret, no more than its host."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    if name not in _SECRET and "://" not in text:
        return text if len(text) <= 80 else text[:80] + "…"
    try:
        url = urlsplit(value) if isinstance(value, str) else None
    except ValueError:
        url = None
    return f'"{url.scheme}://{url.hostname}/…"' if url and url.hostname else "(not shown)"
