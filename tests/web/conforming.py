"""A client that holds every answer against the API's own documentation."""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema_rs
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from evoflask.web.openapi import document

_made: dict[str, Any] = {}


def the_document(app: Flask) -> dict[str, Any]:
    """Return the document that all applications share. Make it from the first one."""
    if not _made:
        _made.update(closed(document.build(app)))
    return _made


def closed(made: Any) -> Any:
    """Return the document without undocumented fields: clients ignore them, tests do not."""
    if isinstance(made, list):
        return [closed(each) for each in made]
    if not isinstance(made, dict):
        return made
    found = {name: closed(each) for name, each in made.items()}
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


@functools.cache
def _validator(path: str, method: str, status: str, mimetype: str) -> Any:
    answer = _made["paths"][path][method]["responses"].get(status)
    assert answer is not None, f"{method} {path} does not document {status}"
    if "$ref" in answer:
        answer = _made["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    content = answer["content"]
    assert mimetype in content, f"{method} {path} documents {list(content)}, not {mimetype}"
    schema = {**content[mimetype]["schema"], "components": _made["components"]}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True), answer


class Conforming(FlaskClient):
    """A client that fails if an answer is not documented, or differs from its description."""

    def __init__(self, application: Flask, *args: Any, **more: Any) -> None:
        super().__init__(application, *args, **more)
        the_document(application)

    def open(self, *args: Any, **more: Any) -> TestResponse:
        """As theirs."""
        response = super().open(*args, **more)
        self._check(response)
        return response

    def _check(self, response: TestResponse) -> None:
        found = self._route(response)
        if found is None or response.request.method in ("HEAD", "OPTIONS"):
            return
        rule, arguments = found
        path = document.path_of(rule, arguments.get("sink"))
        if path not in _made["paths"] or response.status_code in (405, 500):
            return
        key = path, response.request.method.lower(), str(response.status_code), response.mimetype
        validator, answer = _validator(*key)
        text = response.get_data(as_text=True)
        value = json.loads(text) if response.mimetype == "application/json" else text
        faults = [f"{list(fault.instance_path)}: {fault}" for fault in validator.iter_errors(value)]
        assert not faults, (key, faults[:3], text[:2000])
        for header in answer.get("headers", ()):
            assert header in response.headers, (key, header)

    def _route(self, response: TestResponse) -> tuple[Rule, dict[str, Any]] | None:
        request = response.request
        adapter = self.application.url_map.bind("localhost")
        try:
            rule, arguments = adapter.match(request.path, method=request.method, return_rule=True)
        except HTTPException:
            return None
        return rule, dict(arguments)
