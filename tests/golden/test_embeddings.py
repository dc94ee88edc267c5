"""The exact bytes of the answers with embeddings; see `tests.golden.test_wire`."""

import numpy as np
import pytest

from serve_app.dialects import ollama, openai
from serve_app.dialects.base import Embed, EmbedContext, dump, parse
from serve_app.encoding import Embedding
from serve_app.strict_json import dump_in_pieces
from tests.golden.test_wire import _compare

VECTORS = np.asarray([[0.6, -0.8, 0.0], [1e-8, 1.0, -0.0]], np.float32)
BODIES = {
    "float": ("/v1/embeddings", b'{"model":"mini","input":["a","b"],"encoding_format":"float","user":"u"}'),
    "base64": ("/v1/embeddings", b'{"model":"mini","input":["a","b"],"encoding_format":"base64"}'),
    "embed": ("/api/embed", b'{"model":"mini","input":["a","b"],"keep_alive":"5m","options":{"num_ctx":512}}'),
    "legacy": ("/api/embeddings", b'{"model":"mini","prompt":"a"}'),
}
ENDPOINTS = {each.path: each for each in (*openai.DIALECT.endpoints, *ollama.DIALECT.endpoints) if isinstance(each, Embed)}


@pytest.mark.parametrize("case", BODIES)
def test_answers(case: str) -> None:
    path, raw = BODIES[case]
    codec = ENDPOINTS[path].codec
    body = parse(codec.body, raw)
    request = codec.decode(body, "req-1")
    vectors = VECTORS[: len(request.inputs)]
    context = EmbedContext(body=body, model="mini", elapsed_s=0.25)
    shown = codec.encode(Embedding(vectors=vectors, prompt_tokens=7), context)
    _compare(f"{path}-{case}", dump(shown))
    assert dump_in_pieces(shown) == dump(shown)
