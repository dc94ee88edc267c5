"""What holds for every syntax of JSON calls: each form gives its calls however it is cut, and other text stays as it is.

The forms and texts stand with each syntax's own tests.
"""

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chat import cut_everywhere, parse_pieces, put_marks
from tests.unit import test_hermes_calls, test_llama3_calls

SYNTAXES = {"hermes": test_hermes_calls, "llama3": test_llama3_calls}


@pytest.mark.parametrize(("cases", "form"), [(cases, form) for cases in SYNTAXES.values() for form in cases.FORMS])
def test_every_form_gives_its_calls_however_it_is_cut(cases: ModuleType, form: str) -> None:
    text, said, calls = cases.FORMS[form]
    for syntax, written in ((cases.SPELLED, text), (cases.TOKENS, put_marks(cases.MARKERS, text))):
        for pieces in cut_everywhere(written):
            assert parse_pieces(syntax.build_call_parser(cases.TOOLS, begun=False), pieces) == (said, calls)


@pytest.mark.parametrize(("cases", "text"), [(cases, text) for cases in SYNTAXES.values() for text in cases.TEXTS])
def test_other_text_stays_as_it_is(cases: ModuleType, text: str) -> None:
    for syntax in (cases.SPELLED, cases.TOKENS):
        for pieces in cut_everywhere(text):
            assert parse_pieces(syntax.build_call_parser(cases.TOOLS, begun=False), pieces) == (text, [])


@pytest.mark.parametrize("cases", SYNTAXES.values(), ids=SYNTAXES)
@given(st.data())
def test_parts_do_not_depend_on_how_the_text_was_cut(cases: ModuleType, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.sampled_from(cases.PIECES), max_size=12))
    tools = data.draw(st.sampled_from((cases.TOOLS, cases.STRICT)))
    for syntax, text in ((cases.SPELLED, "".join(pieces)), (cases.TOKENS, put_marks(cases.MARKERS, "".join(pieces)))):
        at = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        cut = [text[begin:end] for begin, end in zip([0, *at], [*at, len(text)], strict=True)]
        said, calls = parse_pieces(syntax.build_call_parser(tools, begun=False), [text])
        assert parse_pieces(syntax.build_call_parser(tools, begun=False), cut) == (said, calls)
        assert parse_pieces(syntax.build_call_parser(tools, begun=False), list(text)) == (said, calls)
        assert not {*cases.MARKERS.values()} & {*said, *"".join(arguments for _, arguments in calls)}
        if not {*cases.MARKERS} & {*pieces} and not calls:
            assert said == text
