"""Who follows APISIX's documentation gets what it says, on each store."""

import json
from typing import Any

import pytest

from tests.admin.gateway import Gateway, key_lines
from tests.admin.walkthrough import MORE_KEY, OFFERED, PAGES, Step

pytestmark = pytest.mark.anyio

HOSTS = ("test.com", "test2.com", "mtls.test.com", "client.example.com")
SHAPES = {
    "PUT": {"key", "value"},
    "POST": {"key", "value"},
    "PATCH": {"key", "value"},
    "GET": {"key", "value", "createdIndex", "modifiedIndex"},
    "DELETE": {"key", "deleted"},
}


@pytest.mark.parametrize("page", PAGES)
async def test_a_page(any_gateway: Gateway, page: str) -> None:
    for number, step in enumerate(PAGES[page], 1):
        if step.part not in OFFERED:
            continue
        content = b"" if step.body is ... else json.dumps(step.body)
        answer = await any_gateway.send(step.method, step.path, content)
        about = f"{page} {number}: {step.method} {step.path}: {answer.text}"
        assert answer.status_code == step.code, about
        is_json = answer.headers["content-type"] == "application/json"
        check(any_gateway, step, answer.json() if is_json else answer.text, about)
    private = key_lines(*HOSTS) + MORE_KEY.splitlines()[1:-1]
    assert not [line for line in private if line in any_gateway.said]


def check(gateway: Gateway, step: Step, body: Any, about: str) -> None:
    """That an answer is what the step expects, and of the shape that all answers to such a request have."""
    if step.answer is not ...:
        assert body == step.answer, about
    elif step.ids is not None:
        check_list(step, step.ids, body, about)
    else:
        assert set(body) == SHAPES[step.method], about
        assert body["key"].startswith(f"{gateway.prefix}{collection_of(step)}/"), about
        if step.method == "DELETE":
            assert body["deleted"] == "1", about
        else:
            check_object(step, body, about)


def check_object(step: Step, body: dict[str, Any], about: str) -> None:
    """Its id, its times, and the members of the step."""
    value = body["value"]
    assert body["key"].rpartition("/")[2] == str(value["id"]), about
    assert 0 < value["create_time"] <= value["update_time"], about
    expected = step.value or {}
    assert {name: value.get(name) for name in expected} == expected, about
    assert not value.keys() & set(step.lacks), about


def check_list(step: Step, ids: tuple[str, ...], body: dict[str, Any], about: str) -> None:
    """The objects that it shows, and how many there are."""
    assert set(body) == {"list", "total"}, about
    assert all(set(one) == SHAPES["GET"] for one in body["list"]), about
    shown = [str(one["value"]["id"]) for one in body["list"]]
    if "page=" in step.path or not shown:
        assert shown == list(ids), about
    else:  # in key order, where 10 comes before 2
        assert shown == sorted(ids), about
    assert body["total"] == (len(ids) if step.total is None else step.total), about


def collection_of(step: Step) -> str:
    """Such as /ssls."""
    return "/" + step.path.partition("?")[0].split("/")[1]


@pytest.mark.parametrize("page", PAGES)
def test_the_steps_of_a_page_expect_something(page: str) -> None:
    steps = PAGES[page]
    assert all(step.path.startswith("/") for step in steps)
    for step in steps:
        expects = step.value is not None, step.ids is not None, step.answer is not ...
        assert sum(expects) == 1 or step.method == "DELETE"
        assert step.code < 400 or step.answer is not ...
