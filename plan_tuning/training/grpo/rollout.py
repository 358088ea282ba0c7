"""Problems to groups of completions.

What is sampled depends on (seed, step, problem, sample) alone, and which problems a step asks on
the position in an endless stream of shuffled problems, so a resumed run continues exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.records import Completion, Problem
from plan_tuning.students.generation.protocol import Engine, Sampling
from plan_tuning.students.templates import prompt_ids
from plan_tuning.text.formats import has_plan, parse_plan, student_messages
from plan_tuning.text.thoughts import split_thoughts
from plan_tuning.training.grpo.data import PlannedProblem


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion of one problem."""

    problem: Problem
    teacher_plan: str
    sample: int  # 0 .. group_size - 1
    prompt: tuple[int, ...]
    completion: Completion
    plan: str  # empty where the completion holds no finished plan
    num_plan_tokens: int  # tokens up to the end of the plan
    execution: str = ""  # a right one of the problem, for rewards; empty: none is known

    def __len__(self) -> int:
        return len(self.completion.token_ids)

    @property
    def is_truncated(self) -> bool:
        """Whether the completion was cut off."""
        return self.completion.finish_reason == "length"


def problem_prompt(
    tokenizer: Any, problem: Problem, method: GRPOConfig, prompt: PromptConfig
) -> list[int]:
    """Render what the policy is asked: the token ids of M1's prompt."""
    messages = student_messages(
        problem.problem, method=method.name, prompt=prompt, style=problem.style
    )
    return prompt_ids(tokenizer, messages)


def sample_groups(
    engine: Engine,
    tokenizer: Any,
    problems: Sequence[PlannedProblem],
    *,
    method: GRPOConfig,
    prompt: PromptConfig,
    seed: int,
    step: int,
    stream: Sequence[int] | None = None,
) -> list[Rollout]:
    """Sample ``group_size`` completions of every problem.

    Args:
        engine: has the policy's weights.
        tokenizer: the policy's.
        problems: the same one may come twice.
        method: sampling.
        prompt: suffixes of the prompt.
        seed: of the noise.
        step: GRPO step.
        stream: place of each problem in the stream of problems; part of the noise's address.

    Returns:
        Rollouts, group by group.
    """
    seen: Counter[str] = Counter()
    asked, prompts, keys = [], [], []
    for place, planned in enumerate(problems):
        ids = problem_prompt(tokenizer, planned.problem, method, prompt)
        name = planned.problem.id
        if stream is not None:
            name = f"{stream[place]}/{name}"
        for _ in range(method.group_size):
            asked.append(planned)
            prompts.append(ids)
            keys.append((f"grpo/{step}/{name}", seen[name]))
            seen[name] += 1
    completions = engine.generate(
        prompts,
        keys=keys,
        sampling=Sampling(
            method.max_new_tokens,
            method.temperature,
            method.top_p,
            method.top_k,
            seed,
            return_log_probs=True,
        ),
    )
    needs_split = method.credit != "uniform"
    return [
        Rollout(
            problem=planned.problem,
            teacher_plan=planned.teacher_plan,
            sample=index % method.group_size,
            prompt=tuple(ids),
            completion=found,
            plan=_plan_of(split_thoughts(found.text).text),
            num_plan_tokens=plan_length(tokenizer, found) if needs_split else 0,
            execution=planned.execution,
        )
        for index, (planned, ids, found) in enumerate(zip(asked, prompts, completions, strict=True))
    ]


def _plan_of(said: str) -> str:
    return parse_plan(said) if has_plan(said) else ""


def plan_length(tokenizer: Any, completion: Completion) -> int:
    """Count the tokens up to and with the one that completes ``</plan>``.

    All of them where a plan was begun and never ended, none where there is no plan.
    """
    end = "</plan>"
    if end not in completion.text:
        return len(completion.token_ids) if "<plan>" in completion.text else 0
    ids = list(completion.token_ids)
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        if end in tokenizer.decode(ids[:middle], skip_special_tokens=True):
            high = middle
        else:
            low = middle + 1
    return low
