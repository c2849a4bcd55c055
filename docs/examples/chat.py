"""Use what was bought: the official `openai` client at the gateway, streamed and not.

pip install openai
python docs/examples/chat.py var/demo.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from openai import APIStatusError, OpenAI

GRADE = "LLAMA70B"


def main(demo: dict[str, Any]) -> None:
    """Ask twice, and see which class served it and what is left of the entitlement."""
    key = next(one["key"] for one in demo["organizations"] if one["role"] == "buyer")
    client = OpenAI(base_url=f"{demo['gateway']}/v1", api_key=key)
    print("grades:", ", ".join(model.id for model in client.models.list()))

    # Whole. The headers say what the answer cannot.
    raw = client.chat.completions.with_raw_response.create(
        model=GRADE,
        messages=[{"role": "user", "content": "What is baseload?"}],
        max_tokens=32,
        extra_headers={"x-baseload-class": "p2", "x-baseload-overflow": "spill"},
    )
    answer = raw.parse()
    assert answer.usage is not None
    print(f"{answer.usage.prompt_tokens} tokens in, {answer.usage.completion_tokens} out")
    for name in ("class-served", "queue-ms", "entitlement-remaining-ntu", "pool"):
        print(f"  x-baseload-{name}: {raw.headers.get('x-baseload-' + name)}")

    # Streamed, with its usage at the end.
    pieces = 0
    for chunk in client.chat.completions.create(
        model=GRADE,
        messages=[{"role": "user", "content": "And what is a peak?"}],
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    ):
        pieces += bool(chunk.choices)
        if chunk.usage is not None:
            print(f"streamed {pieces} chunks, {chunk.usage.completion_tokens} tokens out")

    # A refusal has OpenAI's form, and its code.
    try:
        client.chat.completions.create(model="NOTHING", messages=[{"role": "user", "content": "?"}])
    except APIStatusError as error:
        print(f"{error.status_code} {error.code}")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else "var/demo.json").read_text()))
