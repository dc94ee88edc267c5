"""The Modelfile parser: what is understood, and that whatever is not is refused with its line."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.dialects.ollama import modelfile
from serve_app.errors import InvalidRequest
from serve_app.types import Task


def test_keywords_in_any_case_and_order() -> None:
    found = modelfile.parse(
        '\n# a comment\nsystem Be brief.\r\nPARAMETER temperature 0.3\nparameter STOP "a b"\nParameter stop <|x|>\n'
        '  # an indented one\nMESSAGE user hello there\nmessage Assistant """two\n# lines\n"""\nPARAMETER temperature 1\n'
        'TEMPLATE "{{ .Prompt }}"\nLICENSE a\nLICENSE """\nb\n"""\nREQUIRES 0.14.0\nPARAMETER use_mmap false\nPARAMETER task math\n'
        "FROM phi4-mini:latest\n"
    )
    assert found.base == "phi4-mini:latest"
    assert found.system == "Be brief."
    assert found.parameters == {"temperature": 1.0, "stop": ["a b", "<|x|>"], "use_mmap": False}
    assert found.messages == [("user", "hello there"), ("assistant", "two\n# lines\n")]
    assert (found.template, found.license, found.task) == ("{{ .Prompt }}", ["a", "\nb\n"], Task.MATH)


def test_quotes() -> None:
    assert modelfile.parse('FROM a\nSYSTEM "over\ntwo "lines" of it"').system == 'over\ntwo "lines" of it'
    assert modelfile.parse('FROM a\nSYSTEM """ "kept" """').system == ' "kept" '
    assert modelfile.parse('FROM a\nSYSTEM say "hi"').system == 'say "hi"'
    assert modelfile.parse("FROM a\nSYSTEM").system == ""
    assert modelfile.parse('\ufeffFROM "a"').base == "a"


BAD = {
    "FROM a\nFOO x": "line 2: 'FOO' is no instruction",
    "FROM": "line 1: FROM needs a value",
    "": "no FROM line",
    "FROM a\nPARAMETER": "line 2: PARAMETER needs a name and a value",
    "FROM a\nPARAMETER seed": "line 2: PARAMETER needs a name and a value",
    "FROM a\n\nPARAMETER seed one": "line 3: PARAMETER seed must be of type integer",
    "FROM a\nPARAMETER temperature warm": "line 2: PARAMETER temperature must be of type float",
    "FROM a\nPARAMETER temperature nan": "line 2: PARAMETER temperature must be a finite number",
    "FROM a\nPARAMETER numa perhaps": "line 2: PARAMETER numa must be true or false",
    "FROM a\nPARAMETER colour red": "line 2: PARAMETER colour is no known parameter",
    "FROM a\nPARAMETER task sleep": "line 2: PARAMETER task must be one of general, math",
    'FROM a\nSYSTEM """x\ny': 'line 2: SYSTEM: the closing """ is missing',
    'FROM a\nSYSTEM """x""" y': 'line 2: SYSTEM: text after the closing """',
    'FROM a\nSYSTEM """x\n""" y\nFOO': 'line 2: SYSTEM: text after the closing """',
    "FROM a\nMESSAGE robot hi": "line 2: MESSAGE takes a role",
    "FROM a\nMESSAGE user": "line 2: MESSAGE needs a value",
    "FROM a\nADAPTER ./lora": "line 2: ADAPTER is not served",
    "FROM a\nREQUIRES soon": "line 2: REQUIRES takes a version",
    "FROM a\n" + "PARAMETER stop x\n" * 17: "line 18: PARAMETER stop takes at most 16",
}


@pytest.mark.parametrize("text", BAD)
def test_faults_name_their_line(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        modelfile.parse(text)
    assert BAD[text] in caught.value.message


@given(st.text(max_size=300))
def test_anything_is_read_or_refused(text: str) -> None:
    with suppress(InvalidRequest):  # anything else that is raised fails the test
        assert modelfile.parse(text).base


_texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), include_characters="\n\t"), max_size=60).filter(
    lambda text: '"""' not in text and not text.endswith('"') and not text.startswith('"')
)


@given(
    system=_texts.filter(bool),
    template=_texts.filter(bool),
    messages=st.lists(st.tuples(st.sampled_from(modelfile.ROLES), _texts.filter(bool)), max_size=3),
    stops=st.lists(st.text(st.characters(codec="ascii", categories=("L", "P", "S", "Zs")), min_size=1, max_size=9), max_size=3),
)
def test_what_is_written_is_read_back(system: str, template: str, messages: list[tuple[str, str]], stops: list[str]) -> None:
    stops = [stop for stop in stops if '"' not in stop]
    parameters = {"temperature": 0.25, "seed": 3} | ({"stop": stops} if stops else {})
    text = modelfile.write("base", system=system, template=template, messages=messages, parameters=parameters)
    found = modelfile.parse(text)
    assert (found.base, found.system, found.template) == ("base", system, template)
    assert (found.messages, found.parameters) == (messages, parameters)
