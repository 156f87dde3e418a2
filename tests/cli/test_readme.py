"""What the README promises of the answers is what the code says."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Each takes the code as one of its first two arguments.
SPEAKERS = {"Problem", "Unpayable", "Verdict"}
# Not answers: a verdict that says yes.
SILENT = {"ok"}


def codes(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SPEAKERS:
            for argument in node.args[:2]:
                for part in ast.walk(argument):
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
