"""Jinja's sandbox for chat templates: the options, filters, globals and tags of `transformers`, within a budget, on tracked text.

Every call, operator, filter and output of a template goes through here or `serve_app.chat.formats.jinja.filters`. Tags that no chat
template has and that would leave this path (`include`, `block`, `autoescape` and their kin) are refused.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn, cast

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from serve_app.chat.formats.jinja import filters
from serve_app.chat.formats.jinja.budget import MAX_NUMBER_BITS, BudgetExceeded, charge_deep, spend, spend_deep, spend_text
from serve_app.chat.formats.jinja.formatting import format_braces, format_percent
from serve_app.chat.formats.jinja.text_methods import TEXT_METHODS, repeat
from serve_app.chat.formats.jinja.tracked_text import TrackedText, concat, mark, to_text

_REFUSED = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block, nodes.EvalContextModifier, nodes.MarkSafe)
_CONTAINER_METHODS: Mapping[type, tuple[str, ...]] = {
    dict: ("get", "items", "keys", "values", "copy"),
    list: ("index", "count", "copy"),
    tuple: ("index", "count"),
}
_ADDED = "!"
"""Begins the names of filters that only the rewriting of templates adds; a template cannot spell them."""


class TemplateRefusal(TemplateError):
    """The template called `raise_exception`: it does not take this conversation."""


class GenerationTag(Extension):
    """`{% generation %}`: marks the assistant's text for training; here its body only."""

    tags = {"generation"}  # noqa: RUF012 the base class has a set

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the body in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment of every chat template."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    concat = staticmethod(concat)

    def __init__(self) -> None:
        """Set up what `transformers` sets up."""
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            finalize=filters.print_value,
            cache_size=0,
        )
        self.filters = cast(Any, {**filters.build_filters(), **_REWRITING})  # Jinja's annotation takes no callables
        self.tests = cast(Any, filters.build_tests())
        self._functions: dict[str, Callable[..., Any]] = {
            "range": safe_range,
            "dict": _build_dict,
            "namespace": Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self.globals = dict(self._functions)
        self._formatter = SandboxedFormatter(self)

    def _generate(self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False) -> str:
        refused = next(source.find_all(_REFUSED), None)
        if refused is not None:
            raise TemplateSyntaxError(f"the tag {type(refused).__name__.lower()} is not served in chat templates", refused.lineno)
        return super()._generate(_Rewriting().visit(source), name, filename, defer_init)

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a template may call: macros, the global functions, and methods of text and containers that change nothing."""
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        spend()
        for argument in args:
            if isinstance(argument, tuple):
                spend_deep(argument)
            elif isinstance(argument, list | dict):
                spend(len(argument) // 8)
        owner: Any = getattr(__obj, "__self__", None)
        if isinstance(__obj, BuiltinMethodType) and isinstance(owner, str):
            return self._call_text_method(owner, __obj.__name__, args, kwargs)
        if isinstance(__obj, BuiltinMethodType) and __obj.__name__ in _CONTAINER_METHODS.get(type(owner), ()):
            if __obj.__name__ in ("index", "count"):
                spend_deep((owner, *args))
            elif __obj.__name__ == "copy":
                spend(len(owner))
            return __obj(*args, **kwargs)
        is_loop = isinstance(__obj, MethodType) and isinstance(owner, LoopContext | Cycler)
        if is_loop:
            spend_deep(args)
        if is_loop or isinstance(__obj, Macro | LoopContext | Joiner) or any(__obj is each for each in self._functions.values()):
            return __obj(*args, **kwargs)
        if callable(__obj):
            raise SecurityError(f"{str(getattr(__obj, '__name__', type(__obj).__name__))[:80]} may not be called")
        raise TypeError(f"a value of the type {type(__obj).__name__} cannot be called")

    def _call_text_method(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "format":
            return format_braces(text, args, kwargs, self._get_field)
        if name == "format_map" and len(args) == 1:
            return format_braces(text, (), args[0], self._get_field)
        if name not in TEXT_METHODS:
            raise SecurityError(f"the method {name} of text may not be called")
        return TEXT_METHODS[name](text, *args, **kwargs)

    def _get_field(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return self._formatter.get_field(name, args, kwargs)[0]

    def wrap_str_format(self, value: Any) -> None:
        """Leave `str.format` as it is: `call` recognises it."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an item, as the sandbox does; hashing a tuple takes steps."""
        spend()
        if isinstance(argument, tuple):
            spend_deep(argument)
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an attribute, as the sandbox does."""
        spend()
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Return what an operator returns, after the steps of making it."""
        spend()
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return concat((left, right))
        if operator == "%" and isinstance(left, str):
            return format_percent(left, right)
        if operator == "*":
            left, right = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(left, str) and isinstance(right, int):
                return repeat(left, right)
            if isinstance(left, list | tuple) and isinstance(right, int):
                spend(len(left) * max(0, right))
        elif operator == "+" and isinstance(left, list | tuple):
            spend(len(left) + (len(right) if isinstance(right, list | tuple) else 0))
        elif operator == "**":
            _require_small_power(left, right)
        result = self.binop_table[operator](left, right)
        if isinstance(result, int) and result.bit_length() > MAX_NUMBER_BITS:
            raise BudgetExceeded("it computes too large a number")
        return result


class _Rewriting(NodeTransformer):
    """Adds filters to a parsed template that take steps from the budget where Jinja's generated code works on its own."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _wrap(node.iter, filters.iterate)
        if node.test is not None:
            node.test = _wrap(node.test, filters.charge)
        node.body.insert(0, _tick(node))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _tick(node))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _wrap(node.expr, charge_deep)
        for operand in node.ops:
            operand.expr = _wrap(operand.expr, charge_deep)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _wrap(node.node, filters.charge_slice)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _wrap(node.key, charge_deep)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _wrap(nodes.List(node.nodes, lineno=node.lineno), filters.concat_values)


def _wrap(node: Any, function: Callable[..., Any]) -> nodes.Expr:
    return nodes.Filter(node, _ADDED + function.__name__, [], [], None, None, lineno=node.lineno)


def _tick(node: nodes.Node) -> nodes.Node:
    return nodes.ExprStmt(
        nodes.Filter(nodes.Const(None, lineno=node.lineno), f"{_ADDED}charge", [], [], None, None, lineno=node.lineno),
        lineno=node.lineno,
    )


def _defer_to_run_time(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a filter that Jinja does not run while it compiles."""

    @pass_context
    def run(context: Context, value: Any) -> Any:
        return function(value)

    return run


_REWRITING: Mapping[str, Callable[..., Any]] = {
    _ADDED + function.__name__: _defer_to_run_time(function)
    for function in (filters.iterate, filters.charge, charge_deep, filters.charge_slice, filters.concat_values)
}


def _raise_exception(message: Any = "") -> NoReturn:
    raise TemplateRefusal(str(to_text(message)))


def _strftime_now(format: str) -> str:
    spend_text(20 * len(format))
    text = datetime.now().strftime("".join((format,)))
    return mark(text) if isinstance(format, TrackedText) else text


def _build_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    spend_deep(args)
    return dict(*args, **kwargs)


def _require_small_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and max(1, base.bit_length()) * exponent > MAX_NUMBER_BITS:
        raise BudgetExceeded("it computes too large a number")
