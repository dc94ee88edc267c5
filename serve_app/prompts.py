"""Prompts before they are rendered and after: thoughts switched off, the context asked for, an answer already begun.

Knows no group by name and no dialect.
"""

import logging
from dataclasses import replace

from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Chat, Ending, GenerateRequest, Prompt
from serve_app.routing.fleet import Fleet

logger = logging.getLogger(__name__)


def without_thoughts(prompt: Prompt, tags: tuple[str, str]) -> Prompt:
    """Return a prompt whose answer begins with an empty thought, so that no other follows; text that is there already stays."""
    if not isinstance(prompt, Chat) or prompt.prefill or prompt.ending is Ending.CLOSED:
        return prompt
    return replace(prompt, opening=f"{tags[0]}\n\n{tags[1]}\n\n")


def begun(prompt: Prompt, ids: tuple[int, ...], tokenizer: Tokenizer, think_tags: tuple[str, str] | None) -> str:
    """Return what the prompt has of the answer: the client's words, or the mark with which a template begins thoughts."""
    if isinstance(prompt, Chat) and prompt.prefill:
        return prompt.prefill
    if think_tags is None:
        return ""
    begin = think_tags[0]
    tail = b"".join(map(tokenizer.raw, ids[-2 * len(begin) - 2 :])).decode("utf-8", "replace")
    return begin if tail.rstrip().endswith(begin) else ""


def bounded_window(request: GenerateRequest, fleet: Fleet) -> int | None:
    """Return the context that the client asked for, cut to what the groups have, as Ollama does; None where it asked for none."""
    if request.window is None:
        return None
    groups = [group for group in fleet.groups if request.group in (None, group.name)]
    longest = max((group.info.context_length for group in groups if group.info is not None), default=request.window)
    if request.window > longest:
        logger.warning(
            "request %s asks for a context of %d tokens; %d is the most here", request.request_id, request.window, longest
        )
    return min(request.window, longest)
