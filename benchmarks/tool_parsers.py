"""How many of the test corpora's tool calls our parsers and vLLM's own find: `python -m benchmarks.tool_parsers`.

vLLM's parsers get whole answers, their easiest case; ours are also held to every cut of the text by the tests.
"""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers.abstract_tool_parser import ToolParser
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.llama_tool_parser import Llama3JsonToolParser
from vllm.tool_parsers.phi4mini_tool_parser import Phi4MiniJsonToolParser

from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN, CALLS_BEGIN_MARK, CALLS_END, CALLS_END_MARK
from tests.chat import load_renamed, parse_pieces
from tests.unit import test_hermes_calls as hermes
from tests.unit import test_llama3_calls as llama3
from tests.unit import test_tool_calls as phi4

Calls = list[tuple[str, object]]
Case = tuple[str, str, list[tuple[str, str]]]
"""The form's name, an answer and the calls in it."""


def main() -> None:
    logging.disable(logging.CRITICAL)  # the stock parsers log an error for each answer that they cannot read
    with tempfile.TemporaryDirectory() as folder:
        names = {"<|tool|>": "<tool_call>", "<|/tool|>": "</tool_call>", "<|tool_response|>": "<|python_tag|>"}
        load_renamed(Path(folder), names)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    _compare("phi4", _list_phi4(), _parse_phi4, Phi4MiniJsonToolParser(tokenizer))
    _compare("hermes", _list_cases(hermes.FORMS, hermes.TEXTS), _parse_hermes, Hermes2ProToolParser(tokenizer))
    _compare("llama3", _list_cases(llama3.FORMS, llama3.TEXTS), _parse_llama3, Llama3JsonToolParser(tokenizer))


def _list_phi4() -> Iterator[Case]:
    cases = [(form, *case) for form, case in phi4.CORPUS.items()] + [("text", text, []) for text in phi4.TEXTS]
    for form, text, calls in cases:
        yield form.split(" / ")[0], text, calls


def _list_cases(forms: dict[str, tuple[str, str, list[tuple[str, str]]]], texts: list[str]) -> Iterator[Case]:
    yield from ((form, text, calls) for form, (text, _, calls) in forms.items())
    yield from (("text", text, []) for text in texts)


def _parse_phi4(text: str) -> list[tuple[str, str]]:
    return phi4.parse([text])[1]


def _parse_hermes(text: str) -> list[tuple[str, str]]:
    return parse_pieces(hermes.SPELLED.build_call_parser(hermes.TOOLS, begun=False), [text])[1]


def _parse_llama3(text: str) -> list[tuple[str, str]]:
    return parse_pieces(llama3.SPELLED.build_call_parser(llama3.TOOLS, begun=False), [text])[1]


def _compare(name: str, cases: Iterator[Case], parse: Callable[[str], list[tuple[str, str]]], stock: ToolParser) -> None:
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "x"}], model="x")
    ours, theirs, total = Counter[str](), Counter[str](), Counter[str]()
    for form, text, calls in cases:
        total[form] += 1
        wanted = _loaded(calls)
        ours[form] += _loaded(parse(text)) == wanted
        named = text.replace(CALLS_BEGIN_MARK, CALLS_BEGIN).replace(CALLS_END_MARK, CALLS_END)
        found = stock.extract_tool_calls(named, request).tool_calls
        theirs[form] += _loaded([(call.function.name, call.function.arguments) for call in found]) == wanted
    print(f"{name:<36} {'cases':>5} {'phi-serve':>9} {'vllm':>5}")
    for form in total:
        print(f"{form:<36} {total[form]:>5} {ours[form]:>9} {theirs[form]:>5}")
    print(f"{'all':<36} {total.total():>5} {ours.total():>9} {theirs.total():>5}\n")


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
