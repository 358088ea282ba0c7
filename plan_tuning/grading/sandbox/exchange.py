"""A program and its tests, in two processes: plain data and errors over two pipes.

They share nothing else, and the program's process descends from none that has held tests: it can
neither patch a test, nor end it early, nor look what it expects. What it does see are the arguments
of the calls, and its setup. A value that claims to equal everything arrives as the plain value that
it holds.
"""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

# An error of these in a test's own loop would end it as if it were finished.
_ENDINGS = (StopIteration, StopAsyncIteration)
_LONG = 2**64
_SEEDED = "import random as _random\n_random.seed(0)"


class ProtocolError(ValueError):
    """A message that is no plain data, or is too long."""


def encode(value: Any) -> Any:
    """Write plain data as JSON can hold it; kinds that JSON does not tell apart are marked.

    Raises:
        ProtocolError: the value is no plain data.

    >>> encode((1, "a"))
    {'tuple': [1, 'a']}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        # Python refuses to write out very long integers in decimal digits.
        return int(value) if abs(value) < _LONG else {"int": hex(int(value))}
    if isinstance(value, float):
        return {"float": float.hex(float(value))}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in value]}
    raise ProtocolError(f"a {type(value).__name__} is no plain data")


def decode(value: Any) -> Any:
    """Read what :func:`encode` wrote; only builtin values come out.

    Raises:
        ProtocolError: it is something else.

    >>> decode({"tuple": [1, "a"]})
    (1, 'a')
    """
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ProtocolError("plain data have one kind")
    ((kind, content),) = value.items()
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    if kind == "complex":
        return complex(*map(float.fromhex, content))
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    kinds: Mapping[str, Callable[[Any], Any]] = {
        "list": list, "tuple": tuple, "set": set, "frozenset": frozenset,
    }  # fmt: skip
    if kind not in kinds:
        raise ProtocolError(f"{kind!r} is no kind of plain data")
    return kinds[kind](map(decode, content))


class Channel:
    """JSON lines over two pipes.

    Args:
        incoming: descriptor that is read.
        outgoing: descriptor that is written.
        limit: bytes of one incoming message.
    """

    def __init__(self, incoming: int, outgoing: int, limit: int) -> None:
        self._incoming, self._outgoing, self._limit = incoming, outgoing, limit
        self._buffer = b""

    def send(self, message: Mapping[str, Any]) -> None:
        """Write a message whole."""
        left = json.dumps(message).encode() + b"\n"
        while left:
            left = left[os.write(self._outgoing, left) :]

    def receive(self) -> dict[str, Any]:
        """Read a message.

        Raises:
            ProtocolError: it is too long, or no message.
            EOFError: the other side is gone.
        """
        parts = [self._buffer]
        size = len(self._buffer)
        while b"\n" not in parts[-1]:
            if size > self._limit:
                raise ProtocolError("too much output")
            parts.append(os.read(self._incoming, 1 << 16))
            size += len(parts[-1])
            if not parts[-1]:
                raise EOFError("the program ended before it answered")
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ProtocolError("an answer is no message")
        return message


def answer_calls(source: str, channel: Channel) -> None:
    """Execute a program, then call its functions as the other side asks; ends with its pipe."""
    namespace: dict[str, Any] = {"__name__": "program"}
    try:
        _seed(source)
        exec(compile(source, "<program>", "exec"), namespace)
    except BaseException as error:
        channel.send({"error": _named(error)})
        return
    channel.send({"ready": True})
    while True:
        try:
            asked = channel.receive()
        except EOFError:
            return
        try:
            called = namespace[asked["name"]]
            value = called(*map(decode, asked["args"]), **decode(asked["kwargs"]))
            channel.send({"value": encode(value)})
        except BaseException as error:
            channel.send({"error": _named(error)})


def run_tests(tests: Mapping[str, Any], program: Channel) -> dict[str, Any]:
    """Execute the tests of a program whose functions answer from another process.

    Args:
        tests: setup (what the tests may use beside the program), entry_points (the program's
            functions) and test (raises where the program is wrong).
        program: the way to its process.

    Returns:
        ``passed``, and where it is false ``failure``, in words, and ``is_gone`` where the program
        ended before it answered.
    """
    try:
        _checked(program.receive())
        namespace: dict[str, Any] = {"__name__": "tests"}
        _seed(tests["setup"] + tests["test"])
        exec(compile(tests["setup"], "<setup>", "exec"), namespace)
        for name in tests["entry_points"]:
            namespace[name] = _remote(name, program)
        exec(compile(tests["test"], "<test>", "exec"), namespace)
    except BaseException as error:
        name, text = _named(error)
        failure = f"{name}: {text}" if text else name
        return {"passed": False, "failure": failure, "is_gone": isinstance(error, EOFError)}
    return {"passed": True}


def _remote(name: str, program: Channel) -> Callable[..., Any]:
    """Make a function that is called in the program's process."""

    def call(*args: Any, **kwargs: Any) -> Any:
        asked = {"name": name, "args": [encode(arg) for arg in args], "kwargs": encode(kwargs)}
        program.send(asked)
        return decode(_checked(program.receive())["value"])

    call.__name__ = name
    return call


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    """Raise an error of the program's here, as the builtin error that it is."""
    if "error" not in message:
        return message
    name, text = map(str, message["error"])
    kind: Any = getattr(builtins, name, None)
    is_error = isinstance(kind, type) and issubclass(kind, Exception)
    if not is_error or issubclass(kind, (*_ENDINGS, UnicodeError)):
        raise RuntimeError(f"{name}: {text}")
    raise kind(text)


def _named(error: BaseException) -> list[str]:
    return [type(error).__name__, str(error)[:400]]


def _seed(source: str) -> None:
    """Have what is drawn be the same every time; the module is slow to load, so not for nothing."""
    if "random" in source:
        exec(_SEEDED, {})
