"""Config of the offline world: the problems, the scripted teacher and the base model."""

from __future__ import annotations

from dataclasses import dataclass

from plan_tuning.config.checks import (
    require,
    require_choice,
    require_positive,
    require_rate,
)

FAMILIES = ("a", "b", "c", "d")
MICRO_STYLES = {
    "number": "microworld",
    "yes_no": "microworld_yes_no",
    "program": "microworld_program",
}
"""Grading style of each question."""
QUESTIONS = tuple(MICRO_STYLES)
OTHER_QUESTIONS = tuple(MICRO_STYLES[question] for question in QUESTIONS[1:])
"""How sets of other questions than that for a number are called."""
MAX_NAMES = 20
# Bumped by hand when teachers/scripted.py answers the same request otherwise: it is part of the
# teacher's spec, so that stored answers of one version are never served for another.
SCRIPTED_VERSION = 1


@dataclass
class MicroworldConfig:
    """What the problems look like; the surface form itself is in tasks/microworld_text.py."""

    # a: words mean what they say; b: "more" and "fewer" swapped, told apart by other nouns; c and
    # d: swapped and not, told apart by the noun together with a word before the question
    family: str = "a"
    # What is asked: how many (number), whether so many or more (yes_no), or for the program that
    # computes it, which is run with its tests; the last two need model=micro_domains
    question: str = "number"
    # Vocabulary: these three determine the base model as well
    num_names: int = 16  # people a problem can be about; each is two tokens ("Eve", "Eve's")
    max_value: int = 40  # largest number in a problem or an answer; each number is one token
    max_operand: int = 5  # largest n of "n-more-than", "n-fewer-than"; "times" takes 2 or 3
    # Operations between the known number and the asked one: the difficulty of a problem
    min_depth: int = 1
    max_depth: int = 4
    # People that the question does not need
    min_distractors: int = 1
    max_distractors: int = 3
    # test_depth: deeper than anything in training
    ood_min_depth: int = 5
    ood_max_depth: int = 6
    # test_distractors: with the two greatest training depths
    ood_min_distractors: int = 5
    ood_max_distractors: int = 6
    train_size: int = 2000  # before data.limit; problems that a test set holds are left out
    test_size: int = 300  # of each test set, before evaluation.limit

    def __post_init__(self) -> None:
        """Check ranges, and that there are people enough for the largest problem.

        Raises:
            ConfigError: a value is out of range, or two of them contradict each other.
        """
        require_choice("data.family", self.family, FAMILIES)
        require_choice("data.question", self.question, QUESTIONS)
        for key, least, most, good in (
            ("num_names", 4, MAX_NAMES, 16),
            ("max_value", 10, 200, 40),
            ("max_operand", 3, 9, 5),
        ):
            value = getattr(self, key)
            allowed = f"between {least} and {most}"
            require(
                least <= value <= most,
                f"data.{key}",
                value,
                allowed,
                f"data.{key}={good}",
            )
        for key, least in (("depth", 1), ("distractors", 0)):
            for prefix in ("", "ood_"):
                low = getattr(self, f"{prefix}min_{key}")
                high = getattr(self, f"{prefix}max_{key}")
                require(
                    least <= low <= high,
                    f"data.{prefix}min_{key}",
                    low,
                    f"between {least} and data.{prefix}max_{key}={high}",
                    f"data.{prefix}min_{key}={max(least, high)}",
                )
        people = 1 + max(
            self.max_depth + max(self.max_distractors, self.ood_max_distractors),
            self.ood_max_depth + self.max_distractors,
        )
        require(
            people <= self.num_names,
            "data.num_names",
            self.num_names,
            f"the largest problem of these knobs is about {people} people",
            "data.num_names=16 data.ood_max_depth=6 data.ood_max_distractors=6",
        )
        for key in ("train_size", "test_size"):
            require_positive(f"data.{key}", getattr(self, key), f"data.{key}=300")


@dataclass
class ScriptedTeacherConfig:
    """How good the scripted teacher is: the noise that the two verifiers have to find."""

    seed: int = 0  # begins every draw; two seeds are two teachers
    # P(a sampled plan is bad) = min(max_bad_plan_rate, bad_plan_rate * depth)
    bad_plan_rate: float = 0.2
    max_bad_plan_rate: float = 0.85
    repair_rate: float = 0.5  # bad plans that the executor repairs unsaid: right answer, wrong plan
    missed_rate: float = 0.18  # bad plans that the Plan Verifier scores at 80 or above
    rejected_rate: float = 0.05  # good plans that the Plan Verifier, being strict, scores below 80
    # Systematic executor error: in this share of its executions the executor is careless, and takes
    # every "n-fewer-than" with n of at least misread_fewer_from for "n-more-than"
    misread_rate: float = 0.65
    misread_fewer_from: int = 4
    slip_rate: float = 0.03  # random executor error: steps whose result is written down wrong
    max_value: int = 40  # largest number that it writes: that of the world (data.max_value)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a rate is outside 0..1 or the operand below 1.
        """
        for key in (
            "bad_plan_rate",
            "max_bad_plan_rate",
            "repair_rate",
            "missed_rate",
            "rejected_rate",
            "misread_rate",
            "slip_rate",
        ):
            name = f"teacher.scripted.{key}"
            require_rate(name, getattr(self, key), f"{name}=0.2")
        for key, good in (("misread_fewer_from", 4), ("max_value", 40)):
            name = f"teacher.scripted.{key}"
            require_positive(name, getattr(self, key), f"{name}={good}")


@dataclass
class MicroBaseConfig:
    """The base that stands in for a pretrained model: its size and how it is trained.

    One base serves every seed, method and filter of a sweep.
    """

    # Architecture: Qwen3 with tied embeddings. The first layer sees a window of a few tokens only,
    # without which looking up a fact does not form within the budget
    hidden_size: int = 64
    num_layers: int = 3
    num_heads: int = 4
    head_dim: int = 32
    intermediate_size: int = 192
    sliding_window: int = 5
    rope_theta: float = 500.0
    initializer_range: float = 0.1
    batch_size: int = 16  # documents per step
    # Phase 1, looking up facts: ends as soon as the running loss is below the gate
    lookup_learning_rate: float = 2e-3
    lookup_gate: float = 0.02
    lookup_max_steps: int = 1500  # the gate not reached by then: the build fails
    # Phase 2: arithmetic, look-up, stories and the execution of given plans
    mixture_learning_rate: float = 4e-3
    mixture_steps: int = 1400
    guided_max_depth: int = 6  # deepest given plan
    # Each probe of the finished base must get this share of its tokens right, or the build fails
    probe_gate: float = 0.95
    probe_size: int = 100  # documents per probe

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        for key, good in (
            ("hidden_size", "64"),
            ("num_heads", "4"),
            ("head_dim", "32"),
            ("intermediate_size", "192"),
            ("sliding_window", "5"),
            ("rope_theta", "500"),
            ("initializer_range", "0.1"),
            ("batch_size", "16"),
            ("lookup_learning_rate", "0.002"),
            ("lookup_gate", "0.02"),
            ("lookup_max_steps", "1500"),
            ("mixture_learning_rate", "0.004"),
            ("mixture_steps", "1400"),
            ("guided_max_depth", "6"),
            ("probe_size", "100"),
        ):
            require_positive(f"model.base.{key}", getattr(self, key), f"model.base.{key}={good}")
        require(
            self.num_layers >= 2,
            "model.base.num_layers",
            self.num_layers,
            "at least 2: one layer with a window and one without",
            "model.base.num_layers=3",
        )
        require_rate("model.base.probe_gate", self.probe_gate, "model.base.probe_gate=0.95")
