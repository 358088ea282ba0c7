"""Rows to micro-batches: what is supervised, in which order rows come, how they are grouped."""

import pytest
import torch

from plan_tuning.config.training import MethodConfig
from plan_tuning.records import Segment, SegmentKind
from plan_tuning.students.templates import TemplateError, prompt_ids, turn_end_ids
from plan_tuning.students.tiny import build_tokenizer
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.order import step_rows
from plan_tuning.training.sft import batches
from plan_tuning.training.sft.batches import EncodedRow, RowError, TrainingRow

M1 = MethodConfig(name="m1")


@pytest.fixture(scope="module", params=["gemma3", "qwen3", "llama"])
def tokenizer(request):
    return build_tokenizer(request.param)


def make_row(method: str = "m1") -> TrainingRow:
    return TrainingRow(
        "p",
        student_messages("2 + 3?", method=method, prompt="matched", style="math"),
        render_completion(
            method, plan="1. Add.", execution="So \\boxed{5}.", solution="5", answer="5"
        ),
    )


def encode(tokenizer, row: TrainingRow, method: MethodConfig = M1, max_length: int = 500):
    [tokens] = batches.tokenise(tokenizer, [row])
    ends = turn_end_ids(tokenizer)
    return batches.encode(tokenizer, row, tokens, ends, method=method, max_length=max_length)


def plain_row(length: int, name: str = "p", first: int = 1) -> EncodedRow:
    weights = torch.ones(length)
    weights[0] = 0.0
    return EncodedRow(name, torch.arange(first, first + length), weights, torch.ones(length).long())


def test_the_prompt_of_training_is_the_prompt_of_generation(tokenizer):
    row = make_row()
    encoded = encode(tokenizer, row)
    prompt = prompt_ids(tokenizer, row.messages)
    assert encoded.ids[: len(prompt)].tolist() == prompt
    assert not encoded.weights[: len(prompt)].any()
    assert encoded.weights[len(prompt) :].all()


def test_tokens_belong_to_their_segment_and_the_turn_ends_once(tokenizer):
    row = make_row()
    encoded = encode(tokenizer, row)
    kinds = [batches.KINDS[kind] for kind in encoded.kinds.tolist()]
    by_kind = {
        kind: tokenizer.decode(
            [i for i, k in zip(encoded.ids.tolist(), kinds, strict=True) if k == kind]
        )
        for kind in batches.KINDS
    }
    assert by_kind[SegmentKind.PLAN].strip() == "<plan>\n1. Add.\n</plan>"
    assert by_kind[SegmentKind.SOLUTION].strip() == "<output>\nSo \\boxed{5}.\n</output>"
    end = turn_end_ids(tokenizer)
    assert kinds.count(SegmentKind.END) == len(end)
    assert encoded.ids[-len(end) :].tolist() == end
    text = "".join(segment.text for segment in row.segments)
    assert tokenizer.decode(encoded.ids, skip_special_tokens=True).endswith(text)


@pytest.mark.parametrize(
    ("plan_weight", "solution_weight"), [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0), (1.0, 0.0)]
)
def test_weights_follow_the_segment(tokenizer, plan_weight: float, solution_weight: float):
    method = MethodConfig(name="m1", plan_weight=plan_weight, solution_weight=solution_weight)
    encoded = encode(tokenizer, make_row(), method)
    for kind, weight in (
        (SegmentKind.PROMPT, 0.0),
        (SegmentKind.PLAN, plan_weight),
        (SegmentKind.SOLUTION, solution_weight),
        (SegmentKind.END, solution_weight),
    ):
        found = encoded.weights[encoded.kinds == batches.KINDS.index(kind)]
        assert len(found)
        assert (found == weight).all()


def test_rows_that_cannot_be_learned_from_are_refused(tokenizer):
    with pytest.raises(RowError, match=r"p.*trainer\.max_length=10"):
        encode(tokenizer, make_row(), max_length=10)
    silent = TrainingRow("p", make_row().messages, (Segment(SegmentKind.PLAN, "a", weight=0.0),))
    with pytest.raises(RowError, match="no token of it carries loss"):
        encode(tokenizer, silent)


def asked_row(name: str, question: str, answer: str = "5") -> TrainingRow:
    messages = ({"role": "user", "content": question},)
    return TrainingRow(name, messages, (Segment(SegmentKind.SOLUTION, answer),))


def test_many_rows_have_the_tokens_that_each_has_alone(monkeypatch, tokenizer):
    monkeypatch.setattr(batches, "_AT_ONCE", 3)
    answers = ("5", "", " so  ½ —\n", "x = 5 " * 40)
    rows = [asked_row(text, f"{text}?", text) for text in answers] + [make_row()]
    found = list(batches.tokenise(tokenizer, rows))
    assert len(found) == len(rows)
    for row, tokens in zip(rows, found, strict=True):
        text = "".join(segment.text for segment in row.segments)
        alone = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert tokens.prompt == prompt_ids(tokenizer, row.messages)
        assert tokens.completion == alone["input_ids"]
        assert tokens.starts == [start for start, _ in alone["offset_mapping"]]


def test_a_refused_row_is_told_of_in_its_place():
    tokenizer = build_tokenizer("qwen3")
    tokenizer.chat_template = (
        "{% if 'bad' in messages[0]['content'] %}{{ raise_exception('bad') }}{% endif %}"
        + tokenizer.chat_template
    )
    rows = [asked_row("first", "why?"), asked_row("refused", "bad"), asked_row("last", "how?")]
    found = batches.tokenise(tokenizer, rows)
    assert next(found).prompt == prompt_ids(tokenizer, rows[0].messages)
    with pytest.raises(TemplateError, match="bad"):
        next(found)


def test_collating_supervises_what_the_rows_supervise():
    rows = [plain_row(3, "a", 10), plain_row(5, "b", 20)]
    batch = batches.collate(rows)
    assert batch.input_ids.shape == (2, 5)
    # the token at flat place t is predicted from the state at t - 1
    assert batch.targets.tolist() == [11, 12, 21, 22, 23, 24]
    assert batch.input_ids.flatten()[batch.positions].tolist() == [10, 11, 20, 21, 22, 23]
    assert batch.num_tokens == 8
    assert batch.problem_ids == ("a", "b")


@pytest.mark.parametrize("budget", [1, 8, 20, 1000])
def test_micro_batches_hold_every_row_once_under_the_budget(budget: int):
    rows = [plain_row(length, str(length)) for length in (7, 2, 9, 4, 4, 3, 8)]
    found = batches.micro_batches(rows, budget=budget)
    names = sorted(name for batch in found for name in batch.problem_ids)
    assert names == sorted(row.problem_id for row in rows)
    for batch in found:
        assert batch.input_ids.numel() <= budget or len(batch.problem_ids) == 1
    widths = [batch.input_ids.shape[1] for batch in found]
    assert widths == sorted(widths, reverse=True)
    assert sum(float(batch.weights.sum()) for batch in found) == sum(len(row) - 1 for row in rows)


def test_passes_are_cut_where_that_saves_tokens():
    rows = [plain_row(length, str(length)) for length in (100, 99, 98, 10, 9, 50)]

    def widths(overhead: int, budget: int = 1000) -> list[tuple[int, ...]]:
        found = batches.micro_batches(rows, budget=budget, overhead=overhead)
        return [tuple(batch.input_ids.shape) for batch in found]

    assert widths(0) == [(1, n) for n in (100, 99, 98, 50, 10, 9)]
    assert widths(20) == [(3, 100), (1, 50), (2, 10)]
    assert widths(10_000) == [(6, 100)]
    assert widths(10_000, budget=200) == [(2, 100), (2, 98), (2, 10)]


def test_text_that_reads_as_a_special_token_is_refused(tokenizer):
    token = tokenizer.convert_ids_to_tokens(turn_end_ids(tokenizer)[-1])
    segment = Segment(SegmentKind.PLAN, f"Add {token} and stop.")
    with pytest.raises(RowError, match="special token") as caught:
        encode(tokenizer, TrainingRow("p", make_row().messages, (segment,)))
    assert caught.value.reason == "special_token"


@pytest.mark.parametrize(("num_rows", "batch_size", "epochs"), [(7, 3, 2), (4, 8, 3), (6, 2, 1)])
def test_whole_epochs_visit_every_row_equally(num_rows: int, batch_size: int, epochs: int):
    total = num_rows * epochs
    steps = -(-total // batch_size)
    seen = [
        index
        for step in range(steps)
        for index in step_rows(
            seed=1, step=step, num_rows=num_rows, batch_size=batch_size, total_rows=total
        )
    ]
    assert sorted(seen) == sorted(list(range(num_rows)) * epochs)
    for epoch in range(epochs):
        assert sorted(seen[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


def test_the_order_depends_on_seed_and_step_only():
    knobs = {"num_rows": 50, "batch_size": 8, "total_rows": 400}
    first = [step_rows(seed=1, step=step, **knobs) for step in range(20)]
    assert step_rows(seed=1, step=13, **knobs) == first[13]
    assert [step_rows(seed=2, step=step, **knobs) for step in range(20)] != first
    assert all(len(rows) == 8 for rows in first)


def test_held_out_problems_take_all_their_rows_along():
    rows = [plain_row(4, f"p{index % 10}") for index in range(30)]
    training, held_out = batches.split_validation(rows, fraction=0.2, seed=1)
    assert len(held_out) == 6
    assert len(training) == 24
    assert {r.problem_id for r in training}.isdisjoint({r.problem_id for r in held_out})
    assert batches.split_validation(rows, fraction=0.0, seed=1) == (rows, [])
    assert len(batches.split_validation(rows, fraction=0.001, seed=1)[1]) == 3
    assert batches.split_validation(rows[:1], fraction=0.5, seed=1)[1] == []
