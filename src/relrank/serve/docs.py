"""The OpenAPI description as an HTML page without scripts or external resources."""

from __future__ import annotations

import json
from html import escape
from typing import Any

STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
:root { color-scheme: light dark }
code, pre { font: .9rem/1.4 ui-monospace, monospace }
pre { overflow-x: auto; padding: .5rem; border: 1px solid #8886 }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top }
"""


def docs_page(openapi: dict[str, Any]) -> str:
    """HTML of every route with its parameters, its body and its response."""
    title = escape(f"{openapi['info']['title']} {openapi['info']['version']}")
    parts = [f"<h1>{title}</h1>", f"<p>{escape(openapi['info'].get('description', ''))}</p>"]
    parts.append('<p>For programs: <a href="/openapi.json">/openapi.json</a></p>')
    for path, methods in openapi["paths"].items():
        for method, of in methods.items():
            parts += _route(path, method.upper(), of, openapi)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>"
    )


def _route(path: str, method: str, of: dict[str, Any], openapi: dict[str, Any]) -> list[str]:
    parts = [f"<h2><code>{method} {escape(path)}</code></h2>", f"<p>{escape(of.get('description', ''))}</p>"]
    rows = [
        f"<tr><td><code>{escape(p['name'])}</code><td>{escape(p['in'])}<td><code>{escape(_type(p['schema']))}</code>"
        f"<td>{escape(p.get('description', ''))}"
        for p in of.get("parameters", ())
    ]
    if rows:
        parts.append(f"<table><tr><th>parameter<th>in<th>type<th>{''.join(rows)}</table>")
    for heading, content in (("body", of.get("requestBody", {})), ("answer", of["responses"].get("200", {}))):
        schema = content.get("content", {}).get("application/json", {}).get("schema")
        if schema:
            text = json.dumps(_example(schema, openapi["components"]["schemas"]), indent=1, ensure_ascii=False)
            parts.append(f"<p>{heading}</p><pre>{escape(text)}</pre>")
    return parts


def _type(schema: dict[str, Any]) -> str:
    """A schema as a short text."""
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"])
    text = str(schema.get("type", "any"))
    if text == "array":
        return f"[{_type(schema['items'])}]"
    bounds = [f"{sign} {schema[key]:,}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in schema]
    default = [f"default {json.dumps(schema['default'])}"] if schema.get("default") is not None else []
    return ", ".join([text, *bounds, *default])


def _example(schema: dict[str, Any], known: dict[str, Any], inside: tuple[str, ...] = ()) -> Any:
    """A schema as JSON with types in place of values; a schema inside itself as its name."""

    def example(part: dict[str, Any]) -> Any:
        return _example(part, known, inside)

    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"{name}, as above" if name in inside else _example(known[name], known, (*inside, name))
    if schema.get("type") == "object" and "properties" in schema:
        return {name: example(of) for name, of in schema["properties"].items()}
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return {"…": example(schema["additionalProperties"])}
    if schema.get("type") == "array":
        return [example(schema["items"])]
    if "anyOf" in schema and any("$ref" in one or one.get("type") in ("array", "object") for one in schema["anyOf"]):
        return example(schema["anyOf"][0])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    return _type(schema)
