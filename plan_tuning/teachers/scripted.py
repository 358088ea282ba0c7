"""The micro-world's noisy teacher: requests to replies, offline, with work for the filters.

It answers all that a real teacher is asked for (constraints, plan, verify, execute, judge, and
solve: without a plan), and like a real one it sees the request's text only: the problem is read
back from ``<problem>``, a plan from ``<plan>``. How good it is, and how it errs, is
ScriptedTeacherConfig:

- plans go wrong more often the deeper the problem is, and mostly in the same way (the person next
  to the asked one is left out), so a student can learn the mistake;
- the Plan Verifier is strict and noisy: it misses some bad plans and rejects some good ones;
- executions follow even a bad plan, unless the executor repairs it without a word; where the
  executor is careless one kind of sentence is misread, always in the same way; and a step slips
  now and then.

The same request gets the same answer, whatever was asked before.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from plan_tuning.config.microworld import ScriptedTeacherConfig
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.records import Reply, Request
from plan_tuning.tasks.microworld_questions import execution_of
from plan_tuning.tasks.microworld_text import (
    MicroworldTextError,
    Step,
    Story,
    apply,
    needed_chain,
    parse_plan,
    parse_problem,
    plan_text,
)
from plan_tuning.teachers.errors import FatalTeacherError

GOOD_SCORE = 80
_ROLES = ("constraints", "plan", "verify", "execute", "judge", "solve")
_DEFECTS = ("skip", "detour", "early")
_DEFECT_WEIGHTS = (70, 20, 10)
_SLIPS = (-10, -2, -1, 1, 2, 10)


class ScriptedTeacherError(FatalTeacherError):
    """A request that the scripted teacher cannot answer."""


def scripted_backend(config: TeacherConfig) -> ScriptedTeacher:
    """Make the teacher that a configuration describes."""
    return ScriptedTeacher(config.scripted)


class ScriptedTeacher:
    """A teacher behind the same ``complete`` as a real one; it holds no state but its config."""

    def __init__(self, config: ScriptedTeacherConfig | None = None) -> None:
        self.config = config or ScriptedTeacherConfig()

    async def complete(self, request: Request) -> Reply:
        """Answer a request.

        Raises:
            ScriptedTeacherError: the request's text holds no problem of the micro-world.
        """
        text = self.answer(request)
        return Reply(
            text=text,
            prompt_tokens=sum(message["content"].count(" ") + 1 for message in request.messages),
            completion_tokens=text.count(" ") + 1,
            cost_usd=0.0,
            served_model="scripted",
        )

    def answer(self, request: Request) -> str:
        """Write the reply's text.

        Raises:
            ScriptedTeacherError: the role is unknown, or the text holds no problem of this world.
        """
        text = "\n".join(message["content"] for message in request.messages)
        rng = random.Random(self._draw_seed(request, text))
        if request.role == "judge":
            reference = parse_plan(_tagged(text, "reference_plan"))
            candidate = parse_plan(_tagged(text, "candidate_plan"))
            return judge_reply(reference, candidate)
        if request.role not in _ROLES:
            raise ScriptedTeacherError(
                f"the scripted teacher has no role {request.role!r}, only {', '.join(_ROLES)}"
            )
        try:
            story = parse_problem(_tagged(text, "problem"))
        except MicroworldTextError as error:
            raise ScriptedTeacherError(
                f"the scripted teacher can only solve the micro-world: {error}. "
                "For other data choose another teacher, for example teacher=openai_compatible"
            ) from error
        if request.role == "constraints":
            return constraints_reply(story)
        if request.role == "plan":
            return plan_text(self.sample_plan(story, rng))
        if request.role == "solve":  # without a plan it follows its own
            return execution_of(story, self.execute(story, self.sample_plan(story, rng), rng))
        plan = parse_plan(_tagged(text, "plan"))
        if request.role == "verify":
            return self.verify(story, plan, rng)
        return execution_of(story, self.execute(story, plan, rng))

    def _draw_seed(self, request: Request, text: str) -> int:
        sample = request.sample_index if request.temperature > 0 else 0
        content = f"{self.config.seed}|{request.role}|{sample}|{request.attempt_salt}|{text}"
        return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big")

    def sample_plan(self, story: Story, rng: random.Random) -> list[str]:
        """Draw a plan (asked person first): the needed chain, or one with a typical defect."""
        config = self.config
        chain = needed_chain(story)
        depth = len(chain) - 1
        if rng.random() >= min(config.max_bad_plan_rate, config.bad_plan_rate * depth):
            return chain
        defect = rng.choices(_DEFECTS, _DEFECT_WEIGHTS)[0]
        others = [fact.owner for fact in story.facts if fact.owner not in chain]
        if defect == "skip" and depth >= 2:
            return [chain[0], *chain[2:]]
        if defect != "early" and others:
            position = rng.randint(1, len(chain) - 1) if depth else 0
            return [*chain[:position], rng.choice(others), *chain[position + 1 :]]
        return chain[:-1] or chain

    def verify(self, story: Story, plan: Sequence[str], rng: random.Random) -> str:
        """Judge a plan in words that end in ``Score: N``, an integer up to 95."""
        config = self.config
        chain = needed_chain(story)
        if list(plan) == chain:
            if rng.random() < config.rejected_rate:
                return f"Complete, but the order is not argued for.\nScore: {rng.randint(55, 78)}"
            return f"Each person is reached from the one before.\nScore: {rng.randint(84, 95)}"
        if rng.random() < config.missed_rate:
            return f"Nothing seems to be missing.\nScore: {rng.randint(80, 92)}"
        similarity = plan_similarity(chain, plan)
        score = max(-100, min(78, round(100 * similarity) - rng.randint(10, 40)))
        missing = [name for name in chain if name not in plan]
        reason = f"{missing[0]} is needed" if missing else "Somebody is not needed"
        return f"{reason}, so the plan does not lead to the answer.\nScore: {score}"

    def execute(self, story: Story, plan: Sequence[str], rng: random.Random) -> list[Step]:
        """Carry out a plan, good or bad, with the executor's own errors."""
        config = self.config
        chain = needed_chain(story)
        known = {fact.owner for fact in story.facts}
        followed = [name for name in plan if name in known]
        is_bad = followed != chain
        if not followed or (is_bad and rng.random() < config.repair_rate):
            followed = chain
        is_careless = rng.random() < config.misread_rate
        facts = story.by_owner()
        values: dict[str, int] = {}
        steps: list[Step] = []
        for owner in reversed(followed):
            fact = facts[owner]
            if not fact.parent:
                values[owner] = fact.operand
                steps.append(Step(owner, "", fact.operand, 0, fact.operand))
                continue
            # A parent that the plan has passed over: the number before is taken for it, and at
            # the very beginning the operand itself.
            previous = steps[-1].value if steps else fact.operand
            base = values.get(fact.parent, previous)
            operation = fact.operation
            if is_careless and operation == "fewer" and fact.operand >= config.misread_fewer_from:
                operation = "more"
            value = apply(operation, fact.operand, base)
            if rng.random() < config.slip_rate:
                value += rng.choice(_SLIPS)
            values[owner] = max(0, min(config.max_value, value))
            steps.append(Step(owner, operation, fact.operand, base, values[owner]))
        return steps


def _tagged(text: str, tag: str) -> str:
    """Cut out what stands between the last ``<tag>`` and its ``</tag>``.

    Raises:
        ScriptedTeacherError: the request has no such part.
    """
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    if start < 0 or end < 0:
        raise ScriptedTeacherError(f"the request to the scripted teacher has no <{tag}>…</{tag}>")
    return text[start + len(tag) + 2 : end].strip()


def constraints_reply(story: Story) -> str:
    """List what a problem states."""
    lines = [
        f"- {fact.owner} has {fact.operand} {story.item}"
        if not fact.parent
        else f"- the number of {fact.owner} depends on that of {fact.parent}"
        for fact in story.facts
    ]
    return "\n".join([*lines, f"- asked: the number of {story.target}'s {story.item}"])


def plan_similarity(reference: Sequence[str], candidate: Sequence[str]) -> float:
    """Compare two plans by their links: F1 of the pairs of neighbours, both ends included.

    >>> plan_similarity(["Bob", "Eve"], ["Bob", "Eve"])
    1.0
    >>> plan_similarity(["Bob", "Eve"], ["Mia"])
    0.0
    """
    first, second = (set(_links(plan)) for plan in (reference, candidate))
    return 2 * len(first & second) / (len(first) + len(second))


def _links(plan: Sequence[str]) -> list[tuple[str, str]]:
    ends = ["", *plan, ""]
    return [(ends[i], ends[i + 1]) for i in range(len(ends) - 1)]


def judge_reply(reference: Sequence[str], candidate: Sequence[str]) -> str:
    """Say how similar two plans are."""
    similarity = plan_similarity(reference, candidate)
    return f"Compared link by link.\nSimilarity: {similarity:.2f}"
