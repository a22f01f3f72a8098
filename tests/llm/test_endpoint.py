import pytest
from pydantic import ValidationError

from aflow_jax.errors import UserError
from aflow_jax.llm import Endpoint, load_endpoint
from aflow_jax.paths import packaged_config

SECRET = "sk-planted-0123456789abcdef"


def write(tmp_path, text):
    path = tmp_path / "aflow_llm.yaml"
    path.write_text(text)
    return path


def entry(tmp_path, body, base_url="https://example.org/v1"):
    return write(tmp_path, f"models:\n  mine:\n    base_url: {base_url}\n" + body)


def one_line(raised):
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_shipped_config_names_gpt_4o_mini_at_openai_with_its_list_price(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    endpoint = load_endpoint(packaged_config("aflow_llm.yaml"), "gpt-4o-mini")
    assert endpoint.base_url == "https://api.openai.com/v1"
    assert endpoint.model_name == "gpt-4o-mini"
    assert endpoint.api_key.get_secret_value() == SECRET
    assert endpoint.effective_price.usd(1_000_000, 1_000_000) == pytest.approx(0.15 + 0.60)


@pytest.mark.parametrize("name", ["vllm", "ollama"])
def test_shipped_local_servers_need_no_key(name):
    endpoint = load_endpoint(packaged_config("aflow_llm.yaml"), name)
    assert endpoint.api_key is None
    assert endpoint.is_loopback


def test_missing_key_names_variable_file_and_mend(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError) as raised:
        load_endpoint(packaged_config("aflow_llm.yaml"), "gpt-4o-mini")
    text = one_line(raised)
    assert "OPENAI_API_KEY" in text and "aflow_llm.yaml" in text and "export OPENAI_API_KEY=" in text


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://localhost:9/v1", "http://[::1]:9/v1"])
def test_loopback_endpoint_does_not_need_its_key(tmp_path, monkeypatch, url):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert load_endpoint(entry(tmp_path, "    api_key: ${OPENAI_API_KEY}\n", url), "mine").api_key is None


def test_other_models_variables_need_not_be_set(tmp_path, monkeypatch):
    monkeypatch.delenv("ABSENT", raising=False)
    path = write(
        tmp_path,
        "models:\n  a: {base_url: 'http://localhost:1/v1'}\n"
        "  b: {base_url: 'https://e.org/v1', api_key: '${ABSENT}'}\n",
    )
    assert load_endpoint(path, "a").model_name == "a"


def test_variables_are_expanded_in_every_value(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_HOST", "localhost:4321")
    endpoint = load_endpoint(entry(tmp_path, "    model_name: x\n", "http://${MY_HOST}/v1"), "mine")
    assert endpoint.base_url == "http://localhost:4321/v1"


def test_key_is_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    endpoint = load_endpoint(entry(tmp_path, "    api_key: ${MY_KEY}\n"), "mine")
    for shown in (repr(endpoint), str(endpoint), endpoint.model_dump_json(), repr(vars(endpoint))):
        assert SECRET not in shown


def test_key_written_in_the_file_is_refused_without_showing_it(tmp_path):
    with pytest.raises(UserError) as raised:
        load_endpoint(entry(tmp_path, f"    api_key: {SECRET}\n"), "mine")
    assert "environment" in one_line(raised)
    assert SECRET not in str(raised.value)


def test_misplaced_secret_is_not_shown_by_range_errors(tmp_path):
    with pytest.raises(UserError) as raised:
        load_endpoint(entry(tmp_path, f"    temperature: {SECRET}\n"), "mine")
    assert "temperature" in one_line(raised)
    assert SECRET not in str(raised.value)
    with pytest.raises(ValidationError) as invalid:
        Endpoint(name="x", model_name="x", base_url=f"nonsense {SECRET}")
    assert SECRET not in str(invalid.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    modelname: x\n", ["'modelname'", "'model_name'"]),
        ("    temperature: 3\n", ["temperature", "2"]),
        ("    max_tokens: 0\n", ["max_tokens", "1"]),
        ("    price: {input: -1, output: 1}\n", ["price.input", "0"]),
        ("    price: {inputs: 1, output: 1}\n", ["price"]),
        ("    api_type: anthropic\n", ["api_type", "openai"]),
        ("    model_name: ${ABSENT_NAME}\n", ["model_name", "ABSENT_NAME"]),
    ],
)
def test_bad_entries_name_the_key_and_the_mend(tmp_path, monkeypatch, body, words):
    monkeypatch.delenv("ABSENT_NAME", raising=False)
    path = entry(tmp_path, body)
    with pytest.raises(UserError) as raised:
        load_endpoint(path, "mine")
    assert all(word in one_line(raised) for word in [str(path), "models.mine", *words])


@pytest.mark.parametrize("url", ["ftp://e.org", "example.org/v1", "https://user:pw@e.org/v1", "https://e.org/v1?key=1"])
def test_addresses_that_are_none_are_refused(tmp_path, url):
    with pytest.raises(UserError, match="base_url"):
        load_endpoint(entry(tmp_path, "", f"'{url}'"), "mine")


def test_unknown_model_names_the_nearest_known_one():
    with pytest.raises(UserError, match=r"did you mean 'gpt-4o-mini'\?"):
        load_endpoint(packaged_config("aflow_llm.yaml"), "gpt4o-mini")


@pytest.mark.parametrize(
    ("text", "words"),
    [("models: [", "YAML"), ("model: {}", "models"), ("", "models"), ("models: {mine: 3}", "mapping")],
)
def test_malformed_files_are_one_line_errors(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=words) as raised:
        load_endpoint(path, "mine")
    assert str(path) in one_line(raised)


def test_missing_file_is_a_one_line_error(tmp_path):
    with pytest.raises(UserError) as raised:
        load_endpoint(tmp_path / "none.yaml", "mine")
    assert "none.yaml" in one_line(raised)


@pytest.mark.parametrize(
    ("base_url", "model", "known"),
    [
        ("https://api.openai.com/v1", "gpt-4o-mini-2024-07-18", True),
        ("https://api.openai.com/v1", "gpt-4o-minimal", False),
        ("http://localhost:8000/v1", "gpt-4o-mini", False),
        ("https://gateway.example.org/v1", "gpt-4o-mini", False),
    ],
)
def test_list_prices_are_of_the_makers_own_api_and_others_unknown(base_url, model, known):
    endpoint = Endpoint(name="x", base_url=base_url, model_name=model)
    assert (endpoint.effective_price is not None) == known


def test_prompt_tokens_from_the_servers_cache_cost_their_own_price():
    price = Endpoint(
        name="x", base_url="http://h/v1", model_name="m", price={"input": 2, "output": 8, "cached_input": 1}
    ).effective_price
    assert price.usd(1000, 100, 400) == pytest.approx((600 * 2 + 400 * 1 + 100 * 8) / 1e6)


def test_shipped_local_model_needs_neither_address_nor_key_and_costs_nothing():
    endpoint = load_endpoint(packaged_config("aflow_llm.yaml"), "local")
    assert (endpoint.base_url, endpoint.api_key, endpoint.is_loopback) == (None, None, True)
    assert endpoint.effective_price.usd(1_000_000, 1_000_000) == 0


@pytest.mark.parametrize("key", ["base_url: http://localhost:1/v1", "api_key: ${KEY}", "model_name: m"])
def test_a_local_model_has_nothing_that_a_server_has(tmp_path, key):
    path = write(tmp_path, "models:\n  mine:\n    api_type: local\n    " + key + "\n")
    with pytest.raises(UserError, match="mine." + key.partition(":")[0]) as raised:
        load_endpoint(path, "mine")
    assert "leave" in one_line(raised)


def test_a_server_without_an_address_is_refused(tmp_path):
    with pytest.raises(UserError, match="base_url is missing"):
        load_endpoint(write(tmp_path, "models:\n  mine: {model_name: m}\n"), "mine")
    with pytest.raises(ValidationError):
        Endpoint(name="mine", model_name="m")
    with pytest.raises(ValidationError):
        Endpoint(name="mine", model_name="m", api_type="local", base_url="http://localhost:1/v1")
