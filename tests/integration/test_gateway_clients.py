"""Other people's clients, unchanged, against the gateway: LiteLLM and LangChain."""

import asyncio
import importlib
from collections.abc import Iterator

import pytest
import valkey as valkey_client

from marketplace import keys
from tests.delivery import Stage, stage
from tests.market import GRADE, Market

pytestmark = pytest.mark.django_db(transaction=True)

HELLO = [{"role": "user", "content": "Say what an hour of capacity costs, and why."}]


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


@pytest.fixture
def litellm(monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # nothing is fetched at import
    return importlib.import_module("litellm")


def test_litellm_completes_streams_and_is_told_why_not(delivery: Stage, litellm) -> None:
    asked = {
        "model": f"openai/{GRADE}",
        "messages": HELLO,
        "api_base": delivery.url,
        "api_key": delivery.keys["buyer"],
        "max_tokens": 12,
        "num_retries": 0,
    }
    answer = litellm.completion(**asked)
    assert len(answer.choices[0].message.content.split()) == 12
    assert answer.usage.completion_tokens == 12

    chunks = list(litellm.completion(stream=True, stream_options={"include_usage": True}, **asked))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == 12

    first, second = delivery.ends(2)
    assert (first.state, first.output_tokens) == (second.state, second.output_tokens)
    assert (first.state, first.output_tokens) == ("COMPLETED", 12)
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**asked | {"api_key": "bl_nobody"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**asked | {"model": "openai/NOBODY"})


def test_litellm_asks_many_at_once(delivery: Stage, litellm) -> None:
    async def ask() -> list[int]:
        answers = await asyncio.gather(
            *(
                litellm.acompletion(
                    model=f"openai/{GRADE}",
                    messages=HELLO,
                    api_base=delivery.url,
                    api_key=delivery.keys["queueing"],
                    max_tokens=count,
                )
                for count in (4, 5, 6)
            )
        )
        return [answer.usage.completion_tokens for answer in answers]

    assert asyncio.run(ask()) == [4, 5, 6]
    assert sorted(event.output_tokens for event in delivery.ends(3)) == [4, 5, 6]


def test_langchain_invokes_streams_and_passes_tools(delivery: Stage) -> None:
    import langchain_openai

    model = langchain_openai.ChatOpenAI(
        model=GRADE,
        base_url=delivery.url,
        api_key=delivery.keys["buyer"],
        max_tokens=10,
        max_retries=0,
        stream_usage=True,
    )
    answer = model.invoke("Say what an hour of capacity costs.")
    assert len(answer.content.split()) == 10
    assert answer.usage_metadata["output_tokens"] == 10

    pieces = list(model.stream("And the next one?"))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert len(whole.content.split()) == 10
    assert whole.usage_metadata["output_tokens"] == 10

    def price(hour: int) -> int:
        """Return the price of an hour."""
        return hour

    tooled = model.bind_tools([price]).invoke("What does hour 3 cost?")
    assert len(tooled.content.split()) == 10, "the model server has no tools, and says so in words"
    assert [event.state for event in delivery.ends(3)] == ["COMPLETED"] * 3
