"""A hostile template neither hangs nor takes memory nor leaves the sandbox: its model is refused when it is loaded."""

import resource
import time

import pytest
import yaml

from serve_app.chat.formats.jinja.template import CannotRender, ChatTemplate
from serve_app.conversation import Chat, Message
from serve_app.errors import ModelUnusable
from serve_app.types import InvalidValue
from tests.unit.templated_models import TEMPLATES, build_with

MOST_SECONDS = 5.0
MOST_BYTES = 400 << 20

HOSTILE: dict[str, str] = {
    **yaml.safe_load((TEMPLATES / "hostile.yaml").read_text()),
    "a long text written often": "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "a long text written often in a macro": "{% macro f() %}{% for i in range(99999) %}"
    + "x" * 9999
    + "{% endfor %}{% endmacro %}{{ f()|length }}",
    "deep parentheses": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "deep conditions": "{% if true %}" * 3000 + "x" + "{% endif %}" * 3000,
    "constants that grow": "{{ 'x'|replace('x', 'yyyyyyyyy')"
    + "|replace('y', 'xxxxxxxxxxxxxxxxxxxx')|replace('x', 'yyyyyyyyyyyyyyyyyyyy')" * 20
    + " }}",
}
"""Templates by what they attempt."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_quickly(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(ModelUnusable, match=r"^chat_template\.jinja: the chat template cannot be (run|compiled): .+") as raised:
        build_with(HOSTILE[name])
    assert time.process_time() - start < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MOST_BYTES
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 300


def test_the_cause_is_named() -> None:
    causes = {
        "nested loops": "runs too long",
        "doubling with ~": "too long a text",
        "a class": "unsafe",
        "always refuses": "never",
        "not closed": "line 1",
        "a block": "the tag block is not served",
    }
    for name, cause in causes.items():
        with pytest.raises(ModelUnusable, match=cause):
            build_with(HOSTILE[name])


async def test_a_template_that_runs_too_long_for_one_conversation_refuses_that_one() -> None:
    made = build_with(
        "{% for m in messages %}{% if m.content == 'evil' %}{% for i in range(999) %}{% for j in range(99999) %}{% endfor %}"
        "{% endfor %}{% endif %}{{ m.content }}{% endfor %}"
    )
    assert await made.render(Chat(messages=(Message(role="user", content="x"),)))
    with pytest.raises(InvalidValue, match="cannot be rendered by the model's chat template: it runs too long"):
        await made.render(Chat(messages=(Message(role="user", content="evil"),)))


async def test_a_failure_in_one_conversation_is_that_conversations() -> None:
    made = build_with("{% for m in messages %}{{ m.content if m.content != 'evil' else m.nothing.at_all }}{% endfor %}")
    with pytest.raises(InvalidValue, match=r"cannot be rendered by the model's chat template: .* has no attribute 'nothing'"):
        await made.render(Chat(messages=(Message(role="user", content="evil"),)))


def test_a_template_cannot_change_values_for_later_conversations() -> None:
    template = ChatTemplate(
        "{% set ns = namespace(x=messages) %}{% set ns.y = 1 %}{{ messages|length }}{{ cycler('a', 'b').next() }}", "f"
    )
    assert [str(template.render({"messages": [1]}, 1)) for _ in range(2)] == ["1a", "1a"]
    with pytest.raises(CannotRender, match="may not be called"):
        ChatTemplate("{{ ns.x() }}", "f").render({"ns": {"x": print}}, 1)
