"""Messages to texts: inference of a student here, of one behind a server, or of a large model.

``solve`` asks a :class:`Writer` and does not know which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.extensions import record
from plan_tuning.config.training import PromptConfig
from plan_tuning.job_record import Compute
from plan_tuning.records import Completion, Message, Problem, Reply, Request
from plan_tuning.students.flops import writing
from plan_tuning.students.generation.static_decoding import is_static
from plan_tuning.students.loading import Student
from plan_tuning.students.memory import release_card_memory
from plan_tuning.students.templates import DATE_STRING, prompt_ids, template_date
from plan_tuning.text import formats
from plan_tuning.text.prompts import render
from plan_tuning.text.thoughts import split_thoughts

Messages = Sequence[Message]
Key = tuple[str, int]  # problem id and sample
AskAll = Callable[[Sequence[Request]], list[Reply]]
"""From requests to replies, in their order; made by experiment's roles."""

Progress = Callable[[str, int, int, int], None]
"""Called with (phase, finished rows, all rows, generated tokens so far) after each batch."""


class SolveError(ValueError):
    """An evaluation that cannot be done as it is asked for."""


@dataclass(frozen=True, slots=True)
class Written:
    """One answer, as it was generated; what is read and graded is what it says after its thoughts.

    Every engine's answers pass here, so thoughts are cut off alike.
    """

    text: str
    finish_reason: str  # stop, stop_string, length
    num_tokens: int

    @property
    def said(self) -> str:
        """The text without its thoughts."""
        return split_thoughts(self.text).text

    @property
    def is_cut(self) -> bool:
        """Whether it ends in a thought that was not closed."""
        return split_thoughts(self.text).is_open


class Writer(Protocol):
    """Whoever answers test problems or executes plans."""

    computed: Compute  # since somebody set this to nothing

    def request(self, problem: Problem, method: str, prompt: PromptConfig | str) -> Messages:
        """Ask for an answer (or for m2: a plan) to a problem."""

    def execution_request(self, problem: Problem, plan: str) -> Messages:
        """Ask for a plan to be executed."""

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order."""

    def facts(self) -> dict[str, Any]:
        """Say what the answers hang on, beside the Spec."""


class StudentRequests:
    """Students are asked in the words that they were trained on."""

    computed = Compute()

    def facts(self) -> dict[str, Any]:
        """Say what the answers hang on, beside the Spec, for the manifest of predictions."""
        return {}

    def request(self, problem: Problem, method: str, prompt: PromptConfig | str) -> Messages:
        """Ask for an answer (or for m2: a plan) to a problem."""
        return formats.student_messages(
            problem.problem, method=method, prompt=prompt, style=problem.style
        )

    def execution_request(self, problem: Problem, plan: str) -> Messages:
        """Ask for a plan to be executed."""
        return formats.executor_messages(problem.problem, plan, style=problem.style)


Engine = Callable[..., list[Completion]]
"""From a student and prompts (token ids) to their completions, in the order of the prompts.

Called with max_new_tokens, temperature, top_p, top_k, seed, batch_tokens and progress, and with
what the engine's record needs: keys, stop_strings, decoding.
"""

Execute = Callable[[str, str], str]
"""From a problem and a plan (empty: none is given) to a text that ends in a boxed answer."""


class LocalWriter(StudentRequests):
    """A student on this machine, run by the engine that the evaluation chooses."""

    def __init__(self, student: Student, evaluation: EvaluationConfig) -> None:
        self.student = student
        self.evaluation = evaluation

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order."""
        evaluation = self.evaluation
        rendered: dict[str, list[int]] = {}
        prompts = []
        for messages in asked:  # the samples of a problem ask the same
            key = "\x1e".join(f"{m['role']}\x1f{m['content']}" for m in messages)
            if key not in rendered:
                rendered[key] = prompt_ids(self.student.tokenizer, messages)
            prompts.append(rendered[key])

        def tell(rows: int, tokens: int) -> None:
            if progress is not None:
                progress(phase, rows, len(prompts), tokens)

        engine = record("engine", evaluation.engine)
        offered = {
            "keys": [(f"{phase}/{name}", sample) for name, sample in keys],
            "stop_strings": evaluation.stop_strings(phase),
            "decoding": evaluation.decoding,
        }
        generate: Engine = engine.load()
        completions = generate(
            self.student,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=evaluation.temperature,
            top_p=evaluation.top_p,
            top_k=evaluation.top_k,
            seed=evaluation.seed,
            batch_tokens=evaluation.batch_tokens,
            progress=tell,
            **{name: offered[name] for name in engine.needs},
        )
        if len(completions) != len(prompts):
            raise SolveError(
                f"engine={engine.name} returned {len(completions)} completions of {len(prompts)}"
            )
        sizes = [(len(p), len(c.token_ids)) for p, c in zip(prompts, completions, strict=True)]
        read = [len(prompt) for prompt in rendered.values()]  # once for all samples
        self.computed += writing(self.student.causal_lm, read, sizes)
        return [Written(c.text, c.finish_reason, len(c.token_ids)) for c in completions]

    def facts(self) -> dict[str, Any]:
        """Name a date in prompts, and what rounding hangs on where it is coarse.

        The kernels of half precision depend on the shape of a batch, so that other batches may
        choose other tokens.
        """
        date = template_date(self.student.tokenizer)
        found: dict[str, Any] = {} if date is None else {"template_date": date}
        dtype = next(p.dtype for p in self.student.model.parameters() if p.is_floating_point())
        if dtype == torch.float32:
            return found
        chosen = self.evaluation.decoding
        return found | {
            "decoding": {
                "precision": str(dtype).removeprefix("torch."),
                "batch_tokens": self.evaluation.batch_tokens,
                "decoding": "static" if is_static(self.student, chosen) else "dynamic",
            }
        }


class AdapterOffWriter(LocalWriter):
    """The base of a student whose adapter is being trained: the same weights, its updates off."""

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order."""
        with self.student.model.disable_adapter():
            return super().write(
                keys, asked, max_new_tokens=max_new_tokens, phase=phase, progress=progress
            )


class WaitingWriter(StudentRequests):
    """A student that waits in the machine's memory and is on the card while it writes.

    Args:
        load: reads it into the machine's memory; called at the first use.
        device: where it computes.
        evaluation: how it writes.
    """

    def __init__(
        self, load: Callable[[], Student], device: str, evaluation: EvaluationConfig
    ) -> None:
        self._load = load
        self._device = device
        self._evaluation = evaluation
        self._student: Student | None = None

    def write(
        self,
        keys: Sequence[Key],
        asked: Sequence[Messages],
        *,
        max_new_tokens: int,
        phase: str,
        progress: Progress | None,
    ) -> list[Written]:
        """Answer everything that is asked, in its order."""
        if self._student is None:
            self._student = self._load()
        model = self._student.model
        model.to(self._device)
        try:
            return LocalWriter(self._student, self._evaluation).write(
                keys, asked, max_new_tokens=max_new_tokens, phase=phase, progress=progress
            )
        finally:
            model.to("cpu")
            release_card_memory()


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
        return render("solve", problem=problem.problem)

    def execution_request(self, problem: Problem, plan: str) -> Messages:
        """Ask for a plan to be executed."""
        return render("execute", problem=problem.problem, plan=plan)


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
