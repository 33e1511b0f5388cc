"""Text -> graph: the inverse of :mod:`tracegrad.ir.printer`.

The data structure is a position in the text, moved on by one compiled pattern at a time; line and
column are counted only when something is wrong. Types are taken as they stand: ``verify`` tells
whether they are right. Start reading at :func:`parse`.
"""

from __future__ import annotations

import ast
import re
from typing import Any, NoReturn

from .errors import ParseError
from .graph import NO_ATTRS, Attrs, Graph, Node
from .op import registered
from .types import TensorType, dtype_named

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_NAME = re.compile(r"%([\w.]+)")
_QUOTED = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_GRAPH_NAME = re.compile(rf"@(?:([\w.<>-]+)|({_QUOTED}))")
_WORD = re.compile(r"[A-Za-z_]\w*")
_TYPE = re.compile(r"(\w+)\[([\d, ]*)\]")
_NUMBER = re.compile(r"[+-]?(?:inf\b|nan\b|\d+(\.\d*)?([eE][+-]?\d+)?|(\.\d+)([eE][+-]?\d+)?)")
_STRING = re.compile(_QUOTED)
_WORDS: dict[str, Any] = {"True": True, "False": False, "None": None}


def parse(text: str) -> Graph:
    """The graph that this text describes. Linear in the length of the text.

    Raises:
        ParseError: the text is not well formed, or names an op, a dtype or a value that does not
            exist. The message has line and column.
    """
    return _Parser(text).parse_graph()


class _Parser:
    __slots__ = ("position", "text", "types", "values")

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.values: dict[str, Node] = {}
        self.types: dict[str, TensorType] = {}

    def fail(self, message: str, position: int | None = None) -> NoReturn:
        """Raise a ParseError that shows the place."""
        position = self.position if position is None else position
        begin = self.text.rfind("\n", 0, position) + 1
        end = self.text.find("\n", position)
        line = self.text[begin : end if end >= 0 else len(self.text)]
        number, column = self.text.count("\n", 0, position) + 1, position - begin + 1
        raise ParseError(
            f"line {number}, column {column}: {message}\n    {line}\n    {' ' * (column - 1)}^"
        )

    def skip(self, pattern: re.Pattern[str] = _BLANK) -> None:
        found = pattern.match(self.text, self.position)
        assert found is not None
        self.position = found.end()

    def take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        """Match what must come next."""
        found = pattern.match(self.text, self.position)
        if found is None:
            self.fail(f"expected {what}")
        self.position = found.end()
        return found

    def accept(self, literal: str) -> bool:
        """Move past this literal if it comes next."""
        if self.text.startswith(literal, self.position):
            self.position += len(literal)
            return True
        return False

    def expect(self, literal: str) -> None:
        self.skip()
        if not self.accept(literal):
            self.fail(f"expected '{literal}'")

    def parse_graph(self) -> Graph:
        self.expect("graph")
        self.skip()
        name = self.take(_GRAPH_NAME, "a graph name such as @f")
        graph = Graph(name[1] if name[1] is not None else ast.literal_eval(name[2]))
        graph.inputs = self.parse_inputs()
        self.expect("->")
        output_types, at_types = self.parse_output_types()
        self.expect("{")
        while True:
            self.skip()
            if self.accept("return"):
                break
            graph.nodes.append(self.parse_node())
        graph.outputs = self.parse_operands()
        if [x.type for x in graph.outputs] != output_types:
            found = ", ".join(str(x.type) for x in graph.outputs)
            self.fail(f"the graph declares other result types than it returns: ({found})", at_types)
        self.expect("}")
        self.skip()
        if self.position != len(self.text):
            self.fail("expected the end of the text")
        return graph

    def parse_inputs(self) -> list[Node]:
        self.expect("(")
        inputs: list[Node] = []
        self.skip()
        if self.accept(")"):
            return inputs
        while True:
            self.skip()
            name, at = self.parse_new_name()
            self.expect(":")
            self.skip()
            node = Node(registered("input"), (), NO_ATTRS, self.parse_type(), hint=name)
            self.define(name, node, at)
            inputs.append(node)
            self.skip()
            if self.accept(")"):
                return inputs
            self.expect(",")

    def parse_output_types(self) -> tuple[list[TensorType], int]:
        self.expect("(")
        types: list[TensorType] = []
        self.skip()
        at = self.position
        if self.accept(")"):
            return types, at
        while True:
            self.skip()
            types.append(self.parse_type())
            self.skip()
            if self.accept(")"):
                return types, at
            self.expect(",")

    def parse_node(self) -> Node:
        name, at = self.parse_new_name()
        self.expect(":")
        self.skip()
        type = self.parse_type()
        self.expect("=")
        self.skip()
        at_op = self.position
        op_name = self.take(_WORD, "the name of an op")[0]
        try:
            op = registered(op_name)
        except KeyError:
            self.fail(f"unknown op '{op_name}'", at_op)
        attrs = self.parse_attrs() if self.accept("[") else NO_ATTRS
        node = Node(op, tuple(self.parse_operands()), attrs, type)
        self.define(name, node, at)
        return node

    def parse_new_name(self) -> tuple[str, int]:
        at = self.position
        return self.take(_NAME, "a value such as %0, or 'return'")[1], at

    def define(self, name: str, node: Node, at: int) -> None:
        if name in self.values:
            self.fail(f"%{name} is defined twice", at)
        self.values[name] = node

    def parse_operands(self) -> list[Node]:
        """Values separated by commas, up to the end of the line."""
        operands: list[Node] = []
        self.skip(_SPACES)
        if not self.text.startswith("%", self.position):
            return operands
        while True:
            at = self.position
            name = self.take(_NAME, "a value such as %0")[1]
            node = self.values.get(name)
            if node is None:
                self.fail(f"%{name} is used before it is defined", at)
            operands.append(node)
            self.skip(_SPACES)
            if not self.accept(","):
                return operands
            self.skip()

    def parse_type(self) -> TensorType:
        at = self.position
        found = self.take(_TYPE, "a type such as f64[3,4]")
        known = self.types.get(found[0])
        if known is not None:
            return known
        try:
            dtype = dtype_named(found[1])
        except KeyError:
            self.fail(f"unknown dtype '{found[1]}'", at)
        extents = found[2].split(",") if found[2].strip() else []
        if not all(extent.strip().isdigit() for extent in extents):
            self.fail("expected a shape such as [3,4]", at)
        type = self.types[found[0]] = TensorType(dtype, tuple(map(int, extents)))
        return type

    def parse_attrs(self) -> Attrs:
        attrs: Attrs = {}
        while True:
            self.skip()
            at = self.position
            name = self.take(_WORD, "the name of an attribute")[0]
            if name in attrs:
                self.fail(f"attribute '{name}' is given twice", at)
            self.expect("=")
            attrs[name] = self.parse_value()
            self.skip()
            if self.accept("]"):
                return attrs
            self.expect(",")

    def parse_value(self) -> Any:
        """A number, bool, dtype, string or None, or a tuple of them, nested at will."""
        open_tuples: list[list[Any]] = []
        while True:
            self.skip()
            if self.accept("("):
                open_tuples.append([])
                self.skip()
                if not self.accept(")"):
                    continue
                value: Any = tuple(open_tuples.pop())
            else:
                value = self.parse_atom()
            while open_tuples:  # The value belongs to the innermost tuple, and may be its last.
                open_tuples[-1].append(value)
                self.skip()
                if self.accept(","):
                    self.skip()
                    if not self.accept(")"):
                        break
                else:
                    self.expect(")")
                value = tuple(open_tuples.pop())
            else:
                return value

    def parse_atom(self) -> Any:
        found = _NUMBER.match(self.text, self.position)
        if found is not None:
            self.position = found.end()
            number = found[0]
            is_integer = found.lastindex is None and number[-1].isdigit()
            return int(number) if is_integer else float(number)
        found = _STRING.match(self.text, self.position)
        if found is not None:
            self.position = found.end()
            return ast.literal_eval(found[0])
        at = self.position
        word = self.take(_WORD, "a value")[0]
        if word in _WORDS:
            return _WORDS[word]
        try:
            return dtype_named(word)
        except KeyError:
            self.fail(f"'{word}' is no value", at)
