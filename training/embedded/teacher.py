"""Exact-answer accuracy by one forward pass per example, with the reference answer as input.

Greedy decoding writes the reference answer exactly if and only if every target is the best token given those before it.
"""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from training.embedded.conversation import Example
from training.embedded.model import CausalModel, rotary_table
from training.embedded.tokenizer import encode_training


@torch.inference_mode()
def forced_accuracy(model: CausalModel, tokenizer: Tokenizer, examples: Sequence[Example]) -> float:
    """Return the share of examples whose last answer greedy decoding would reproduce."""
    device = next(model.parameters()).device
    right = 0
    for example in examples:
        pairs = list(encode_training(tokenizer, example.messages))
        tokens = torch.tensor([token for token, _ in pairs], device=device)
        start = len(pairs) - next(i for i, (_, target) in enumerate(reversed(pairs)) if not target)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            states = model(tokens[None], rotary_table(model.shape, len(pairs), long=False).to(device))[0]
            best = model.logits(states[start - 1 : -1]).argmax(-1)
        right += bool((best == tokens[start:]).all())
    return right / len(examples)
