"""What can be added to a job: one small record each, the built-in ones listed here.

A record says what a name means: which module implements it, what it needs, what a student learns by
it and how it is asked. Modules are imported on use, so that listing all of them costs nothing.
Records from outside the package come in by :mod:`plan_tuning.config.outside`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from plan_tuning.artifacts import hashed_values
from plan_tuning.config.checks import ConfigError, require, require_choice

# What a record of each kind may need: that is handed over, or has to be there.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "data": ("world", "sources"),
    "teacher": ("network", "plans"),
    "filter": (),
    "method": ("corpus", "rewards"),
    "reward": ("teacher_plan", "ask", "generate", "log_probs"),
    "plan_similarity": ("ask", "encoder", "generate", "log_probs", "execution"),
    "executor": ("student", "base", "model", "ask"),
    "engine": ("keys", "stop_strings", "decoding", "log_probs", "server", "folder"),
    "merge": ("base", "density", "scale", "seed", "problems"),
    "task": ("world", "run_code"),
}
KINDS = tuple(NEEDS)
# The group of conf/ whose choices bring in a record of a kind.
GROUPS: Mapping[str, str] = {
    **{kind: kind for kind in NEEDS if kind not in ("engine", "plan_similarity", "task")},
    "engine": "evaluation",
    "plan_similarity": "reward",
    "task": "data",
}
PARTS = ("plan", "execution", "solution", "rewards")
TWO_CALLS = "m2"  # what predictions call the protocol of a plan and its execution
PLAIN = "zero_shot"  # in whose words a model is asked that is given no plan
OWN_ENGINE = "native"  # this project's own, with which everything can be done
BASELINE = "sft"  # what a comparison is with, unless it is told
DEFAULT_METHOD = "m1"
DEFAULT_TASK = "maths"


@dataclass(frozen=True, slots=True)
class Extension:
    """One thing that the configuration can name.

    Args:
        kind: one of KINDS.
        name: what the configuration calls it.
        module: dotted path of the module that implements it, imported on use; a file outside the
            package leaves it out.
        attribute: what implements it there; empty: what bears the record's name.
        schema: ``module:class`` of its configuration, or a class of its own module; empty: that of
            its group.
        version: of what it writes for the same settings; bumped by hand.
        needs: what it is handed or what has to be there, of NEEDS.
        learns: a method: the parts of a training row in their order (plan and execution, of the
            teacher; solution, the human rationale), or ``rewards``; empty: nothing is trained.
        asked_as: a method: in whose words its student is asked; a teacher: under which kind its
            answers are stored; empty: its own name.
        suffix: a method: what stands behind the problem instead; None: the words of ``asked_as``.
        calls: a method: at test time; with 2 an executor carries out the student's plan.
        protocol: a method: what predictions call the way it is asked, where no fingerprint of a
            student says so.
        styles: a task: the grading styles of its problems; empty: its own name alone.
        task: data: the task that the problems are of, where it is not that of mathematics.
        source: fingerprint of the file of a record from outside; empty: built in.
    """

    kind: str
    name: str
    module: str = ""
    attribute: str = ""
    schema: str = ""
    version: int = 1
    needs: tuple[str, ...] = ()
    learns: tuple[str, ...] = ()
    asked_as: str = ""
    suffix: str | None = None
    calls: int = 1
    protocol: str = "one_call"
    styles: tuple[str, ...] = ()
    task: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Check that the words are known."""
        require_choice("extension.kind", self.kind, KINDS)
        require(
            self.name.isidentifier(),
            "extension.name",
            self.name,
            "letters, digits and underscores, as in a Python name",
            f'Extension("{self.kind}", "mine")',
        )
        for word in self.needs:
            require_choice("extension.needs", word, NEEDS[self.kind] or ("()",))
        for word in self.learns:
            require_choice("extension.learns", word, PARTS)
        require(
            self.calls == 1 or (self.calls == 2 and "plan" in self.learns),
            "extension.calls",
            self.calls,
            "1, or 2 where the student learns a plan that an executor carries out",
            'Extension("method", "mine", learns=("plan",), calls=2)',
        )

    @property
    def is_outside(self) -> bool:
        """Whether it comes from outside the package."""
        return bool(self.source)

    @property
    def is_trained(self) -> bool:
        """A method: whether a student is trained at all."""
        return bool(self.learns)

    @property
    def is_supervised(self) -> bool:
        """A method: whether it learns from rows, not from rewards."""
        return self.is_trained and "rewards" not in self.learns

    @property
    def writes_plan(self) -> bool:
        """A method: whether its student writes a plan, learnt or found."""
        return "plan" in self.learns or (
            bool(self.asked_as) and record(self.kind, self.asked_as).writes_plan
        )

    @property
    def takes_plans(self) -> bool:
        """A method: whether there is a place for a plan, learnt or in the request of two calls."""
        return self.writes_plan or not self.is_trained

    @property
    def loss_weights(self) -> tuple[str, ...]:
        """A method: which weights of ``method`` its rows are learned with."""
        found = ("plan_weight",) if "plan" in self.learns else ()
        others = set(self.learns) - {"plan", "rewards"}
        return (*found, "solution_weight") if others else found

    def load(self) -> Any:
        """Import what implements it.

        Raises:
            ConfigError: its module has no such thing.
        """
        module = importlib.import_module(self.module)
        name = self.attribute or self.name
        if not hasattr(module, name):
            raise ConfigError(
                f"{GROUPS[self.kind]}.extension",
                getattr(module, "__file__", self.module),
                f"there is no {name} in it, which the record of the {self.kind} {self.name} names",
                f'Extension("{self.kind}", "{self.name}", attribute="…")',
            )
        return getattr(module, name)

    def config_class(self) -> type[Any] | None:
        """Import the class of its configuration; None: that of its group."""
        if not self.schema:
            return None
        module, _, name = self.schema.rpartition(":")
        found: type[Any] = getattr(importlib.import_module(module or self.module), name)
        return found


_SETS = "plan_tuning.tasks.published_sets"
_FORMATS = "plan_tuning.text.formats"
_FILTERS = "plan_tuning.distillation.filters"
_REWARDS = "plan_tuning.rewards"
_RULES = f"{_REWARDS}.rules"
_PLANS = f"{_REWARDS}.plan_similarity"
_JUDGES = f"{_REWARDS}.plan_judges"
_EXECUTION = f"{_REWARDS}.execution"
_ENGINES = "plan_tuning.students.generation"
_WRITERS = "plan_tuning.evaluation.writers"
_TEXT_WRITERS = "plan_tuning.evaluation.text_writers"
_BACKENDS = "plan_tuning.teachers"
_TASKS = "plan_tuning.tasks"
_MICRO_TASKS = "plan_tuning.tasks.microworld_tasks"
_ROUTING = "plan_tuning.students.routing"
_CONTINUOUS = f"{_ENGINES}.continuous_batching"
_MERGES = "plan_tuning.students.merge_rules"

BUILT_IN = (
    Extension("data", "gsm8k", _SETS, "GSM8K"),
    Extension("data", "math", _SETS, "MATH"),
    Extension("data", "math_7500", _SETS, "MATH_7500"),
    Extension("data", "math500", _SETS, "MATH500"),
    Extension("data", "olympiadbench", _SETS, "OLYMPIADBENCH"),
    Extension("data", "aime_1983_2024", _SETS, "AIME_1983_2024"),
    Extension("data", "aime2024", _SETS, "AIME2024"),
    Extension("data", "aime2025", _SETS, "AIME2025"),
    Extension("data", "strategyqa", _SETS, "STRATEGYQA", task="yes_no"),
    Extension("data", "humaneval", _SETS, "HUMANEVAL", task="code"),
    Extension("data", "mbpp", _SETS, "MBPP", task="code"),
    Extension("data", "gsm8k_socratic", _SETS, "GSM8K_SOCRATIC"),
    Extension(
        "data", "jsonl", "plan_tuning.tasks.schemas", "own",
        schema="plan_tuning.config.data:OwnDataConfig",
    ),
    Extension(
        "data", "microworld", "plan_tuning.tasks.microworld_problems", "load_microworld",
        schema="plan_tuning.config.data:MicroworldDataConfig", needs=("world",),
    ),
    Extension(
        "data", "mixture", "plan_tuning.tasks.mixture", "mix",
        schema="plan_tuning.config.mixture:MixtureDataConfig", needs=("sources",),
    ),
    Extension("teacher", "scripted", f"{_BACKENDS}.scripted", "scripted_backend"),
    Extension(
        "teacher", "litellm", f"{_BACKENDS}.litellm_backend", "LitellmBackend",
        needs=("network",), asked_as="api",
    ),
    Extension(
        "teacher", "http", f"{_BACKENDS}.http_backend", "HttpBackend",
        needs=("network",), asked_as="api",
    ),
    Extension("teacher", "replay", f"{_BACKENDS}.backend", "ReplayBackend", asked_as="api"),
    Extension(
        "teacher", "dataset", "plan_tuning.tasks.dataset_plans", "dataset_plan", needs=("plans",)
    ),
    Extension("filter", "none", _FILTERS, "rejection"),
    Extension("filter", "plan_only", _FILTERS, "rejection"),
    Extension("filter", "answer_only", _FILTERS, "rejection"),
    Extension("filter", "two_stage", _FILTERS, "rejection"),
    Extension("filter", "recompute", _FILTERS, "rejection"),
    Extension("method", "zero_shot", _FORMATS, "student_messages"),
    Extension("method", "zero_shot_cot", _FORMATS, "student_messages", protocol="zero_shot_cot"),
    Extension("method", "sft", _FORMATS, "segments", learns=("solution",)),
    Extension(
        "method", "sft_teacher_cot", _FORMATS, "segments",
        needs=("corpus",), learns=("execution",),
    ),
    Extension(
        "method", "m1", _FORMATS, "segments", needs=("corpus",), learns=("plan", "execution")
    ),
    Extension(
        "method", "m2", _FORMATS, "segments",
        needs=("corpus",), learns=("plan",), calls=2, protocol=TWO_CALLS,
    ),
    Extension(
        "method", "grpo", "plan_tuning.training.grpo.fit", "train_grpo",
        schema="plan_tuning.config.grpo:GRPOConfig",
        needs=("corpus", "rewards"), learns=("rewards",), asked_as="m1",
    ),
    Extension("reward", "correct", _RULES, "correct_reward"),
    Extension("reward", "plan", _PLANS, "guarded", needs=("teacher_plan",)),
    Extension("reward", "format", _RULES, "format_reward"),
    Extension("reward", "length", _RULES, "length_reward"),
    Extension("reward", "leak", _RULES, "leak_reward"),
    Extension("reward", "overlong", _RULES, "overlong_penalty"),
    Extension("plan_similarity", "judge", _JUDGES, "judged", needs=("ask",)),
    Extension("plan_similarity", "steps", _PLANS, "by_steps"),
    Extension("plan_similarity", "embedding", _PLANS, "by_embeddings", needs=("encoder",)),
    Extension("plan_similarity", "verifier", _JUDGES, "verified", needs=("ask",)),
    Extension("plan_similarity", "roscoe", f"{_REWARDS}.roscoe", needs=("encoder",)),
    Extension("plan_similarity", "executability", _EXECUTION, needs=("generate",)),
    Extension("plan_similarity", "uplift", _EXECUTION, needs=("generate",)),
    Extension("plan_similarity", "likelihood", _EXECUTION, needs=("log_probs", "execution")),
    Extension("executor", "self", _WRITERS, "LocalWriter", needs=("student",)),
    Extension("executor", "base", _WRITERS, "LocalWriter", needs=("base",)),
    Extension("executor", "model", _WRITERS, "LocalWriter", needs=("model",)),
    Extension("executor", "teacher", _TEXT_WRITERS, "TeacherWriter", needs=("ask",)),
    Extension(
        "engine", "native", f"{_ENGINES}.native_engine", "generate",
        needs=("keys", "stop_strings", "decoding", "log_probs"),
    ),
    Extension("engine", "continuous_batching", _CONTINUOUS, "generate_continuously"),
    Extension("engine", "server", _TEXT_WRITERS, "ServedWriter", needs=("server", "stop_strings")),
    Extension(
        "engine", "vllm", f"{_ENGINES}.vllm_engine", "VLLMEngine",
        needs=("folder", "keys", "stop_strings", "log_probs"),
    ),
    Extension("merge", "linear", "plan_tuning.students.merging", "linear"),
    Extension("merge", "task_arithmetic", _MERGES, "task_arithmetic", needs=("base", "scale")),
    Extension("merge", "ties", _MERGES, "ties", needs=("base", "density", "scale")),
    Extension(
        "merge", "dare_ties", _MERGES, "dare_ties", needs=("base", "density", "scale", "seed")
    ),
    Extension("merge", "router", _ROUTING, "write_router", needs=("problems",)),
    Extension(
        "task", DEFAULT_TASK, f"{_TASKS}.maths", "TASK",
        styles=("math", "gsm8k", "olympiadbench", "aime"),
    ),
    Extension("task", "yes_no", f"{_TASKS}.yes_no", "TASK", styles=("strategyqa",)),
    Extension("task", "code", f"{_TASKS}.code", "TASK", needs=("run_code",)),
    Extension("task", "microworld", _MICRO_TASKS, "NUMBERS", needs=("world",)),
    Extension("task", "microworld_yes_no", _MICRO_TASKS, "YES_NO", needs=("world",)),
    Extension(
        "task", "microworld_program", _MICRO_TASKS, "PROGRAMS",
        needs=("world", "run_code"),
    ),
)  # fmt: skip

_RECORDS: dict[tuple[str, str], Extension] = {(one.kind, one.name): one for one in BUILT_IN}


def add(extension: Extension) -> None:
    """Make a record from outside known.

    Raises:
        ConfigError: the name is taken.
    """
    known = _RECORDS.setdefault((extension.kind, extension.name), extension)
    task_of.cache_clear()
    require(
        known == extension,
        f"{GROUPS[extension.kind]}.extension",
        extension.name,
        f"another name: there is a {extension.kind} {extension.name} "
        + ("of another file" if known.is_outside else "already"),
        f'Extension("{extension.kind}", "my_{extension.name}")',
    )


def records(kind: str) -> list[Extension]:
    """All records of a kind, the built-in ones first."""
    return [one for (of, _), one in _RECORDS.items() if of == kind]


def names(kind: str) -> tuple[str, ...]:
    """The names of a kind, the built-in ones first."""
    return tuple(one.name for one in records(kind))


def find(kind: str, name: str) -> Extension | None:
    """Look a record up; None where the name means nothing here."""
    return _RECORDS.get((kind, name))


def record(kind: str, name: str) -> Extension:
    """Look a record up.

    Raises:
        ConfigError: the name means nothing here.
    """
    require_choice(f"{GROUPS[kind]}.name", name, names(kind))
    return _RECORDS[kind, name]


@cache  # every answer of a teacher asks
def task_of(style: str) -> Extension:
    """Find the task whose problems are of a grading style; of an unknown one it is mathematics."""
    found = (one for one in records("task") if style in (one.styles or (one.name,)))
    return next(found, None) or record("task", DEFAULT_TASK)


def own_styles() -> tuple[str, ...]:
    """The grading styles that problems of one's own may have."""
    found = [one for one in records("task") if "world" not in one.needs]
    return tuple(style for one in found for style in one.styles or (one.name,))


def extension_spec(
    kind: str, name: str, config: Any = None, group: type | None = None
) -> dict[str, Any]:
    """What of an extension determines what is written: nothing of a built-in one.

    Args:
        kind: of the record.
        name: of the record.
        config: its configuration, where it has a schema of its own.
        group: the class that the schema extends; the further fields are hashed here.

    Returns:
        ``{}``, or ``{"extension": …}`` with version, fingerprint of the file and own settings.
    """
    found = find(kind, name)
    if found is None or not found.is_outside:
        return {}
    spec: dict[str, Any] = {"name": name, "version": found.version, "source": found.source}
    if group is not None and type(config) is not group:
        shared = {f.name for f in fields(group)}
        own = {key: value for key, value in hashed_values(config).items() if key not in shared}
        spec |= {"settings": own} if own else {}
    return {"extension": spec}


def check_extension(kind: str, name: str, extension: str | None) -> None:
    """Refuse a choice whose module was not read, or brings another name than the choice's.

    Raises:
        ConfigError: it is so.
    """
    require(
        extension is None or find(kind, name) is not None,
        f"{GROUPS[kind]}.extension",
        extension,
        f"a module that brings a {kind} {name}, in a choice below --config-dir",
        f"plan-tuning --config-dir my_conf {GROUPS[kind]}={name}",
    )
