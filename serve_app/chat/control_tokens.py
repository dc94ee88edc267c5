"""The control tokens that the chat format gives a meaning, whatever flags a tokenizer's file sets for them.

Names only; the ids are those of the model's file (`serve_app.chat.vocabulary`).
"""

PHI4 = frozenset(
    (
        "<|endoftext|>",
        "<|endofprompt|>",
        "<|assistant|>",
        "<|end|>",
        "<|user|>",
        "<|system|>",
        "<|tool|>",
        "<|/tool|>",
        "<|tool_call|>",
        "<|/tool_call|>",
        "<|tool_response|>",
        "<|tag|>",
    )
)
"""Phi-4-mini's twelve. Published copies of its tokenizer disagree about the flag `special` of those for tools."""
