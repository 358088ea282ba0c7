"""Adapters side by side behind a router: which one of them answers a problem.

The oracle goes by the source that a benchmark belongs to. The other router knows problems of the
training sets only: the nearest ones, by the cosine of their hashed n-grams or of a frozen encoder's
states, vote for their source. A routed student is a folder of adapters with ``router.json``.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from plan_tuning.config.merge import MergeConfig
from plan_tuning.students.loading import StudentError, base_of_adapter, is_adapter
from plan_tuning.students.sentence_encoder import load_encoder

ROUTER_FILE = "router.json"
_VECTORS = "problems.safetensors"
_EXPERTS = "experts"
_DIMENSIONS = 2048
_LONGEST = 3  # words of an n-gram
_MAX_PROBLEMS = 1000  # of a source
_TOKEN = re.compile(r"[^\s]+")

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Encode = Callable[[Sequence[str]], Vectors]
"""From texts to unit vectors (N, D)."""


class RoutingError(ValueError):
    """A problem that nobody can be chosen for."""


@dataclass(frozen=True)
class Router:
    """Chooses who answers.

    Attributes:
        sources: of the adapters, in the order of their folders.
        folders: of the adapters, by source.
        encode: of the nearest-neighbour router; None: the oracle.
        vectors: (N, D) of known problems.
        labels: (N,) whose they are, places in ``sources``.
        neighbours: how many of them vote.
    """

    sources: tuple[str, ...]
    folders: Mapping[str, Path]
    encode: Encode | None
    vectors: Vectors
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]
    neighbours: int

    def choose(self, texts: Sequence[str], sources: Sequence[str]) -> list[str]:
        """Name the source of the adapter that answers each problem.

        Args:
            texts: of the problems.
            sources: that they belong to; the oracle alone looks at it.

        Raises:
            RoutingError: the oracle has no adapter for a source.
        """
        if self.encode is None:
            strange = next((name for name in sources if name not in self.sources), None)
            if strange is not None:
                raise RoutingError(
                    f"merge.router=oracle: no student is there for {strange or 'this benchmark'}, "
                    f"only for {', '.join(self.sources)}. Try merge.router=nearest"
                )
            return list(sources)
        similarity = self.encode(texts) @ self.vectors.T  # (N, known)
        places = votes(similarity, self.labels, self.neighbours, len(self.sources))
        return [self.sources[place] for place in places]


def votes(
    similarity: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    neighbours: int,
    count: int,
) -> list[int]:
    """Let the most similar known problems vote; of a tie the one whose votes are more similar wins.

    Args:
        similarity: (N, known), of each problem to the known ones.
        labels: (known,) whose they are, in ``0 .. count - 1``.
        neighbours: how many of them vote.
        count: of the labels.
    """
    chosen = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]  # (N, k)
    found = []
    for row, near in zip(similarity, chosen, strict=True):
        counts = np.bincount(labels[near], minlength=count)
        weights = np.bincount(labels[near], weights=row[near], minlength=count)
        found.append(int(max(range(count), key=lambda place: (counts[place], weights[place]))))
    return found


def hashed_ngrams(texts: Sequence[str]) -> Vectors:
    """Count the runs of one to three words of each text, hashed, as unit vectors (N, D).

    >>> same, other = hashed_ngrams(["3 pens", "3 pens"]) , hashed_ngrams(["two cups"])
    >>> round(float(same[0] @ same[1]), 3), round(float(same[0] @ other[0]), 3)
    (1.0, 0.0)
    """
    vectors = np.zeros((len(texts), _DIMENSIONS), dtype=np.float32)
    for place, text in enumerate(texts):
        words = _TOKEN.findall(text)
        for length in range(1, _LONGEST + 1):
            for first in range(len(words) - length + 1):
                run = " ".join(words[first : first + length])
                vectors[place, zlib.crc32(run.encode()) % _DIMENSIONS] += 1.0
    return _units(vectors)


def _units(vectors: np.ndarray[Any, Any]) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return units


def _encoder(knobs: Mapping[str, Any]) -> Encode | None:
    if knobs["router"] == "oracle":
        return None
    if knobs["encoder"] is None:
        return hashed_ngrams
    encode = load_encoder(Path(knobs["encoder"]), "merge.encoder", "merge.encoder=null")
    return lambda texts: _units(encode(texts))


def write_router(
    folder: Path,
    students: Mapping[str, Path],
    knobs: MergeConfig,
    problems: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Write a routed student: copies of the adapters, and what the router knows.

    Args:
        folder: receives it.
        students: folders of the adapters, by source.
        knobs: which router.
        problems: texts of the training problems, by source; the oracle needs none.

    Returns:
        Facts: how many students, and problems that the router knows.

    Raises:
        StudentError: a student is no adapter, or they have different bases.
    """
    whole = [student for student in students.values() if not is_adapter(student)]
    if whole:
        raise StudentError(
            f"{whole[0]} holds whole weights: a router asks adapters of one base, so train its "
            "students with adapter=lora"
        )
    bases = {base_of_adapter(student) for student in students.values()}
    if len(bases) > 1:
        raise StudentError(f"the adapters have different bases: {', '.join(b for b, _ in bases)}")
    for source, student in students.items():
        target = folder / _EXPERTS / source
        target.mkdir(parents=True)
        for path in sorted(student.iterdir()):
            if path.is_file() and path.name != "manifest.json":
                shutil.copyfile(path, target / path.name)
    chosen = {"router": knobs.router, "neighbours": knobs.neighbours, "encoder": knobs.encoder}
    written = {"sources": list(students), **chosen}
    text = json.dumps(written, indent=2) + "\n"
    (folder / ROUTER_FILE).write_text(text, encoding="utf-8")
    encode = _encoder(chosen)
    known = 0
    if encode is not None:
        texts = [list(problems[source])[:_MAX_PROBLEMS] for source in students]
        vectors = encode([text for part in texts for text in part])
        labels = np.repeat(np.arange(len(texts)), [len(part) for part in texts])
        known = len(labels)
        save_file(
            {"vectors": torch.from_numpy(vectors), "labels": torch.from_numpy(labels)},
            folder / _VECTORS,
        )
    return {"students": len(students), "known_problems": known}


def is_routed(folder: Path) -> bool:
    """Whether a folder holds a routed student."""
    return (folder / ROUTER_FILE).is_file()


def read_router(folder: Path) -> Router:
    """Read a routed student's router."""
    knobs = json.loads((folder / ROUTER_FILE).read_text(encoding="utf-8"))
    sources = tuple(knobs["sources"])
    encode = _encoder(knobs)
    vectors: Vectors = np.zeros((0, 0), dtype=np.float32)
    labels = np.zeros(0, dtype=np.int64)
    if encode is not None:
        known = load_file(folder / _VECTORS)
        vectors, labels = known["vectors"].numpy(), known["labels"].numpy()
    folders = {source: folder / _EXPERTS / source for source in sources}
    return Router(sources, folders, encode, vectors, labels, int(knobs["neighbours"]))
