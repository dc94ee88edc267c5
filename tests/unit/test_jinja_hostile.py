"""A hostile template neither hangs nor takes memory nor leaves the sandbox: its model is refused when it is loaded."""

import resource
import time

import pytest

from serve_app.chat.formats.jinja.template import CannotRender, ChatTemplate
from serve_app.conversation import Chat, Message
from serve_app.errors import ModelUnusable
from serve_app.types import InvalidValue
from tests.unit.templated_models import build_with

MOST_SECONDS = 5.0
MOST_BYTES = 400 << 20

LONG = "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(30) %}"
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a loop that tests": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a huge range": "{% for a in range(10**12) %}{% endfor %}",
    "a list of a huge range": "{{ range(999999999)|list|length }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a tree of calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a recursive loop": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "doubling with ~": LONG + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
    "doubling with +": LONG + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "doubling with *": LONG + "{% set ns.x = ns.x * 9 %}{% endfor %}",
    "doubling with join": LONG + "{% set ns.x = [ns.x, ns.x]|join(ns.x) %}{% endfor %}",
    "doubling with str.join": LONG + "{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
    "doubling with replace": LONG + "{% set ns.x = ns.x|replace('x', ns.x) %}{% endfor %}",
    "doubling with str.replace": LONG + "{% set ns.x = ns.x.replace('x', ns.x) %}{% endfor %}",
    "doubling with %": LONG + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "doubling with format": LONG + "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "doubling with a block": LONG + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "doubling with set": LONG + "{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}{% endfor %}",
    "doubling with tojson": LONG + "{% set ns.x = [ns.x, ns.x]|tojson|tojson %}{% endfor %}",
    "doubling with e": LONG + "{% set ns.x = (ns.x ~ '&')|e|e|e|e %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling with urlencode": LONG + "{% set ns.x = (ns.x ~ '/%')|urlencode|urlencode %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling lists with *": "{{ ([1] * 99999999)|length }}",
    "nested lists printed": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested lists as JSON": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "nested lists compared": "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}"
    "{% endfor %}{{ ns.x == ns.y }}",
    "nested lists in a test": "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}"
    "{% endfor %}{{ ns.x is eq(ns.y) }}",
    "nested lists sorted": "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}"
    "{% endfor %}{{ [ns.x, ns.y]|sort }}",
    "nested tuples hashed": "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1}|length }}",
    "nested tuples as keys": "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {}[ns.x] }}",
    "nested tuples looked up": "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {}.get(ns.x) }}",
    "a deep list": "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "a wide field": "{{ '%099999999d' % 1 }}",
    "a wide field by value": "{{ '%*d' % (99999999, 1) }}",
    "a wide brace field": "{{ '{:>999999999}'.format('x') }}",
    "a wide brace field by value": "{{ '{:>{w}}'.format('x', w=999999999) }}",
    "a wide filter": "{{ 'x'|center(999999999) }}",
    "a wide method": "{{ 'x'.ljust(999999999) }}",
    "a wide indentation": "{{ 'x\ny'|indent(999999999) }}",
    "a wide JSON": "{{ [[1]]|tojson(indent=999999999) }}",
    "tabs": "{{ '\t\t'.expandtabs(999999999) }}",
    "zeros": "{{ 'x'.zfill(999999999) }}",
    "a wide batch": "{{ [1]|batch(999999999, 0)|list|length }}",
    "many slices": "{{ [1]|slice(999999999)|list|length }}",
    "a huge power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "a huge product": "{% set ns = namespace(x=9) %}{% for i in range(99999) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a huge number": "{{ (10).to_bytes(999999999, 'big') }}",
    "slices of a long text": LONG + "{% set ns.x = ns.x ~ ns.x if ns.x|length < 500000 else ns.x %}{% endfor %}{% for i in range(99999) %}{% set y = ns.x[1:] %}{% endfor %}",
    "searches in a long text": LONG + "{% set ns.x = ns.x ~ ns.x if ns.x|length < 500000 else ns.x %}{% endfor %}{% for i in range(99999) %}{% set y = 'y' in ns.x %}{% endfor %}",
    "letters of a long text": LONG + "{% set ns.x = ns.x ~ ns.x if ns.x|length < 500000 else ns.x %}{% endfor %}{% for i in range(99) %}{% set y = ns.x|list %}{% endfor %}",
    "a long text written often": "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "a long text written often in a macro": "{% macro f() %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endmacro %}{{ f()|length }}",
    "a date": "{{ strftime_now('%A' * 99999999) }}",
    "a class": "{{ ''.__class__.__mro__ }}",
    "a class of a content": "{{ messages[0].content.__class__.__mro__ }}",
    "a class by item": "{{ messages['__class__']['__mro__'] }}",
    "a class by attr": "{{ (messages|attr('__class__')).mro() }}",
    "a class by map": "{{ [messages]|map(attribute='__class__.__mro__')|list|first|first }}",
    "a class by format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "globals of a function": "{{ raise_exception.__globals__['x'] }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f._func.__globals__['x'] }}",
    "a change of the messages": "{{ messages.append(1) }}",
    "a change of a message": "{{ messages[0].update(role='system') }}",
    "a pop": "{{ messages.pop() }}",
    "another template": "{% include 'x' %}",
    "a parent": "{% extends 'x' %}",
    "an import": "{% import 'x' as y %}",
    "a block": "{% block x %}{% endblock %}",
    "escaping": "{% autoescape true %}{{ messages[0].content }}{% endautoescape %}",
    "deep parentheses": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "deep conditions": "{% if true %}" * 3000 + "x" + "{% endif %}" * 3000,
    "constants that grow": "{{ 'x'|replace('x', 'y' * 9)" + "|replace('y', 'xxxxxxxxxxxxxxxxxxxx')|replace('x', 'yyyyyyyyyyyyyyyyyyyy')" * 20 + " }}",
    "an unknown filter": "{{ messages|evil }}",
    "an unknown tag": "{% evil %}",
    "not closed": "{% for x in y %}",
    "an undefined variable": "{{ nothing.at.all }}",
    "always refuses": "{{ raise_exception('never') }}",
}


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
    made = build_with("{% for m in messages %}{% if m.content == 'evil' %}{% for i in range(999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ m.content }}{% endfor %}")
    assert await made.render(Chat(messages=(Message(role="user", content="x"),)))
    with pytest.raises(InvalidValue, match="cannot be rendered by the model's chat template: it runs too long"):
        await made.render(Chat(messages=(Message(role="user", content="evil"),)))


async def test_a_failure_in_one_conversation_is_that_conversations() -> None:
    made = build_with("{% for m in messages %}{{ m.content if m.content != 'evil' else m.nothing.at_all }}{% endfor %}")
    with pytest.raises(InvalidValue, match="cannot be rendered by the model's chat template: .* has no attribute 'nothing'"):
        await made.render(Chat(messages=(Message(role="user", content="evil"),)))


def test_a_template_cannot_change_values_for_later_conversations() -> None:
    template = ChatTemplate("{% set ns = namespace(x=messages) %}{% set ns.y = 1 %}{{ messages|length }}{{ cycler('a', 'b').next() }}", "f")
    assert [str(template.render({"messages": [1]}, 1)) for _ in range(2)] == ["1a", "1a"]
    with pytest.raises(CannotRender, match="may not be called"):
        ChatTemplate("{{ ns.x() }}", "f").render({"ns": {"x": print}}, 1)
