"""What an answer must be to be what was paid for: its content type, its size, its form, its time.

Pure, and bounded: a schema fetches nothing, its patterns take linear time, and of an answer no more
than `max_bytes` is looked at, beneath its content coding.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jsonschema_rs

from proxy.wire.content import decoded
from proxy.wire.gate import Came, Expects, Verdict
from proxy.wire.headers import header
from proxy.wire.parsers import RawHeaders

MAX_BYTES = 1_048_576
MOST_BYTES = 4_194_304
"""An answer is judged while nothing else happens in the process: this much takes it 0.1 s."""
SCHEMA_CHARACTERS = 262_144
# What comes in a call is anybody's: without references, a schema's work is bounded by its own size
# times that of what is held against it; so much of it takes 0.1 s at worst.
CALL_SCHEMA_CHARACTERS = 16_384
CALL_WORK = 32 << 20
_REFERENCES = {"$ref", "$dynamicRef", "$recursiveRef"}

# To say where an answer does not fit takes a copy of all that is there.
EXPLAINED_BYTES = 65_536

_STREAM = b"text/event-stream"
_CODINGS = {b"", b"identity", b"gzip", b"x-gzip", b"deflate", b"br"}
_KEYS = ("content_type", "schema", "min_bytes", "fields", "max_seconds", "max_bytes")
_SHOWN = 200  # characters of what a provider sent, in a sentence about it


@dataclass(frozen=True, slots=True)
class Expectation:
    """`content_type` without parameters, or like `image/*`; `fields` are dotted paths into JSON,
    each of which leads to something that is not null; `min_bytes` counts beneath the coding."""

    content_type: str | None = None
    schema: jsonschema_rs.Validator | None = None
    min_bytes: int = 0
    fields: tuple[str, ...] = ()
    max_seconds: float | None = None
    max_bytes: int = MAX_BYTES

    @classmethod
    def of(cls, asked: Mapping[str, Any], *, trusted: bool = True) -> "Expectation":
        """From JSON: content_type, schema (an object, or its text), min_bytes, fields, max_seconds,
        max_bytes; None is as good as no value. Not `trusted`: it comes with a call. Raises
        ValueError, with one line."""
        for key in asked:
            if key not in _KEYS:
                raise ValueError(f"{key} cannot be expected; what can: {', '.join(_KEYS)}")
        given = {key: value for key, value in asked.items() if value is not None}

        def read(key: str, reader: Callable[[Any], Any]) -> Any:
            try:
                return reader(given[key]) if key in given else None
            except ValueError as error:
                raise ValueError(f"{key} {error}") from None

        most = MOST_BYTES if trusted else MAX_BYTES
        max_bytes = _number(given, "max_bytes", MAX_BYTES, least=1, most=most)
        min_bytes = _number(given, "min_bytes", 0, least=0, most=max_bytes)
        schema = read("schema", partial(compiled, trusted=trusted))
        if schema is not None and not trusted:
            max_bytes = min(max_bytes, CALL_WORK // len(_text_of(given["schema"])))
        return cls(
            content_type=read("content_type", content_type),
            schema=schema,
            min_bytes=min_bytes,
            fields=read("fields", field_paths) or (),
            max_seconds=read("max_seconds", _seconds),
            max_bytes=max_bytes,
        )

    def looks_at(self, headers: RawHeaders) -> int:
        """How many bytes of this answer's body it wants to see; 0: whether there are any."""
        return self.max_bytes if self._wants_body and not is_stream(headers) else 0

    def judge(self, came: Came) -> Verdict:
        """Without its body, what needs none is judged. A stream may last as long as it likes."""
        late, took = None, came.first_byte if is_stream(came.headers) else came.seconds
        if self.max_seconds is not None and took > self.max_seconds:
            late = f"it took {took:.3f} s, longer than {self.max_seconds:g} s"
        if came.status >= 400:
            return Verdict(f"it answered {came.status}", late)
        if came.status == 304:  # nothing is new: the program has it already
            return Verdict(late=late)
        misfit = self._strange_head(came)
        if misfit is not None or not came.size or not self._wants_body:
            return Verdict(misfit, late)
        plain, unread = self._plain(came)
        return Verdict(
            next(self._misfits(plain), None) if plain is not None else None, late, unread
        )

    @property
    def _wants_body(self) -> bool:
        return self.schema is not None or bool(self.fields) or self.min_bytes > 0

    def _strange_head(self, came: Came) -> str | None:
        if came.body == b"" and (self._wants_body or self.content_type):
            return "it is empty"
        kind = _kind(came.headers)
        if self.content_type is None or (not kind and came.body is None):
            return None
        if not kind:
            return f"it has no content type, expected {self.content_type}"
        if not _is_type(kind.decode("latin-1"), self.content_type):
            return f"its content type is {_shown(kind)}, expected {self.content_type}"
        return None

    def _plain(self, came: Came) -> tuple[bytes | None, str | None]:
        """The body beneath its coding; or why it is not looked at."""
        coding = (header(came.headers, b"content-encoding") or b"").strip().lower()
        if is_stream(came.headers):
            return None, "it is a stream of events"
        if came.size > self.max_bytes:
            return None, f"it is larger than {self.max_bytes} bytes"
        if came.body is None:
            return None, "there was no room for it"
        if coding not in _CODINGS:  # what the program asked for, mostly
            return None, f"its content coding is {_shown(coding)}"
        plain = decoded(came.headers, came.body, self.max_bytes)
        if len(plain) > self.max_bytes:
            return None, f"it is larger than {self.max_bytes} bytes, uncompressed"
        return plain, None

    def _misfits(self, plain: bytes) -> Iterator[str]:
        """Cheapest first: whoever takes only the first has no more work done than that."""
        if len(plain) < self.min_bytes:
            yield f"it has {len(plain)} bytes, fewer than {self.min_bytes}"
        if self.schema is not None or self.fields:
            yield from self._unlike(plain)

    def _unlike(self, plain: bytes) -> Iterator[str]:
        try:
            value = json.loads(plain, parse_constant=_not_json)
        except (ValueError, RecursionError):
            yield "it is not JSON"
            return
        if self.schema is not None:
            yield from self._unfit(self.schema, value, explained=len(plain) <= EXPLAINED_BYTES)
        for path in self.fields:
            if not _has(value, path):
                yield f"it lacks {path}"

    @staticmethod
    def _unfit(schema: jsonschema_rs.Validator, value: object, *, explained: bool) -> Iterator[str]:
        try:
            if schema.is_valid(value):
                return
            if explained:
                schema.validate(value)
        except jsonschema_rs.ValidationError as error:
            at = "".join(f"/{part}" for part in error.instance_path)
            yield f"it does not fit its schema at {_shown(at) or '/'}: {_shown(error.message)}"
            return
        except ValueError as error:  # such as a nesting too deep
            yield f"it cannot be held against its schema: {_shown(str(error))}"
            return
        yield "it does not fit its schema"


@dataclass(frozen=True, slots=True)
class Together:
    """What several expect: each is asked, and the first that finds a fault is heard."""

    expectations: tuple[Expects, ...]

    def looks_at(self, headers: RawHeaders) -> int:
        return max(one.looks_at(headers) for one in self.expectations)

    def judge(self, came: Came) -> Verdict:
        verdicts = [one.judge(came) for one in self.expectations]
        return Verdict(
            misfit=next((v.misfit for v in verdicts if v.misfit), None),
            late=next((v.late for v in verdicts if v.late), None),
            unread=next((v.unread for v in verdicts if v.unread), None),
        )


def together(*expectations: Expects | None) -> Expects | None:
    """What all of them expect; None if nobody does."""
    given = tuple(one for one in expectations if one is not None)
    return Together(given) if len(given) > 1 else next(iter(given), None)


class Expectations:
    """What is expected of each provider that the settings name."""

    def __init__(self, upstreams: Iterable[tuple[str, str, Expects | None]]) -> None:
        """Of each: its origin's key, its upstream's path, and what is expected there."""
        self._at: dict[str, list[tuple[str, Expects | None]]] = {}
        for key, path, expects in upstreams:
            self._at.setdefault(key, []).append((path.rstrip("/") + "/", expects))

    def of(self, key: str, path: str) -> Expects | None:
        """Of a request for this path there. The only provider at an origin has all of it; of
        several, each has what is below its own path."""
        here = self._at.get(key, [])
        if len(here) > 1:
            here = [one for one in here if f"{path}/".startswith(one[0])]
        return max(here, key=lambda one: len(one[0]), default=("", None))[1]


NOTHING_EXPECTED = Expectations(())


def is_stream(headers: RawHeaders) -> bool:
    """Whether an answer lasts for as long as there is something to tell."""
    return _kind(headers) == _STREAM


def _kind(headers: RawHeaders) -> bytes:
    return (header(headers, b"content-type") or b"").partition(b";")[0].strip().lower()


def compiled(schema: object, *, trusted: bool = True) -> jsonschema_rs.Validator:
    """A JSON Schema, or its text, ready to be asked. Raises ValueError, with one line."""
    most = SCHEMA_CHARACTERS if trusted else CALL_SCHEMA_CHARACTERS
    try:
        text = _text_of(schema)
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("is no JSON Schema: it is not JSON") from None
    if not isinstance(value, dict | bool):
        raise ValueError("is no JSON Schema: it must be an object")
    if len(text) > most:
        raise ValueError(f"is too large for a schema: at most {most} characters")
    if not trusted and _refers(value):
        raise ValueError("must not refer to other schemas ($ref)")
    try:
        return jsonschema_rs.validator_for(
            value,
            offline=True,
            mask="its value",
            pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_BYTES),
        )
    except ValueError as error:
        at = "".join(f"/{part}" for part in getattr(error, "instance_path", ()))
        words = " ".join(str(error).partition("\n")[0].split())
        raise ValueError(f"is no JSON Schema: at {at or '/'}: {words[:_SHOWN]}") from None


def _text_of(schema: object) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)


def _refers(value: object) -> bool:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if not _REFERENCES.isdisjoint(one):
                return True
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return False


def content_type(value: object) -> str:
    """As it is compared. Raises ValueError."""
    kind, slash, sub = str(value).strip().lower().partition("/")
    if not isinstance(value, str) or not slash or not kind or not sub or ";" in sub or " " in sub:
        raise ValueError('must be like "application/json" or "image/*"')
    return f"{kind}/{sub}"


def field_paths(value: object) -> tuple[str, ...]:
    """Raises ValueError."""
    paths = value if isinstance(value, list | tuple) else (value,)
    wanted = tuple(path for path in paths if isinstance(path, str) and all(path.split(".")))
    if paths is not value or len(wanted) < len(paths) or any(len(p) > _SHOWN for p in wanted):
        raise ValueError('must be a list of dotted paths, like ["data.price"]')
    return wanted


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError("must be a number above 0")
    return value


def _number(given: Mapping[str, Any], key: str, default: int, *, least: int, most: int) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{key} must be a whole number from {least} to {most}")
    return value


def _is_type(came: str, expected: str) -> bool:
    if expected.endswith("/*"):
        return came.startswith(expected[:-1])
    return came == expected


def _has(value: object, path: str) -> bool:
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and name.isascii():
            # A number of a thousand digits is no place in a list.
            place = int(name) if len(name) <= 9 else len(value)
            value = value[place] if place < len(value) else None
        else:
            return False
    return value is not None


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _shown(text: str | bytes) -> str:
    """What a provider sent, on one line and bounded."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])
