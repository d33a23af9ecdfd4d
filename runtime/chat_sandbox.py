"""Running a chat template, a program from outside, within bounds.

Jinja's immutable sandbox keeps a template away from Python's internals, but not from time and memory. So here every
attribute, filter, test and global is on a list, and one budget pays for all that could grow or last: a turn of a loop
and a call cost the length of the template, a text costs its own length, a list 16 times that. What is made is paid for,
slices too, and what is read: a comparison looks into lists, a search through a text lasts longer for a longer needle.
Lists may not nest into more than ``MAX_NESTED`` values, as comparing two lists that hold the same list twice, again and
again, takes forever. Only text and numbers can be written. A template may use less than Jinja has: no ``format``, and
of ``strftime_now`` no formats with widths, which write without bound.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from datetime import datetime
from functools import wraps
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from jinja2 import Template, TemplateAssertionError, TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ..errors import InputError, TokenizerError

BUDGET = 16_000_000
MAX_NESTED = 10_000
MAX_LIST = 100_000
_SMALLEST_TURN = 1000
_ELEMENT = 16
_ITEM = 64  # an element that a filter makes when it is asked for
_SEEN = 2  # a value looked at
_READ = 4  # characters read for the price of one made
_NEEDLE = 64  # a needle of so many characters doubles the price of a search
_MAX_INTEGER = 1 << 63
_DATE = re.compile(r"(?:[^%]|%-?[aAbBdHIjmMpSUwWyY%]){0,100}")

_FILTERS = (
    "count", "d", "default", "first", "float", "int", "items", "last", "length", "list", "map", "reject", "rejectattr",
    "select", "selectattr",
)  # fmt: skip
_TEXT_FILTERS = ("capitalize", "lower", "string", "title", "trim", "upper")
_TEXT_METHODS = {
    "capitalize", "endswith", "lower", "lstrip", "rstrip", "split", "startswith", "strip", "title", "upper",
}  # fmt: skip
_TESTS = (
    "boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number", "sameas",
    "sequence", "string", "true", "undefined",
)  # fmt: skip
_TEXT_TESTS = ("lower", "upper")
_NUMBER_TESTS = ("divisibleby", "even", "odd")
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gteq": operator.ge, "lt": operator.lt,
    "lteq": operator.le, "in": lambda part, whole: part in whole, "notin": lambda part, whole: part not in whole,
}  # fmt: skip
_COMPARING_TESTS = {
    "==": "eq", "eq": "eq", "equalto": "eq", "!=": "ne", "ne": "ne", ">": "gt", "gt": "gt", "greaterthan": "gt",
    ">=": "gteq", "ge": "gteq", "<": "lt", "lt": "lt", "lessthan": "lt", "<=": "lteq", "le": "lteq", "in": "in",
}  # fmt: skip
_LOOP = {
    "depth",
    "depth0",
    "first",
    "index",
    "index0",
    "last",
    "length",
    "nextitem",
    "previtem",
    "revindex",
    "revindex0",
}
_ATTRIBUTES: tuple[tuple[type, set[str]], ...] = (
    (str, _TEXT_METHODS),
    (dict, {"get", "items", "keys", "values"}),
    (LoopContext, _LOOP),
)


class _OverBudget(Exception):
    """The template does more than any chat needs."""


class _Refused(Exception):
    """The template refuses the messages: it called ``raise_exception``."""


class Sandbox:
    """A template, compiled, to be rendered once.

    Raises:
        TokenizerError: it is no template, or uses what is not allowed.
    """

    def __init__(self, source: str) -> None:
        self._environment = _Environment(source)
        self._template: Template = self._guarded(lambda: self._environment.from_string(source))

    def render(self, variables: dict[str, Any], longest: int) -> str:
        """What the template writes, at most ``longest`` characters.

        Raises:
            InputError: the template refuses the messages.
            TokenizerError: it fails, or takes or writes too much.
        """

        def run() -> str:
            pieces, length = [], 0
            for piece in self._template.generate(variables):
                pieces.append(piece)
                length += len(piece)
                if length > longest:
                    raise _OverBudget(f"it writes more than {longest} characters")
            return "".join(pieces)

        text: str = self._guarded(run)
        return text

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """Run ``action``; whatever goes wrong in a template becomes a typed error."""
        try:
            return action()
        except _Refused as error:
            raise InputError(f"the chat template refuses the messages: {error}") from None
        except (TemplateError, _OverBudget, ArithmeticError, LookupError, SyntaxError, TypeError, ValueError) as error:
            fault = f"{type(error).__name__.lstrip('_')}: {error}"
        except (RecursionError, MemoryError, AttributeError, RuntimeError) as error:
            fault = type(error).__name__
        raise TokenizerError(f"the chat template fails ({fault[:300]}): use the checkpoint's own template")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it, with a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, source: str) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # what can be computed beforehand would be computed outside the budget
            extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
            finalize=self.written,
        )
        self.left = BUDGET
        self.turn = max(len(source), _SMALLEST_TURN)
        self.globals = {
            "namespace": Namespace,
            "raise_exception": self.refuse,
            "range": range,
            "strftime_now": self.strftime_now,
        }
        self.filters = {name: self.paid(FILTERS[name]) for name in _FILTERS}
        self.filters |= {name: self.paid(self.of_text(FILTERS[name])) for name in _TEXT_FILTERS}
        self.filters |= {"join": self.join, "replace": self.replace, "tojson": self.tojson}
        tests: dict[str, Any] = {**TESTS}
        self.tests = {name: tests[name] for name in _TESTS}
        self.tests |= {name: self.of_text(tests[name]) for name in _TEXT_TESTS}
        self.tests |= {name: _of_numbers(tests[name]) for name in _NUMBER_TESTS}
        self.tests |= {name: self.comparing(comparison) for name, comparison in _COMPARING_TESTS.items()}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Bounded().visit(source), *args, **kwargs)

    # What is paid for

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise _OverBudget("it does more than a chat needs")

    def weighed(self, value: Any) -> Any:
        """``value``, paid for; its size is known without looking inside."""
        if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
            raise _OverBudget("it computes an integer beyond 64 bits")
        if isinstance(value, str | list | tuple | dict | range):
            if not isinstance(value, str) and len(value) > MAX_LIST:
                raise _OverBudget(f"it makes a list of {len(value)}, expected at most {MAX_LIST}")
            self.spend(len(value) if isinstance(value, str) else _ELEMENT * len(value))
        return value

    def read(self, value: Any) -> None:
        """Pay for all that is inside ``value``: hashing and comparing look at it."""
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                self.spend(len(item) // _READ)
            elif isinstance(item, list | tuple | dict | KeysView | ValuesView | ItemsView | range):
                self.spend(_ELEMENT * len(item))
                pending += [*item.keys(), *item.values()] if isinstance(item, dict) else item

    def search(self, text: str, *needles: Any) -> int:
        """What a search of ``text`` costs: its length, and more where a needle is long."""
        longest = max((len(needle) for needle in needles if isinstance(needle, str)), default=0)
        return len(text) * (_NEEDLE + longest) // _NEEDLE

    def paid(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                self.weighed(value)
            value = function(*args, **kwargs)
            return self.counted(value) if isinstance(value, Iterator) else self.weighed(value)

        return call

    def of_text(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Not of lists: each could hold one long text many times."""

        @wraps(function)
        def call(value: Any, *args: Any, **kwargs: Any) -> Any:
            text = self.written(value)
            if isinstance(text, str):
                self.spend(self.search(text, *args, *kwargs.values()))
            return function(text, *args, **kwargs)

        return call

    def turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(self.turn)
            yield item

    def counted(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(_ITEM)
            yield item

    def made(self, value: Any) -> Any:
        """A list or mapping that the template writes down, if it is no tower of lists."""
        pending, seen = [value], 0
        while pending:
            item = pending.pop()
            seen += 1
            if seen > MAX_NESTED:
                raise _OverBudget(f"it nests lists into more than {MAX_NESTED} values")
            if isinstance(item, dict):
                pending += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                pending += item
        self.spend(_SEEN * seen)
        return self.weighed(value)

    def written(self, value: Any) -> Any:
        if not isinstance(value, str | int | float | Undefined | None):
            raise _OverBudget(f"it writes a {type(value).__name__}, expected text or a number")
        return self.weighed(value)

    # What an expression may do

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return any(isinstance(obj, kind) and attr in names for kind, names in _ATTRIBUTES) or (
            isinstance(obj, Namespace) and not attr.startswith("_")
        )

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """An error at once: Jinja's would not show where nothing is done with the value."""
        raise SecurityError(f"access to attribute {attribute!r} of a {type(obj).__name__} is unsafe")

    def wrap_str_format(self, value: Any) -> None:
        """``format`` can write a thousand million spaces: it is not among the methods of text."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, str | int | float | Undefined | None):
            raise TypeError(f"an index of {type(argument).__name__} is not allowed")
        return super().getitem(obj, self.weighed(argument))

    def cut(self, items: Any, start: Any, stop: Any, step: Any) -> Any:
        return self.weighed(items[start:stop:step])

    def comparing(self, comparison: str) -> Callable[[Any, Any], Any]:
        return lambda left, right: self.compared(left, comparison, right)

    def compared(self, left: Any, *rest: Any) -> Any:
        """``left < right``, with the name of the comparison between the two; more of both make a chain."""
        value: Any = True
        for comparison, right in zip(rest[::2], rest[1::2], strict=True):
            if isinstance(right, Iterator):
                right = self.turns(right)
            self.pay_comparison(left, right, searches=comparison in ("in", "notin"))
            value = _COMPARISONS[comparison](left, right)
            if not value:
                break
            left = right
        return value

    def pay_comparison(self, left: Any, right: Any, *, searches: bool) -> None:
        if isinstance(left, str) and isinstance(right, str):
            self.spend((self.search(right, left) if searches else min(len(left), len(right))) // _READ)
        elif searches or not isinstance(left, str | int | float | None):
            # A text or number differs from a list at once, but is looked for in all of it.
            self.read(left)
            self.read(right)

    # The names of keyword arguments are the template's, so that these parameters need names that it cannot have.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, MethodType) and __obj.__self__ is __self:
            # What ``_Bounded`` put there: an expression, which pays for itself.
            return super().call(__context, __obj, *args, **kwargs)
        __self.spend(__self.turn)
        if isinstance(__obj, BuiltinMethodType):  # of a text or a mapping; not a macro
            # Jinja adds the variables of loops and blocks for functions that ask for a context.
            values = [*args, *(v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars"))]
            for value in values:
                __self.read(value)
            if isinstance(__obj.__self__, str) and __obj.__name__ not in ("endswith", "startswith"):
                __self.spend(__self.search(__obj.__self__, *values))
        return __self.weighed(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        joined = operator == "+" and any(isinstance(left, k) and isinstance(right, k) for k in (str, list))
        if joined:
            self.spend(len(left) + len(right))
        elif not numbers or operator == "**":
            raise TypeError(f"{type(left).__name__} {operator} {type(right).__name__} is not allowed")
        value = super().call_binop(context, operator, left, right)
        return self.made(value) if isinstance(value, list) else self.weighed(value)

    def together(self, *parts: Any) -> str:
        return "".join([str(self.written(part)) for part in parts])

    # Globals and filters in place of Jinja's

    def join(self, items: Iterable[Any], separator: str = "") -> str:
        texts = []
        for item in items:
            texts.append(str(self.written(item)))
            self.spend(len(separator) + 1)
        return separator.join(texts)

    def replace(self, text: Any, old: Any, new: Any) -> str:
        text, old, new = (str(self.written(value)) for value in (text, old, new))
        self.spend(self.search(text, old))
        self.spend(text.count(old) * len(new))
        return str(text.replace(old, new))

    def tojson(self, value: Any, indent: int | None = None) -> str:
        """Piece by piece, so that the budget ends it in time."""
        pieces = []
        encoder = json.JSONEncoder(ensure_ascii=False, indent=min(int(indent), 8) if indent else None)
        for piece in encoder.iterencode(value):
            self.spend(len(piece) + 8)
            pieces.append(piece)
        return "".join(pieces)

    def strftime_now(self, form: Any) -> str:
        """The date and the time here, as some templates write it."""
        if not (isinstance(form, str) and _DATE.fullmatch(form)):
            raise TypeError(f"strftime_now({str(self.written(form))[:60]!r}) is not allowed")
        return datetime.now().strftime(form)

    def refuse(self, message: Any) -> NoReturn:
        raise _Refused(str(self.written(message))[:300])


class _GenerationBlock(Extension):
    """``{% generation %}``, around what a model writes itself, for training: here what is inside stands for itself."""

    tags = {"generation"}  # noqa: RUF012 as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """The block, whose variables are its own."""
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Not of texts: ``%`` writes into them, as wide as they ask."""

    @wraps(function)
    def call(*args: Any) -> Any:
        if wrong := [value for value in args if not isinstance(value, int | float)]:
            raise TypeError(f"a test of numbers has a {type(wrong[0]).__name__}")
        return function(*args)

    return call


class _Bounded(NodeTransformer):
    """Sends through the environment what Jinja's sandbox does not ask about: loops, ``~``, slices, comparisons, and
    lists written down."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateAssertionError("recursive loops are not allowed", node.lineno)
        self.generic_visit(node)
        node.iter = _through("turns", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("together", *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _through("cut", node.node, *(nodes.Const(None) if bound is None else bound for bound in bounds))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        rest = [part for operand in node.ops for part in (nodes.Const(operand.op), operand.expr)]
        return _through("compared", node.expr, *rest)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _through("made", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _through("made", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _through("made", node) if node.ctx == "load" else node


def _through(method: str, *arguments: nodes.Node) -> nodes.Call:
    lineno = arguments[0].lineno
    return nodes.Call(nodes.EnvironmentAttribute(method), list(arguments), [], None, None, lineno=lineno)
