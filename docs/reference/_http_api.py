"""The OpenAPI document as Markdown: routes by resource, then the schemas of their bodies."""

from typing import Any

Json = dict[str, Any]


def render_api(document: Json) -> str:
    """Returns all routes and schemas of an OpenAPI 3.1 document."""
    parts: list[str] = []
    for tag in document["tags"]:
        operations = [
            (method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if tag["name"] in operation.get("tags", ())
        ]
        parts += [f"## {tag['name'].capitalize()}", tag.get("description", "")]
        parts += [render_operation(*operation) for operation in operations]
    parts.append("## Schemas")
    parts += [render_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n\n".join(parts)


def render_operation(method: str, path: str, operation: Json) -> str:
    """Returns one route: summary, description, parameters, body and answers."""
    parts = [f"### {operation['summary']}", f"`{method} {path}`", operation.get("description", "")]
    if parameters := operation.get("parameters"):
        rows = [
            f"| `{each['name']}` | {each['in']} | {render_type(each.get('schema', {}))} "
            f"| {escape(each.get('description', ''))} |"
            for each in parameters
        ]
        parts.append("\n".join(["| Parameter | In | Type | Meaning |", "|---|---|---|---|", *rows]))
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body, `{media_type}`: {render_type(content.get('schema', {}))}")
    answers = []
    for status, response in operation["responses"].items():
        types = [
            render_type(content["schema"]) for content in response.get("content", {}).values() if "schema" in content
        ]
        answers.append(f"| {status} | {escape(response.get('description', ''))} | {', '.join(dict.fromkeys(types))} |")
    parts.append("\n".join(["| Status | Meaning | Body |", "|---|---|---|", *answers]))
    return "\n\n".join(part for part in parts if part)


def render_schema(name: str, schema: Json) -> str:
    """Returns one schema: its fields, or its values if it is an enumeration."""
    parts = [f"### {name}", escape(schema.get("description", ""))]
    if "enum" in schema:
        parts.append("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".")
    elif "properties" in schema:
        required = schema.get("required", ())
        rows = [
            f"| `{field}` | {render_type(each)} | {'required' if field in required else render_default(each)} "
            f"| {escape(each.get('description', ''))} |"
            for field, each in schema["properties"].items()
        ]
        parts.append("\n".join(["| Field | Type | Default | Meaning |", "|---|---|---|---|", *rows]))
    else:
        parts.append(render_type(schema))
    return "\n\n".join(part for part in parts if part)


def render_type(schema: Json) -> str:
    """Returns a type in words; a named schema is a link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(render_type(option) for option in options))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        items = schema.get("items") or {}
        return f"list of {render_type(items)}" if items else "list"
    if schema.get("type") == "object" and schema.get("properties"):
        return "object with " + ", ".join(f"`{name}`" for name in schema["properties"])
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {render_type(schema['additionalProperties'])}"
    return {"binary": "file"}.get(schema.get("format", ""), str(schema.get("type", "any")))


def render_default(schema: Json) -> str:
    """Returns the default value of a field; empty if there is none."""
    default = schema.get("default")
    return "" if default in (None, [], {}, "") else f"`{default}`"


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
