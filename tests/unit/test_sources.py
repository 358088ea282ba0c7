"""Students of single sources in the graph of a job on a mixture, and what is refused."""

from __future__ import annotations

import pytest
from composition import config_of, graph

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.sources import Merged, merged_students, trains_sources

CONFLICT = ("data=microworld_conflict", "adapter=lora")


def student(*words: str) -> str:
    stage = graph(*words).student
    assert stage is not None
    return stage.fingerprint


def test_the_students_of_sources_are_those_of_their_own_jobs() -> None:
    merged = graph(*CONFLICT, "merge=ties")
    own = [student(f"data={name}", "adapter=lora") for name in ("microworld_d", "microworld_c")]
    assert [stage.fingerprint for stage in merged.merged] == own
    assert merged.student is not None
    assert merged.student.upstream == {"student 1": own[0], "student 2": own[1]}
    kinds = [stage.kind for stage in merged.stages]
    assert kinds.index("students") > kinds.index("corpora"), "a corpus comes before its student"
    assert kinds.count("students") == 3
    assert merged.corpus is None
    assert trains_sources(config_of(*CONFLICT, "merge=ties"))


def test_what_is_merged_may_be_named_in_several_ways() -> None:
    words = 'merge.students=["microworld_c","microworld_d=0123","4567"]'
    assert merged_students(config_of(*CONFLICT, "merge=linear", words)) == [
        Merged("microworld_c"), Merged("microworld_d", "0123"), Merged(given="4567")
    ]  # fmt: skip
    every = merged_students(config_of(*CONFLICT, "merge=router"))
    assert every == [Merged("microworld_d"), Merged("microworld_c")]
    assert merged_students(config_of(*CONFLICT)) == []
    given = config_of("merge=linear", "merge.students=[0123,4567]")
    assert not trains_sources(given)


@pytest.mark.parametrize(
    ("merge", "knob", "moves"),
    [
        ("ties", "merge.density=0.3", True),
        ("dare_ties", "merge.seed=1", True),
        ("ties", "merge.scale=0.5", True),
        ("linear", "merge.rank=4", True),
        ("linear", "merge.weights=[0.7,0.3]", True),
        ("linear", "merge.weights=[2,2]", False),  # the same shares
        ("task_arithmetic", "merge.weights=[2,2]", True),
        ("linear", "trainer.learning_rate=1e-5", True),  # of its sources' students
        ("linear", "merge.density=0.3", False),
        ("ties", "merge.seed=1", False),
        ("router", "merge.neighbours=3", False),  # the oracle asks nobody
        ("router", "merge.router=nearest", True),
        ("router", "merge.weights=[0.7,0.3]", False),
        ("linear", "data.mixing.strategy=equal_tokens", False),
        ("linear", "trainer.pcgrad=module", False),
    ],
)
def test_a_knob_counts_where_it_is_read(merge: str, knob: str, moves: bool) -> None:
    plain = student(*CONFLICT, f"merge={merge}")
    assert (student(*CONFLICT, f"merge={merge}", knob) != plain) == moves


def test_the_knobs_of_training_on_several_sources_are_content_where_they_act() -> None:
    words = ("data=microworld_conflict", "adapter=lora")
    plain = student(*words)
    assert student(*words, "trainer.pcgrad=module") != plain
    assert student(*words, "trainer.cosine_every_n_steps=5") == plain
    assert student(*words, "trainer.replay=0.2") == plain, "no level comes back where none is"
    by_source = (*words, "trainer.order=by_source")
    assert student(*by_source, "trainer.replay=0.2") != student(*by_source)
    single = ("data=microworld", "adapter=lora")
    assert student(*single, "trainer.pcgrad=module") == student(*single)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merge=linear"], r"data=microworld has no sources"),
        ([*CONFLICT, "merge=linear", "merge.weights=[1,2,3]"], r"one a student, 2 here"),
        (["data=microworld_conflict", "merge=router"], r"adapters of one base.*adapter=lora"),
        (
            [*CONFLICT, "merge=router", "merge.students=[microworld_d,0123]"],
            r"merge\.students=0123.*SOURCE=FINGERPRINT",
        ),
        (
            [*CONFLICT, "merge=linear", "data.mixing.domain_tag=true"],
            r"none of them has seen a tag",
        ),
        ([*CONFLICT, "merge=router", "evaluation.plan_value=true"], r"valued by one student"),
        (["data=microworld_conflict", "trainer.pcgrad=module"], r"for adapters.*adapter=lora"),
        (
            ["data=microworld_conflict", "trainer.cosine_every_n_steps=5"],
            r"cosine_every_n_steps=5.*for adapters",
        ),
        ([*CONFLICT, "trainer.pcgrad=module", "trainer.devices=2"], r"for one device"),
        ([*CONFLICT, "trainer.pcgrad=all"], r"trainer\.pcgrad=all.*none, module, global"),
        ([*CONFLICT, "trainer.replay=1"], r"below 1"),
        ([*CONFLICT, "merge=ties", "merge.density=0"], r"above 0 and at most 1"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(*words)
