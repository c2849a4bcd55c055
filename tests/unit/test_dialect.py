"""What is read of a request and an answer, and what is refused."""

import json

import pytest

from admission import answer, bounds, dialect
from marketplace.contract import Usage


def chat(**fields) -> dialect.Call:
    body = {"model": "M", "messages": [{"role": "user", "content": "hi"}], **fields}
    return dialect.parse(dialect.CHAT, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {}, "stream": None, "n": -1}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"best_of": 3}, "best_of"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"kv_transfer_params": {"x": 1}}, "kv_transfer_params"),
        ({"service_tier": "gold"}, "service_tier"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1"}}],
                    }
                ]
            },
            "messages",
        ),
    ],
)
def test_a_parameter_that_cannot_be_served_is_named(fields: dict, param: str) -> None:
    with pytest.raises(dialect.Refused) as refused:
        chat(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize("kind", ["image_url", "video_url"])
@pytest.mark.parametrize(
    ("url", "is_passed_on"),
    [
        ("data:image/png;base64,AAAA", True),
        ("https://example.com/a.png", True),
        ("https://93.184.215.14/a.png", True),
        ("http://example.com/a.png", False),
        ("file:///etc/passwd", False),
        ("https://127.0.0.1/a.png", False),
        ("https://169.254.169.254/latest", False),
        ("https://[::1]/a.png", False),
        ("https://0x7f.1/a.png", False),
        ("https://2130706433/a.png", False),
        ("https://localhost/a.png", False),
        ("https://metadata.google.internal/", False),
        ("https://me:secret@example.com/a.png", False),
        ("https://[", False),
        (5, False),
    ],
)
def test_a_picture_is_inline_or_on_the_public_web(
    url: object, is_passed_on: bool, kind: str
) -> None:
    content = [{"type": kind, kind: {"url": url}}]
    messages = [{"role": "user", "content": content}]
    if is_passed_on:
        assert chat(messages=messages).images == (kind == "image_url")
        return
    with pytest.raises(dialect.Refused) as refused:
        chat(messages=messages)
    assert (refused.value.status, refused.value.param) == (400, "messages")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"nan"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(dialect.Refused) as refused:
        dialect.parse(dialect.CHAT, body)
    assert refused.value.code == "invalid_json"


def test_the_gateway_writes_the_fields_it_owns_and_passes_the_others_on() -> None:
    call = chat(priority=-9, cache_salt="mine", seed=4, service_tier="flex", tools=[{"a": 1}])
    sent = json.loads(
        dialect.upstream_body(
            call,
            model="G",
            output_tokens_max=77,
            priority=3,
            request_id="r",
            cache_salt="s",
            is_extended=True,
        )
    )
    assert call.tier_class == "P3"
    assert sent == {
        "model": "G",
        "messages": [{"role": "user", "content": "hi"}],
        "seed": 4,
        "tools": [{"a": 1}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 77,
        "priority": 3,
        "request_id": "r",
        "cache_salt": "s",
    }


@pytest.mark.parametrize(
    ("path", "asked", "sent"),
    [
        (dialect.CHAT, {}, {"max_tokens": 9}),
        (dialect.CHAT, {"max_tokens": 5}, {"max_tokens": 5}),
        (dialect.CHAT, {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        (
            dialect.CHAT,
            {"max_completion_tokens": 4_000, "max_tokens": 2},
            {"max_completion_tokens": 2, "max_tokens": 2},
        ),
        (dialect.COMPLETIONS, {}, {"max_tokens": 9}),
        (dialect.COMPLETIONS, {"max_completion_tokens": 2}, {"max_tokens": 9}),
        (dialect.COMPLETIONS, {"max_completion_tokens": 2, "max_tokens": 5}, {"max_tokens": 5}),
    ],
)
def test_the_limit_that_is_billed_is_the_limit_the_upstream_heeds(
    path: str, asked: dict, sent: dict
) -> None:
    body = {"model": "M", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", **asked}
    call = dialect.parse(path, json.dumps(body).encode())

    upstream = json.loads(
        dialect.upstream_body(
            call,
            model="M",
            output_tokens_max=call.output_tokens_max or 9,
            priority=2,
            request_id="r",
            cache_salt="s",
            is_extended=False,
        )
    )

    assert {name: upstream[name] for name in upstream if name.startswith("max_")} == sent


def test_lists_of_prompts_multiply_the_choices() -> None:
    body = {"model": "M", "prompt": ["a", "b", "c"], "n": 2}
    assert dialect.parse(dialect.COMPLETIONS, json.dumps(body).encode()).choices == 6
    with pytest.raises(dialect.Refused):
        dialect.parse(dialect.COMPLETIONS, json.dumps(body | {"n": 3}).encode())


def test_usage_beyond_what_can_be_true_is_held_to_the_bound() -> None:
    bound = bounds.Bound(prompt_tokens_max=100, output_tokens_max=10)
    before = Usage(prompt=50, cached=10, output=4)
    for claim, held, was in (
        (Usage(prompt=50, cached=10, output=5), Usage(prompt=50, cached=10, output=5), False),
        (Usage(prompt=500, cached=10, output=5), Usage(prompt=100, cached=10, output=5), True),
        (Usage(prompt=50, cached=60, output=5), Usage(prompt=50, cached=50, output=5), True),
        (Usage(prompt=50, cached=10, output=99), Usage(prompt=50, cached=10, output=10), True),
        (Usage(prompt=40, cached=10, output=3), Usage(prompt=50, cached=10, output=4), True),
    ):
        assert bounds.hold(claim, before=before, bound=bound, streamed_bytes=1_000) == (held, was)
    few = bounds.hold(
        Usage(prompt=1, cached=0, output=9), before=bounds.NOTHING, bound=bound, streamed_bytes=3
    )
    assert few[0].output == 3


def test_events_are_cut_out_of_any_packets() -> None:
    whole = b': hi\n\ndata: {"a":1}\r\n\r\ndata: {"b":2}\n\ndata: [DONE]\n\n'
    for size in (1, 2, 3, 7, 100):
        reader = answer.EventReader()
        found = []
        for start in range(0, len(whole), size):
            found += reader.feed(whole[start : start + size])
        assert found == [b'{"a":1}', b'{"b":2}', b"[DONE]"]


@pytest.mark.parametrize(
    "data",
    [
        b"oops",
        b"[]",
        b'{"choices":5}',
        b'{"choices":[5]}',
        b'{"choices":[{"index":"0"}]}',
        b'{"choices":[{"index":0,"delta":"x"}]}',
        b'{"choices":[{"index":0,"delta":{"tool_calls":"x"}}]}',
        b'{"choices":[{"index":0,"delta":{"tool_calls":[5]}}]}',
        b'{"error":{"message":"x"}}',
    ],
)
def test_a_chunk_that_is_none_is_garbled(data: bytes) -> None:
    with pytest.raises(answer.Garbled):
        answer.decode(data)


@pytest.mark.parametrize("count", ["5", -1, 1.5, True, 1 << 60])
def test_counts_that_are_not_whole_numbers_are_garbled(count: object) -> None:
    with pytest.raises(answer.Garbled):
        answer.usage_of({"usage": {"prompt_tokens": 1, "completion_tokens": count}})


@pytest.mark.parametrize("name", ["prompt_tokens_details", "completion_tokens_details"])
def test_details_of_usage_that_are_no_object_are_garbled(name: str) -> None:
    with pytest.raises(answer.Garbled):
        answer.usage_of({"usage": {"prompt_tokens": 1, name: [1]}})


def test_fields_that_are_null_until_they_have_a_value_are_put_together() -> None:
    usage = Usage(prompt=1, cached=0, output=1)
    nothing = {"role": "assistant", "content": None, "tool_calls": None}
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    for deltas, said in (
        ([nothing, {"content": "a", "tool_calls": None}], ("a", None)),
        ([nothing, {"tool_calls": [call]}], (None, "c")),
        ([None], (None, None)),
    ):
        assembly = answer.Assembly()
        for delta in deltas:
            chunk = {"error": None, "choices": [{"index": 0, "delta": delta}]}
            assembly.add(answer.decode(json.dumps(chunk).encode()))
        message = json.loads(assembly.answer(usage=usage, service_tier="default"))["choices"][0][
            "message"
        ]
        calls = message.get("tool_calls")
        assert (message["content"], calls and calls[0]["id"]) == said


def test_pieces_of_tool_calls_are_joined_by_their_index() -> None:
    assembly = answer.Assembly()
    for delta in (
        {"role": "assistant", "content": None},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "c0",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a"'},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {
            "tool_calls": [
                {
                    "index": 1,
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "g", "arguments": "{}"},
                }
            ]
        },
    ):
        assembly.add({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    assembly.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    usage = Usage(prompt=1, cached=0, output=2)
    (choice,) = json.loads(assembly.answer(usage=usage, service_tier="default"))["choices"]
    assert choice == {
        "index": 0,
        "finish_reason": "tool_calls",
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
    }
