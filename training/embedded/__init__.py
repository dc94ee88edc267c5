"""Makes the embedded demo model: synthetic conversations, tokenizer, training loop, evaluation.

Knows nothing of serving. Its product is the folder `serve_app/models/embedded/`.
"""
