"""Does the teacher answer at all? Stops a distillation that would pay for nothing to the end.

A reply is usable where the next request can work with it. A teacher of which one kind of reply is
never usable (cut off, empty, filtered, nothing but thoughts, …) will not begin to answer after
another thousand problems: after the first window of problems the run ends, and says why.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from plan_tuning.config.teacher import DistillationConfig
from plan_tuning.records import Ask, Reply, Request
from plan_tuning.teachers.errors import UnusableError
from plan_tuning.text.parsing import SCORE_PARSERS

KINDS = ("constraints", "plan", "verify", "execute")
_MORE_ROOM = 4  # twice the room was tried already
_CURES: dict[str, str] = {
    "cut off": "raise the limit: distillation.max_{kind}_tokens={more}",
    "cut off while it thinks": "turn thinking off (teacher.thinking=false), or raise the limit: "
    "distillation.max_{kind}_tokens={more}",
    "nothing but thoughts": "turn thinking off (teacher.thinking=false); where the model does not "
    "think, start the server without its reasoning parser",
    "filtered": "the provider's content filter stops them: change its safety setting at the "
    "provider, or choose another teacher.model",
    "calls of tools": "the model calls tools instead of answering: turn tools off at the server, "
    "or choose another teacher.model",
    "empty": "look at the server's chat template and at teacher.model",
    "refused": "the model declines: choose another teacher.model",
    "rejected": "the provider refuses these requests (see its words in the log): choose another "
    "teacher.model",
    "without a readable score": "the model does not write its score as it is asked to: choose "
    "another teacher.model",
}


class Usability:
    """Counts, by kind of request, problems without one usable reply.

    Args:
        ask: the teacher.
        config: of the distillation, for the limits that the message names.
        window: after so many problems without one usable reply of a kind the run ends.
    """

    def __init__(self, ask: Ask, config: DistillationConfig, *, window: int) -> None:
        self._ask = ask
        self._config = config
        self._window = window
        self._reads_score: Callable[[str], object] = SCORE_PARSERS[config.score_parser]
        self._usable: set[str] = set()
        self._asked: defaultdict[str, set[str]] = defaultdict(set)  # kinds by problem under way
        self._barren: Counter[str] = Counter()  # finished problems by kind
        self._causes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.finished = 0

    @property
    def is_doubtful(self) -> bool:
        """Whether the first window is under way and a kind that was asked had no usable reply."""
        if self.finished >= self._window:
            return False
        asked = set().union(self._barren, *self._asked.values())
        return not asked <= self._usable or not asked

    async def ask(self, request: Request) -> Reply:
        """Ask the teacher, and note what the reply is worth."""
        kind = request.role
        self._asked[request.problem_id].add(kind)
        reply = await self._ask(request)
        if kind not in self._usable:
            cause = self._cause(kind, reply)
            if cause:
                self._causes[kind][cause] += 1
            else:
                self._usable.add(kind)
        return reply

    def _cause(self, kind: str, reply: Reply) -> str:
        """Say why a reply cannot be used; empty where it can."""
        if reply.status == "ok":
            if kind == "verify" and getattr(self._reads_score(reply.text), "value", None) is None:
                return "without a readable score"
            return ""
        if reply.status == "truncated":
            return "cut off while it thinks" if reply.thoughts and not reply.text else "cut off"
        if reply.status == "empty":
            if reply.finish_reason == "tool_calls":
                return "calls of tools"
            return "nothing but thoughts" if reply.thoughts.strip() else "empty"
        return reply.status

    def on_finished(self, problem_id: str) -> None:
        """Note that a problem is through."""
        self.finished += 1
        for kind in self._asked.pop(problem_id, ()):
            if kind not in self._usable:
                self._barren[kind] += 1

    def check(self, *, is_over: bool = False) -> None:
        """End the run where a kind of reply is never usable.

        Args:
            is_over: all problems are through, be they fewer than a window.

        Raises:
            UnusableError: a kind of reply was never usable, and enough problems have shown it.
        """
        least = 1 if is_over else self._window
        for kind in KINDS:
            causes = self._causes[kind]
            if kind in self._usable or self._barren[kind] < least or not causes:
                continue
            if set(causes) == {"failed"}:
                continue  # calls that got no answer are counted elsewhere
            shown = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
            main = causes.most_common(1)[0][0]
            more = _MORE_ROOM * getattr(self._config, f"max_{kind}_tokens")
            cure = _CURES.get(main, "choose another teacher.model").format(kind=kind, more=more)
            raise UnusableError(
                f"not one usable {kind} reply to {self._barren[kind]} problems: {shown}. To mend "
                f"it, {cure}. What was paid for is kept; run the same command again with that"
            )
