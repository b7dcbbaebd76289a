"""Whether a text is an expression of CEL (Common Expression Language), in which Telemetry says what is logged.

Called by `config.kinds.telemetry`. Only the syntax is judged, as Istio does: what attributes there are is Envoy's
business. A recursive descent over CEL's grammar; the texts are short and bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_DEPTH = 50
"""Most expressions inside each other."""

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<text>[rRbB]{0,2}(?:'{3}(?:\\.|[^\\])*?'{3}|"{3}(?:\\.|[^\\])*?"{3}|'(?:\\.|[^'\\\n\r])*'|"(?:\\.|[^"\\\n\r])*"))
    |(?P<number>(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?|0x[0-9a-fA-F]+[uU]?|\d+[uU]?)(?!\w))
    |(?P<name>[_a-zA-Z]\w*|`[\w.\-/ ]+`)
    |(?P<sign>\|\||&&|[<>=!]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(r"""\\(?:[abfnrtv\\?"'`]|[xX][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2})""")
_RESERVED = frozenset(
    {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package"}
    | {"namespace", "return", "var", "void", "while"}
)
_LARGEST = 2**63
_LITERALS = frozenset({"true", "false", "null"})
_LEVELS = (("||",), ("&&",), ("<", "<=", ">=", ">", "==", "!=", "in"), ("+", "-"), ("*", "/", "%"))
"""Binary operators, loosest first."""
_MACROS = {"all": (2,), "exists": (2,), "exists_one": (2,), "map": (2, 3), "filter": (2,)}


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


class _SyntaxError(Exception):
    def __init__(self, token: _Token, expected: str) -> None:
        found = repr(token.text[:40]) if token.kind else "the end"
        super().__init__(f"{expected} is missing at character {token.place + 1}, where {found} stands")


def why_not_cel(text: str) -> str:
    """Why the text is no expression of CEL; empty where it is one."""
    try:
        _Parser(list(_tokens(text))).whole()
    except _SyntaxError as error:
        return str(error)
    return ""


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _SyntaxError(_Token("?", text[at], at), "a word, number, text or operator")
        kind = match.lastgroup or ""
        if kind == "number" and match[0].isdigit() and _is_too_large(match[0].lstrip("0")):
            raise _SyntaxError(_Token("?", match[0], at), "a number of 64 bits")
        if kind == "text":
            _check_escapes(_Token(kind, match[0], at))
        if kind != "space":
            yield _Token(kind, match[0], at)
        at = match.end()
    yield _Token("", "", len(text))


def _is_too_large(digits: str) -> bool:
    return len(digits) > len(str(_LARGEST)) or int(digits or "0") > _LARGEST


def _check_escapes(token: _Token) -> None:
    prefix = token.text[: len(token.text) - len(token.text.lstrip("rRbB"))].lower()
    rest = "" if "r" in prefix else _ESCAPE.sub("", token.text)
    if "\\" in rest:
        raise _SyntaxError(token, "a valid escape")


class _Parser:
    """Consumes tokens; each method reads one thing of the grammar. What was read is a name, a selection, or else ''."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> None:
        self._expression()
        if self._next.kind:
            raise _SyntaxError(self._next, "an operator")

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _took(self, *texts: str) -> bool:
        token = self._next
        if token.kind in ("sign", "name") and token.text in texts:
            self._at += 1
            return True
        return False

    def _take(self, text: str) -> None:
        if not self._took(text):
            raise _SyntaxError(self._next, repr(text))

    def _expression(self) -> str:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _SyntaxError(self._next, "a simpler expression")
        kind = self._binary(0)
        if self._took("?"):
            self._binary(0)
            self._take(":")
            self._expression()
            kind = ""
        self._depth -= 1
        return kind

    def _binary(self, level: int) -> str:
        if level == len(_LEVELS):
            return self._unary()
        kind = self._binary(level + 1)
        while self._took(*_LEVELS[level]):
            self._binary(level + 1)
            kind = ""
        return kind

    def _unary(self) -> str:
        negated = False
        for sign in ("!", "-"):
            while self._took(sign):
                negated = True
            if negated:
                break
        kind = self._member()
        return "" if negated else kind

    def _member(self) -> str:
        kind = self._primary()
        while True:
            if self._took("."):
                name = self._name()
                kind = "selection"
                if self._took("("):
                    self._arguments(")", name)
                    kind = ""
            elif self._took("["):
                self._expression()
                self._take("]")
                kind = ""
            elif kind and self._took("{"):
                self._entries(named=True)
                kind = ""
            else:
                return kind

    def _primary(self) -> str:
        token = self._next
        if token.kind in ("number", "text") or token.text in _LITERALS:
            self._at += 1
            return ""
        if self._took("("):
            self._expression()
            self._take(")")
        elif self._took("["):
            self._arguments("]")
        elif self._took("{"):
            self._entries(named=False)
        else:
            self._took(".")
            name = self._name()
            if not self._took("("):
                return "name"
            self._arguments(")", name if name == "has" else "")
        return ""

    def _name(self) -> str:
        token = self._next
        if token.kind != "name" or token.text in _RESERVED or token.text in _LITERALS or token.text == "in":
            raise _SyntaxError(token, "a value")
        self._at += 1
        return token.text

    def _arguments(self, end: str, called: str = "") -> None:
        """Expressions up to `end`; those of a macro must be what it can take."""
        kinds: list[str] = []
        first = self._next
        while not self._took(end):
            if kinds:
                self._take(",")
                if end == "]" and self._took(end):
                    break
            kinds.append(self._expression())
        if called == "has" and kinds != ["selection"]:
            raise _SyntaxError(first, "a field in has()")
        if called in _MACROS and len(kinds) in _MACROS[called] and kinds[0] != "name":
            raise _SyntaxError(first, f"a variable in {called}()")

    def _entries(self, *, named: bool) -> None:
        count = 0
        while not self._took("}"):
            if count:
                self._take(",")
                if self._took("}"):
                    break
            self._name() if named else self._expression()
            self._take(":")
            self._expression()
            count += 1
