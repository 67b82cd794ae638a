"""The document as one page of HTML: no script, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape

Json = Mapping[str, Any]

_LIMITS: Final = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {}",
    "format": "{}",
    "default": "{} where nothing is said",
}
_FEW: Final = 12
"""Words of a choice that are named; more are too many to read in a row."""


def render(document: Json, *, style: str, source: str) -> str:
    """The page. `style` and `source`: where its looks and the document are."""
    operations = [
        {
            "id": operation["operationId"],
            "method": method.upper(),
            "path": path,
            "tag": operation["tags"][0],
            "summary": operation["summary"],
            "paragraphs": operation["description"].split("\n\n"),
            "parameters": [_parameter(each) for each in operation.get("parameters", ())],
            "bodies": list(_bodies(operation)),
            "answers": list(_answers(document, operation)),
            "example": _example(method, path, operation),
        }
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    groups = [
        {
            "name": tag["name"],
            "about": tag["description"],
            "operations": [each for each in operations if each["tag"] == tag["name"]],
        }
        for tag in document["tags"]
    ]
    parts = [
        {"name": name, "about": schema.get("description", ""), **_part(schema)}
        for name, schema in sorted(document["components"]["schemas"].items())
    ]
    paragraphs = document["info"]["description"].strip().split("\n\n")
    return _page().render(
        info=document["info"],
        paragraphs=paragraphs,
        groups=groups,
        parts=parts,
        style=style,
        source=source,
    )


def _page() -> jinja2.Template:
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    made = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters["prose"] = _prose
    return made.from_string(text)


def _parameter(parameter: Json) -> Json:
    return {
        "name": parameter["name"],
        "place": parameter["in"],
        "required": parameter.get("required", False),
        "type": words(parameter["schema"]),
        "about": parameter.get("description") or parameter["schema"].get("description", ""),
    }


def _bodies(operation: Json) -> Iterator[Json]:
    body = operation.get("requestBody", {})
    for kind, content in body.get("content", {}).items():
        yield {"kind": kind, "type": words(content["schema"]), "required": body["required"]}


def _answers(document: Json, operation: Json) -> Iterator[Json]:
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        types = [words(each["schema"]) for each in answer.get("content", {}).values()]
        yield {
            "status": status,
            "about": answer["description"],
            "type": Markup(" ").join(types),
            "error": status >= "400",
        }


def _example(method: str, path: str, operation: Json) -> str:
    parts = [f"curl -X {method.upper()} $SERVER{path}"]
    if operation["security"]:
        parts.append('-H "apikey: $KEY"')
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        if "example" in content:
            parts.append(f"-H 'Content-Type: {kind}'")
            parts.append(f"-d '{json.dumps(content['example'], ensure_ascii=False)}'")
    return " \\\n  ".join(parts)


def _part(schema: Json) -> Json:
    required = set(schema.get("required", ()))
    rows = [
        {
            "name": name,
            "type": words(field),
            "required": name in required,
            "about": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]
    return {"rows": rows, "type": None if rows else words(schema)}


def words(schema: Json) -> Markup:
    """A schema in a few words, with a link to each part that has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    if "anyOf" in schema and "properties" not in schema:
        return Markup(" or ").join(words(each) for each in schema["anyOf"])
    if "const" in schema:
        return escape(json.dumps(schema["const"]))
    if "enum" in schema:
        return _choice(schema["enum"])
    kinds = schema.get("type", "any")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    text = Markup(" or ").join(_kind(each, schema) for each in kinds)
    limits = [
        said.format(_plain(schema[word]))
        for word, said in _LIMITS.items()
        if schema.get(word) is not None
    ]
    if "pattern" in schema and "description" not in schema:
        limits.append(f"matches {schema['pattern']}")
    return text + (f" ({', '.join(limits)})" if limits else "")


def _plain(value: Any) -> Any:
    """30, not 30.0; false, not False."""
    if isinstance(value, float) and value.is_integer():
        return f"{int(value):,}"
    return json.dumps(value) if isinstance(value, bool) else value


def _prose(text: str) -> Markup:
    """With what stands in backticks as code."""
    parts = [
        Markup("<code>{}</code>").format(each) if odd % 2 else escape(each)
        for odd, each in enumerate(text.replace("*", "").split("`"))
    ]
    return Markup("").join(parts)


def _kind(kind: str, schema: Json) -> Markup:
    if kind == "array":
        return Markup("array of ") + words(schema.get("items", {}))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of ") + words(schema["additionalProperties"])
    return escape(kind)


def _choice(choices: list[Any]) -> Markup:
    shown = [str(escape(json.dumps(each))) for each in choices[:_FEW]]
    rest = len(choices) - len(shown)
    return Markup(" | ").join(map(Markup, shown)) + (f" and {rest} more" if rest else "")
