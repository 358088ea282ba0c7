"""Messages to texts, by those who are asked in text: a chat server, a large model, a function.

The tokens of what they write are theirs alone; only their number is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.writers import Messages, Progress, SolveError, StudentRequests, Written
from plan_tuning.job_record import Compute
from plan_tuning.records import Problem, Reply, Request
from plan_tuning.students.generation.protocol import Key
from plan_tuning.students.templates import DATE_STRING
from plan_tuning.text.prompts import render

AskAll = Callable[[Sequence[Request]], list[Reply]]
"""From requests to replies, in their order; made by experiment's roles."""

Execute = Callable[[str, str], str]
"""From a problem and a plan (empty: none is given) to a text that ends in a boxed answer."""


class ServedWriter(StudentRequests):
    """A student behind an OpenAI-compatible server; the server applies the chat template.

    What vLLM and SGLang would fill in by themselves is said in every request: the thinking switch
    of the template, which training has off, the date that it may write, which training has fixed
    (one that asks a clock gets the server's), and settings of the student's generation config.
    """

    def __init__(self, ask_all: AskAll, evaluation: EvaluationConfig) -> None:
        self._ask_all = ask_all
        self._evaluation = evaluation

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order.

        Raises:
            SolveError: an answer is missing.
        """
        evaluation = self._evaluation
        is_sampled = evaluation.temperature > 0
        extra = self._extra(phase)
        requests = [
            Request(
                role="execute" if _holds_plan(messages) else "solve",
                messages=tuple(messages),
                temperature=evaluation.temperature,
                max_tokens=max_new_tokens,
                top_p=evaluation.top_p,
                sample_index=sample,
                seed=evaluation.seed + sample if is_sampled else None,
                problem_id=name,
                extra=extra,
            )
            for (name, sample), messages in zip(keys, asked, strict=True)
        ]
        replies = self._ask_all(requests)
        if len(replies) != len(requests):
            raise SolveError(f"{len(requests)} requests got {len(replies)} replies")
        failed = sum(reply.status == "failed" for reply in replies)
        if failed:
            # A missing answer is no wrong answer: as one it would lower the accuracy.
            raise SolveError(
                f"{failed} of {len(replies)} calls failed to the end: run the same command again; "
                "every answer that arrived is stored"
            )
        tokens = sum(reply.completion_tokens for reply in replies)
        read = sum(reply.prompt_tokens for reply in replies)
        self.computed += Compute(0, tokens, read, flops=None)  # of weights that are not here
        if progress is not None:
            progress(phase, len(replies), len(replies), tokens)
        return [
            Written(
                reply.thoughts + reply.text,
                "length" if reply.finish_reason == "length" else "stop",
                reply.completion_tokens,
            )
            for reply in replies
        ]

    def facts(self) -> dict[str, Any]:
        """Name the date that was sent; what a template made of it, the server alone knows."""
        return {"sent_date_string": DATE_STRING}

    def _extra(self, phase: str) -> dict[str, Any]:
        """Name the fields that decode a served student as this project's own engine does."""
        stop = self._evaluation.stop_strings(phase)
        return {
            "chat_template_kwargs": {"enable_thinking": False, "date_string": DATE_STRING},
            "top_p": self._evaluation.top_p,
            "top_k": self._evaluation.top_k or -1,  # the servers' word for all tokens
            "repetition_penalty": 1.0,
            **({"stop": stop, "include_stop_str_in_output": True} if stop else {}),
        }


def _holds_plan(messages: Messages) -> bool:
    """Whether a request hands a plan over."""
    return "</plan>" in messages[-1]["content"]


class TeacherWriter(ServedWriter):
    """A large model, asked in the words of distillation and decoded as its provider does."""

    def facts(self) -> dict[str, Any]:
        """Say nothing: it is not told any date."""
        return {}

    def _extra(self, phase: str) -> dict[str, Any]:
        """Send nothing that only servers of students know."""
        return {}

    def request(self, problem: Problem, method: str, prompt: PromptConfig | str) -> Messages:
        """Ask for an answer without any plan."""
        return render("solve", style=problem.style, problem=problem.problem)

    def execution_request(self, problem: Problem, plan: str) -> Messages:
        """Ask for a plan to be executed."""
        return render("execute", style=problem.style, problem=problem.problem, plan=plan)


class FunctionWriter(StudentRequests):
    """An executor from outside: one function of the texts of a problem and of a plan."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._meant: dict[str, tuple[str, str]] = {}  # by what is asked: problem and plan

    def request(self, problem: Problem, method: str, prompt: PromptConfig | str) -> Messages:
        """Ask for an answer without any plan."""
        return self._note(super().request(problem, method, prompt), problem, "")

    def execution_request(self, problem: Problem, plan: str) -> Messages:
        """Ask for a plan to be executed."""
        return self._note(super().execution_request(problem, plan), problem, plan)

    def _note(self, messages: Messages, problem: Problem, plan: str) -> Messages:
        self._meant[messages[-1]["content"]] = (problem.problem, plan)
        return messages

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order; tokens are not counted."""
        meant = (self._meant[messages[-1]["content"]] for messages in asked)
        written = [Written(self._execute(*texts), "stop", 0) for texts in meant]
        self.computed += Compute(flops=None)
        if progress is not None:
            progress(phase, len(written), len(written), 0)
        return written
