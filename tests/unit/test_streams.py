"""What an output cannot show is replaced, whichever encoding it has."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from plan_tuning.main import replace_what_cannot_be_shown

TEXT = "† ▲ Δ é 100 %"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_characters_that_an_encoding_lacks(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    replace_what_cannot_be_shown()
    Console(width=80).print(TEXT)
    print(TEXT, file=stream, flush=True)
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert shown.count("100 %") == 2
    assert ("▲" in shown) == (encoding == "utf-8")
    assert ("†" in shown) == (encoding in ("utf-8", "cp1252"))
