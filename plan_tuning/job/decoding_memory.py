"""Keys and values, logits and weights -> the bytes that generation holds, in a job or beside it."""

from __future__ import annotations

from plan_tuning.job.stage_memory import PROMPT_TOKENS, Causes
from plan_tuning.students.footprint import FLOAT, Rows, cache_bytes, read_bytes
from plan_tuning.students.shapes import Shape

_READ_AT_ONCE = 16_384  # tokens of prompts that the native engine reads in one pass
_SERVER = (
    4e9  # bytes on a card of a vLLM process beside weights and cache; nothing has counted them
)


def decoding(shape: Shape, width: int, tokens: int, rows: Rows) -> Causes:
    """Keys and values of ``tokens`` tokens, the reading of prompts, and logits of all rows.

    Rows are as many as have a prompt and as much again to say.
    """
    count = max(1, tokens // max(2 * PROMPT_TOKENS, 1)) if tokens > rows.length else 1
    read = min(tokens, _READ_AT_ONCE) * read_bytes(shape, width)
    logits = count * shape.vocabulary * (width + 2 * FLOAT)
    return {"KV cache": cache_bytes(shape, width) * tokens, "reading and logits": read + logits}


def served(shape: Shape, width: int, tokens: int, device: str) -> Causes:
    """What a server of the job's own holds of one model.

    Args:
        shape: of the model.
        width: bytes of a number.
        tokens: of prompts and answers that its cache has room for.
        device: cuda or cpu.
    """
    causes: Causes = {"weights": shape.parameters * width}
    if device == "cuda":
        causes["the server's own"] = _SERVER
    return causes | decoding(shape, width, tokens, Rows(tokens))
