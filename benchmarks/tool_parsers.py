"""How many of the test corpus' tool calls our parser and vLLM's own for this model find: `python -m benchmarks.tool_parsers`.

vLLM's parser gets whole answers, its easiest case; ours is also held to every cut of the text by the tests.
"""

import json
import logging
from collections import Counter

from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers.phi4mini_tool_parser import Phi4MiniJsonToolParser

from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN, CALLS_BEGIN_MARK, CALLS_END, CALLS_END_MARK
from serve_app.models.locate import EMBEDDED
from tests.unit.test_tool_calls import CORPUS, TEXTS, parse

Calls = list[tuple[str, object]]


def main() -> None:
    logging.disable(logging.CRITICAL)  # the stock parser logs an error for each answer that it cannot read
    parser = Phi4MiniJsonToolParser(AutoTokenizer.from_pretrained(EMBEDDED))
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "x"}], model="x")
    right: dict[str, Counter[str]] = {"phi-serve": Counter(), "vllm": Counter()}
    total: Counter[str] = Counter()
    cases = {case: (text, calls) for case, (text, calls) in CORPUS.items()} | {f"text / {text}": (text, []) for text in TEXTS}
    for case, (text, calls) in cases.items():
        form = case.split(" / ")[0]
        total[form] += 1
        wanted = _loaded(calls)
        right["phi-serve"][form] += _loaded(parse([text])[1]) == wanted
        named = text.replace(CALLS_BEGIN_MARK, CALLS_BEGIN).replace(CALLS_END_MARK, CALLS_END)
        found = parser.extract_tool_calls(named, request).tool_calls
        right["vllm"][form] += _loaded([(call.function.name, call.function.arguments) for call in found]) == wanted
    print(f"{'form':<36} {'cases':>5} {'phi-serve':>9} {'vllm':>5}")
    for form in total:
        print(f"{form:<36} {total[form]:>5} {right['phi-serve'][form]:>9} {right['vllm'][form]:>5}")
    print(f"{'all':<36} {total.total():>5} {right['phi-serve'].total():>9} {right['vllm'].total():>5}")


def _loaded(calls: list[tuple[str, str]]) -> Calls:
    """The calls with their arguments as values, so that spelling does not count; a cut argument stays text."""
    return [(name, _value(arguments)) for name, arguments in calls]


def _value(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


if __name__ == "__main__":
    main()
