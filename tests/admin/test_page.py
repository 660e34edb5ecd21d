"""/docs: the document to read. It needs nothing from elsewhere, and nothing in it is markup but what we make."""

from html.parser import HTMLParser
from typing import Any

import pytest

from admin.openapi import document
from admin.page import render
from tests.admin.gateway import VIEWER_KEY, Gateway, settings_on

pytestmark = pytest.mark.anyio

DOCUMENT = document(settings_on("sqlite:///unused"), "1.2.3")
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "a", "code"),
    *("details", "summary", "span", "table", "tr", "th", "td"),
}
ATTRIBUTES = {"lang", "charset", "name", "content", "id", "href", "class"}


class Read(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for name, value in self.attributes if name == attribute]


async def test_it_is_served_to_who_has_a_key(gateway: Gateway) -> None:
    answer = await gateway.send("GET", "/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; style-src 'unsafe-inline'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text.startswith("<!doctype html>")
    assert (await gateway.send("GET", "/docs", key=VIEWER_KEY)).status_code == 200
    assert (await gateway.send("GET", "/docs", key=None)).status_code == 401
    assert await gateway.ask("POST", "/docs") == (404, {"error_msg": "not found"})


def test_it_tells_all_of_the_document() -> None:
    read = Read(render(DOCUMENT))
    assert read.open == []
    for path, methods in DOCUMENT["paths"].items():
        assert f"/apisix/admin{path}" in read.text
        for method, operation in methods.items():
            assert f"{method.upper()} /apisix/admin{path} {operation['summary']}" in read.text
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert name in read.values("id")
        assert all(member in read.text for member in schema["properties"])
    assert "1.2.3" in read.text


def test_its_links_lead_somewhere() -> None:
    read = Read(render(DOCUMENT))
    links = read.values("href")
    assert links
    assert {link.removeprefix("#") for link in links} <= set(read.values("id"))


def test_it_needs_nothing_from_elsewhere() -> None:
    page = render(DOCUMENT)
    read = Read(page)
    assert read.tags <= TAGS
    assert {name for name, _ in read.attributes} <= ATTRIBUTES
    assert all(link.startswith("#") for link in read.values("href"))
    for word in (
        "<script",
        "<link",
        "<img",
        "@import",
        "url(",
        "http://",
        "https://",
        "javascript:",
    ):
        assert word not in page


EVIL = "<script>alert(1)</script><img src=x onerror=y>\"'&"


@pytest.mark.parametrize("evil", [EVIL, "</style><b>", "'><b x='", '"><b x="', "<!--", "&lt;"])
def test_nothing_in_the_document_is_markup(evil: str) -> None:
    read = Read(render(poisoned(DOCUMENT, evil)))
    assert read.tags <= TAGS
    assert {name for name, _ in read.attributes} <= ATTRIBUTES
    assert read.open == []
    assert evil in read.text


def poisoned(document: dict[str, Any], evil: str) -> dict[str, Any]:
    """The document with `evil` in every text that stands in it."""
    schema = {
        "type": evil,
        "description": evil,
        "properties": {evil: {"type": [evil], "pattern": evil}, "b": {"enum": [evil]}},
        "required": [evil],
    }
    operation = {
        "tags": [evil],
        "summary": evil,
        "parameters": [{"name": evil, "in": evil, "schema": schema, "description": evil}],
        "requestBody": {"content": {evil: {"schema": {"$ref": f"#/components/schemas/{evil}"}}}},
        "responses": {evil: {"description": evil, "content": {evil: {"schema": schema}}}},
    }
    return document | {
        "info": dict.fromkeys(("title", "version", "description"), evil),
        "servers": [{"url": evil}],
        "paths": {evil: {evil: operation}},
        "components": {
            "schemas": {evil: schema},
            "securitySchemes": {evil: {"in": evil, "name": evil}},
        },
    }
