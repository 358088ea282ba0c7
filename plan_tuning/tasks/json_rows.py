"""Rows of JSON as people hand them over: UTF-8, with or without a byte order mark.

Editors and spreadsheets on Windows write the mark, and joined files hold it in their middle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MARK = "\ufeff"


class DataError(ValueError):
    """Data that cannot be read: the message names file, row and field."""


def read_json(file: Path) -> Any:
    """Read one JSON value.

    Raises:
        DataError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is not JSON ({error})") from error


def json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Read JSON values line by line, with their line numbers from 1; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is not JSON.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.lstrip(_MARK).strip()
                if text:
                    yield number, json.loads(text)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, row {number}: is not JSON ({error})") from error
