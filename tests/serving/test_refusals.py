"""What the server does not serve, and how it says so: in OpenAI's form, with the field at fault."""

import json
import logging

import httpx2
import openai
import pytest
from served import KEY

CHAT = {"model": "base", "messages": [{"role": "user", "content": "a fox"}], "max_tokens": 4}
TEXT = {"model": "base", "prompt": "a fox", "max_tokens": 4}


def post(server, path, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(
        server.base_url + path, content=content, headers={"content-type": "application/json", **headers}, timeout=60
    )


def error_of(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    return error


BAD_CHATS = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a", "name": "Eve"}]}, "messages[0].name"),
    ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"model": None}, "model"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": 1}, "min_p"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"seed": 2**64}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"top_logprobs": 2, "logprobs": True}, "top_logprobs"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"functions": [{}]}, "functions"),
    ({"temprature": 1}, "temprature"),
]


@pytest.mark.parametrize(("change", "param"), BAD_CHATS, ids=lambda value: str(value)[:50])
def test_a_chat_that_is_malformed_or_asks_for_too_much_is_refused_by_its_field(server, change, param):
    error = error_of(post(server, "/chat/completions", CHAT | change), 400)
    assert error["param"] == param
    assert param.rpartition(".")[2] in error["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": [420]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 129}, "n"),
        ({"prompt": "a " * 200}, "prompt"),
        ({"logprobs": 2}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"messages": []}, "messages"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_completion_that_is_malformed_or_asks_for_too_much_is_refused_by_its_field(server, change, param):
    assert error_of(post(server, "/completions", TEXT | change), 400)["param"] == param


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"null", b'{"model": "base"', b"\xff\xfe", b"[" * 5000, b'{"model": "\\ud800"}', b"NaN"],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_object_is_refused(server, body):
    error_of(post(server, "/chat/completions", body), 400)


def test_a_body_of_another_type_is_refused(server):
    error = error_of(post(server, "/chat/completions", CHAT, **{"content-type": "text/plain"}), 400)
    assert "application/json" in error["message"]


def test_a_body_above_the_bound_is_refused_unread(server):
    long = CHAT | {"messages": [{"role": "user", "content": "a" * 30_000}]}
    assert error_of(post(server, "/chat/completions", long), 413)["code"] == "request_too_large"


def test_other_addresses_and_methods_are_refused_in_the_same_form(server):
    assert error_of(post(server, "/embeddings", {}), 404)["code"] == "unknown_url"
    response = httpx2.get(server.base_url + "/chat/completions")
    assert error_of(response, 405)["code"] == "method_not_allowed"


def test_every_address_but_health_needs_the_key_where_there_is_one(locked_server):
    with pytest.raises(openai.AuthenticationError):
        locked_server.client(api_key="wrong").models.list()
    for given in ("", KEY, "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ключ", f"Basic {KEY}"):
        error_of(post(locked_server, "/chat/completions", CHAT, authorization=given.encode()), 401)
    assert [card.id for card in locked_server.client(api_key=KEY).models.list()] == ["base", "policy"]
    root = locked_server.base_url.removesuffix("/v1")
    error_of(httpx2.get(root + "/metrics"), 401)
    error_of(post(locked_server, "/chat/completions", CHAT), 401)
    assert httpx2.get(root + "/health").json() == {"status": "ok"}


def test_the_key_is_shown_nowhere(locked_server, caplog):
    with caplog.at_level(logging.DEBUG):
        locked_server.client(api_key=KEY).chat.completions.create(**CHAT)
        refused = post(locked_server, "/chat/completions", CHAT, authorization=f"Bearer {KEY}x")
    assert KEY not in refused.text
    assert KEY not in repr(locked_server.settings)
    assert not any(KEY in record.getMessage() for record in caplog.records if record.name.startswith("uvicorn"))


def test_metrics_are_counted_in_prometheus_text(server):
    prometheus = pytest.importorskip("prometheus_client.parser")
    url = server.base_url.removesuffix("/v1") + "/metrics"

    def read():
        families = prometheus.text_string_to_metric_families(httpx2.get(url).text)
        return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}

    before = read()
    usage = server.client().chat.completions.create(**CHAT).usage
    post(server, "/chat/completions", CHAT | {"n": 0})
    post(server, "/no/such/thing", {})
    after = read()
    grown = {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}
    assert grown["aflow_prompt_tokens_total",] == usage.prompt_tokens
    assert grown["aflow_completion_tokens_total",] == usage.completion_tokens
    assert grown["aflow_requests_total", "/v1/chat/completions", "200"] == 1
    assert grown["aflow_requests_total", "/v1/chat/completions", "400"] == 1
    assert grown["aflow_requests_total", "404", "other"] == 1
    assert grown["aflow_time_to_first_token_seconds_count",] == 1
    assert after["aflow_completions_unfinished",] == 0
