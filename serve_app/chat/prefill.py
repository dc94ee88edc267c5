"""Prompts that hold the beginning of the answer: a client's text, an empty thought, or a tag that opens one. Knows no dialect."""

from dataclasses import replace

from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Chat, Ending, Prompt


def suppress_thoughts(prompt: Prompt, tags: tuple[str, str]) -> Prompt:
    """Return a prompt whose answer begins with an empty thought, so that none follows; prefilled and closed prompts stay."""
    if not isinstance(prompt, Chat) or prompt.prefill or prompt.ending is Ending.CLOSED:
        return prompt
    return replace(prompt, opening=f"{tags[0]}\n\n{tags[1]}\n\n")


def set_thinking(prompt: Prompt, *, think: bool) -> Prompt:
    """Return a prompt that asks the model to think or not, for a format with a switch for it."""
    return replace(prompt, think=think) if isinstance(prompt, Chat) else prompt


def find_answer_prefix(prompt: Prompt, ids: tuple[int, ...], tokenizer: Tokenizer, think_tags: tuple[str, str] | None) -> str:
    """Return the beginning of the answer in the prompt: the client's text, or the tag with which a template opens a thought."""
    if isinstance(prompt, Chat) and prompt.prefill:
        return prompt.prefill
    if think_tags is None:
        return ""
    begin = think_tags[0]
    tail = b"".join(map(tokenizer.raw, ids[-2 * len(begin) - 2 :])).decode("utf-8", "replace")
    return begin if tail.rstrip().endswith(begin) else ""
