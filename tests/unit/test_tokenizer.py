"""The embedded tokenizer has what the application and the model need."""

import asyncio
import json
import shutil
from pathlib import Path

from serve_app.chat.tokenizer import Tokenizer


def test_every_byte_and_every_digit_is_a_token(tokenizer: Tokenizer) -> None:
    raws = {tokenizer.raw(token) for token in range(tokenizer.vocabulary.size)}
    assert {bytes([byte]) for byte in range(256)} <= raws
    assert all(sum(chr(byte).isdigit() for byte in raw) < 2 for raw in raws)


def test_control_tokens_not_marked_special_stay_text_too(tmp_path: Path, model_dir: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    content = json.loads(file.read_text())
    for token in content["added_tokens"]:
        token["special"] = token["content"] != "<|tool_call|>"
    file.write_text(json.dumps(content))
    tokenizer = Tokenizer.load(tmp_path / "model")
    marker = tokenizer.token_id("<|tool_call|>")
    assert marker not in tokenizer.encode("a<|tool_call|>b", special=False)
    assert marker in tokenizer.encode("a<|tool_call|>b", special=True)


def test_stop_ids_are_the_models_end_tokens(tokenizer: Tokenizer) -> None:
    assert set(tokenizer.vocabulary.stop_ids) == {tokenizer.token_id("<|endoftext|>"), tokenizer.token_id("<|end|>")}


def test_a_text_has_at_least_its_bytes_over_the_longest_token(tokenizer: Tokenizer) -> None:
    longest = max(
        range(tokenizer.vocabulary.size),
        key=lambda token: len(tokenizer.raw(token)) * (token not in tokenizer.vocabulary.control_ids),
    )
    text = tokenizer.raw(longest).decode() * 50
    assert len(tokenizer.encode(text, special=False)) >= len(text.encode()) // tokenizer.vocabulary.longest_token_bytes


def test_ids_outside_the_vocabulary_have_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.raw(10**9) == tokenizer.raw(-1) == b""


async def test_many_short_texts_leave_room_for_other_tasks(tokenizer: Tokenizer) -> None:
    runs = 0

    async def count_runs() -> None:
        nonlocal runs
        while True:
            runs += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(count_runs())
    for _ in range(100):
        await tokenizer.encode_async("word " * 100, special=False)
    task.cancel()
    assert runs > 5
