"""What the README promises of the answers is what the code says."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Each takes the code as one of its first two arguments, or from a variable named `code`.
SPEAKERS = {"Problem", "Unpayable", "Verdict", "No"}
# Not answers: a verdict that says yes, why a payment is in doubt, the beginning of several codes.
SILENT = {"ok", "asked_again", "egress_"}


def codes(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        places: list[ast.expr] = []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SPEAKERS:
            places = node.args[:2]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
            places = [node.value]
        for place in places:
            for part in ast.walk(place):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_every_code_is_explained() -> None:
    sources = [*ROOT.glob("proxy/**/*.py"), *ROOT.glob("policies/*.py")]
    said = {
        code
        for file in sources
        for code in codes(file)
        if len(code) > 1 and code.replace("_", "").isalpha()
    }
    assert {"over_per_call_limit", "no_wallet", "upstream_timeout", "frozen"} <= said
    readme = (ROOT / "README.md").read_text()
    assert {code for code in said - SILENT if f"`{code}`" not in readme} == set()
