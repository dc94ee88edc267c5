"""The scripted engine: which answer a prompt gets."""

from serve_app.engine_config import FakeReply, FakeSettings
from serve_app.engines.fake import FakeEngine
from serve_app.models.locate import EMBEDDED
from serve_app.types import Sampling, TokenDelta, TokenRequest
from tests.unit.app import TOKENIZER


async def _ask(engine: FakeEngine, prompt: str) -> str:
    ids = tuple(TOKENIZER.encode(prompt, special=True))
    request = TokenRequest(request_id="r", prompt=ids, sampling=Sampling(max_tokens=50))
    events = [event async for event in engine.generate(request)]
    drawn = [token for event in events if isinstance(event, TokenDelta) for token in event.ids]
    return b"".join(map(TOKENIZER.raw, drawn)).decode()


async def test_the_first_reply_whose_text_is_in_the_prompt_counts() -> None:
    replies = (FakeReply(when="<|end|>\n", text="never"), FakeReply(when="é22", text="warm"), FakeReply(when="22", text="cold"))
    engine = FakeEngine(FakeSettings(text="Hello.", replies=replies, tokens_per_second=5000), EMBEDDED)
    await engine.start()
    assert await _ask(engine, "<|user|>hi<|end|><|assistant|>") == "Hello."
    assert await _ask(engine, "<|user|>é22<|end|><|assistant|>") == "warm"
    assert await _ask(engine, "<|user|>22<|end|><|assistant|>") == "cold"
