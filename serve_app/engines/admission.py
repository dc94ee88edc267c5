"""Checks that every engine makes before it admits a request. Knows no engine."""

from serve_app.errors import ContextOverflow, InvalidRequest
from serve_app.types import TokenRequest


def compute_answer_limit(request: TokenRequest, context_length: int, vocabulary_size: int) -> int:
    """Return the most tokens that the answer may have.

    Raises `ContextOverflow` when the prompt leaves no room, `InvalidRequest` for ids outside the vocabulary.
    """
    room = context_length - len(request.prompt)
    if room < 1:
        raise ContextOverflow(f"the prompt has {len(request.prompt)} tokens, the context {context_length}; shorten the prompt")
    sampling = request.sampling
    for field, ids in (
        ("prompt", request.prompt),
        ("logit_bias", sampling.logit_bias),
        ("stop_token_ids", sampling.stop_token_ids),
    ):
        if ids and max(ids) >= vocabulary_size:
            raise InvalidRequest(f"token ids must be below {vocabulary_size}", param=field)
    return min(room, sampling.max_tokens or room)
