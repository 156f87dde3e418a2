"""PostgreSQL writes the very text that RFC 8785 says."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.receipts.canonical import canonical, read_canonical

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
CONTROL = st.text("".join(map(chr, range(1, 32))) + '\x7f"\\/\u2028é𝄞\ufeff', max_size=12)
VALUE = (
    TEXT
    | CONTROL
    | st.booleans()
    | st.none()
    | st.integers(min_value=1 - 2**53, max_value=2**53 - 1)
)
NAME = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(many=st.lists(st.dictionaries(NAME, VALUE, min_size=1), min_size=1, max_size=40))
def test_the_database_writes_what_python_writes(template: str, many: list[dict[str, Any]]) -> None:
    async def written() -> list[str]:
        connection = await asyncpg.connect(template)
        try:
            rows = await connection.fetch(
                "SELECT canonical_json(j) FROM unnest($1::jsonb[]) WITH ORDINALITY u (j, n)"
                " ORDER BY n",
                [json.dumps(one) for one in many],
            )
        finally:
            await connection.close()
        return [row[0] for row in rows]

    assert asyncio.run(written()) == [canonical(one) for one in many]


def test_as_the_rfc_says() -> None:
    """The example of RFC 8785, section 3.2.2, and its order of names of section 3.2.3."""
    value = {"string": '€$\u000f\nA\'B"\\\\"/', "literals": [None, True, False]}
    text = '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical(value) == text
    names = ["\r", "1", "\u0080", "ö", "€", "😀", "\ufb33"]
    assert list(json.loads(canonical(dict.fromkeys(reversed(names), 1)))) == names


@given(value=st.recursive(VALUE, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_what_is_written_is_read_again(value: Any) -> None:
    assert read_canonical(canonical({"value": value})) == {"value": value}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}', '{"b":1,"a":2}', '{"a":1,"a":1}', '{"a":1.0}', '{"a":1.5}', '{"a":1e2}',
        '{"a":9007199254740992}', '{"a":"\\u0041"}', '{"a":"\\/"}', '{"a":"\\ud800"}', '{"a":NaN}',
        '{"a":"\\u000A"}', "[]", '"a"', "", "{", '{"a":1}\n', "[" * 100_000,
    ],
)  # fmt: skip
def test_nothing_else_is_canonical(text: str) -> None:
    with pytest.raises(ValueError):
        read_canonical(text)
