"""An answer held against what /openapi.json says of it."""

import re
from typing import Any

import jsonschema_rs

from tests.e2e.house import Answer

Document = dict[str, Any]


def conforms(document: Document, method: str, path: str, answer: Answer) -> None:
    """Fails where the document does not tell of this status, its media type or its shape."""
    if method == "HEAD" or (operation := _operation(document, method.lower(), path)) is None:
        return
    told = operation["responses"].get(str(answer.status))
    assert told is not None, f"{method} {path}: {answer.status} is not told of: {answer.body!r}"
    content = told.get("content", {})
    media = answer.headers.get("Content-Type", "").partition(";")[0]
    if not content:
        assert answer.body == b"", f"{method} {path}: a body that is not told of"
        return
    assert media in content, f"{method} {path}: {media} is not told of"
    if "json" in media:
        schema = {**content[media]["schema"], "components": document["components"]}
        for error in jsonschema_rs.validator_for(schema, validate_formats=True).iter_errors(
            answer.json
        ):
            raise AssertionError(f"{method} {path}: {error.message} at {error.instance_path}")
    for name in told.get("headers", {}):
        assert name in answer.headers, f"{method} {path}: no {name}"


def _operation(document: Document, method: str, path: str) -> Document | None:
    bare = path.partition("?")[0]
    # What is written out goes before what stands for anything, as in the router.
    for template in sorted(document["paths"], key=lambda one: one.count("{")):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, bare) and method in document["paths"][template]:
            found: Document = document["paths"][template][method]
            return found
    return None
