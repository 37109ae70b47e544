"""The OpenAPI description, which names the errors of every route in the form they really have."""

from typing import Any

from fastapi import FastAPI

ERROR = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What is wrong, in words"}},
}
OTHERS = {"4XX": "Refused; the answer says why", "5XX": "Not now, or broken here"}


class Described(FastAPI):
    """An application whose description holds its errors as well."""

    def openapi(self) -> dict[str, Any]:
        """The description; made once."""
        if self.openapi_schema is None:
            made = super().openapi()
            kinds = made.setdefault("components", {}).setdefault("schemas", {})
            kinds["Error"] = ERROR
            for unused in ("HTTPValidationError", "ValidationError"):
                kinds.pop(unused, None)
            for path, item in made["paths"].items():
                for operation in item.values():
                    _describe(path, operation["responses"])
            self.openapi_schema = made
        return self.openapi_schema


def _describe(path: str, responses: dict[str, Any]) -> None:
    """Give each error its type; FastAPI's own 422 has a form that is not sent here."""
    content: dict[str, Any] = {"text/html": {"schema": {"type": "string"}}}
    if path.startswith("/api/"):
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for status, description in OTHERS.items():
        responses.setdefault(status, {"description": description})
    for status, response in responses.items():
        if status[0] in "45":
            response["content"] = content
