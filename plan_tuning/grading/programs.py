r"""completion -> program: where a text holds the program that it answers with, and what is run.

A closed fence (```` ``` ````) is to a program what a box is to a number: committed to, and all that
a reward takes. Without any, a text that is a program as it stands is one.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

from plan_tuning.grading.answers import (
    FENCE_RULE,
    FOUND,
    MAX_CHARACTERS,
    NONE,
    TRUNCATED,
    Extraction,
    committed_part,
)

_FENCE = re.compile(r"^[ \t]*```[^\n`]*$", re.MULTILINE)
_BEGINNING = re.compile(r"^(?:def |import |from |class |@|[ \t]+\S)", re.MULTILINE)
_FUNCTION = re.compile(r"^\s*(?:async\s+)?def\s", re.MULTILINE)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp,
           ast.SetComp, ast.DictComp, ast.GeneratorExp)  # fmt: skip
_MAX_PROGRAM = 50_000  # characters


@dataclass(frozen=True, slots=True)
class UnitTests:
    """What decides about a program; ``test`` raises where it is wrong."""

    setup: str = ""  # executed before, without the program
    entry_points: tuple[str, ...] = ()  # functions of the program that the test calls
    test: str = ""


def extract_program(text: str, *, style: str = "code", require_box: bool = False) -> Extraction:
    r"""Find the program of a completion: the last fence with a function in it, else the last one.

    Args:
        text: the completion.
        style: not read: one form for all.
        require_box: take a fence or nothing, as a reward must.

    >>> extract_program("So:\n```python\ndef f():\n    return 1\n```").rule
    'fence'
    >>> extract_program("def f():\n    return 1").rule
    'bare_program'
    """
    body = committed_part(text[-MAX_CHARACTERS:])
    if body is None:
        return Extraction("", "", TRUNCATED)
    marks = list(_FENCE.finditer(body))
    pairs = zip(marks[::2], marks[1::2], strict=False)
    blocks = [body[first.end() + 1 : last.start()].rstrip() for first, last in pairs]
    blocks = [block for block in blocks if block.strip()]
    if blocks:
        chosen = [block for block in blocks if _FUNCTION.search(block)] or blocks
        return Extraction(chosen[-1], FENCE_RULE, FOUND)
    if marks:
        return Extraction("", FENCE_RULE, TRUNCATED if len(marks) % 2 else NONE)
    if require_box:
        return Extraction("", "", NONE)
    found = _bare(body)
    return Extraction(found, "bare_program" if found else "", FOUND if found else NONE)


def _bare(body: str) -> str:
    """Take a text that is a program, or the inside of a function, from its first line of code."""
    start = _BEGINNING.search(body)
    if start is None:
        return ""
    code = body[start.start() :].rstrip()
    return code if _parses(code) or (code[0].isspace() and _parses(_inside(code))) else ""


def _inside(code: str) -> str:
    return f"def inside():\n{textwrap.indent(textwrap.dedent(code), '    ')}"


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def defines(code: str, name: str) -> bool:
    r"""Whether a program binds a name at its top: by a function, an assignment or an import.

    >>> defines("def f():\n    return 1", "f"), defines("    return 1", "f")
    (True, False)
    >>> defines("f = lambda x: x + 1", "f"), defines("from math import gcd as f", "f")
    (True, True)
    """
    return _parses(code) and name in _bound(ast.parse(code))


def _bound(tree: ast.AST) -> set[str]:
    """Take the names that are bound in a module, in its conditions and loops too."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _SCOPES):
            found.add(getattr(node, "name", ""))
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        found |= _bound(node)
    return found


def completed(setup: str, answer: str, entry_point: str) -> str:
    """Write the program that an answer is: a whole function, or the inside of the asked one.

    Args:
        setup: what stands before it: imports, or the head of the function.
        answer: as it was extracted.
        entry_point: the function's name.
    """
    # An answer may run as it stands and be an inside nonetheless, one that returns nothing.
    is_headed = any(defines(setup.rstrip() + inside, entry_point) for inside in ("", "\n    pass"))
    if defines(answer, entry_point) or (_runs(answer) and not is_headed):
        return f"{setup}\n\n{answer}\n"
    return f"{setup.rstrip()}\n{textwrap.indent(textwrap.dedent(_even(answer)), '    ')}\n"


def _runs(code: str) -> bool:
    """Whether a text is a program, with no ``return`` outside of functions."""
    return _parses(code) and not _returns(ast.parse(code))


def _returns(tree: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Return | ast.Yield | ast.YieldFrom)
        or (not isinstance(node, _SCOPES) and _returns(node))
        for node in ast.iter_child_nodes(tree)
    )


def _even(answer: str) -> str:
    """Give a first line its indent back, which stripping a text takes away."""
    first, _, rest = answer.partition("\n")
    indents = [len(line) - len(line.lstrip()) for line in rest.splitlines() if line.strip()]
    if first[:1].isspace() or not indents or min(indents) == 0:
        return answer
    opens = first.rstrip().endswith(":")
    margin = min(indents) - (4 if opens and min(indents) > 4 else 0)
    return f"{' ' * margin}{first}\n{rest}"


def program_defect(answer: str, style: str = "code") -> str | None:
    """Say why a gold program is none; None where it is one."""
    if not answer.strip():
        return "the gold program is empty"
    if len(answer) > _MAX_PROGRAM:
        return f"the gold program is longer than {_MAX_PROGRAM} characters"
    is_program = _parses(answer) or _parses(_inside(answer))
    return None if is_program else "the gold program is no Python"
