"""Rewards to the loss of a pass, against an oracle in float64 that knows only the formulas.

Off-policy log-probabilities, a KL in the loss, an entropy bonus, importance weights, the mask of
bad completions that the policy has left, truncated completions left out, credit by segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.records import Completion, Problem
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo import policy_loss
from plan_tuning.training.grpo.experience import Experience, assign_advantages, subtract_kl
from plan_tuning.training.grpo.policy_log_probs import PolicyScores
from plan_tuning.training.grpo.policy_loss import Normaliser, PassStatistics, pass_loss
from plan_tuning.training.grpo.rollout import GoldenProblem, PolicyBatch, Rollout, policy_batches

Array = np.ndarray[Any, np.dtype[np.float64]]
VOCABULARY, GROUP = 5, 4
LENGTHS = [3, 5, 2, 4, 1, 4, 2, 3]  # two groups of four
PLAN_TOKENS = [1, 2, 0, 2, 1, 1, 2, 3]
IS_TRUNCATED = [False, False, False, True, False, False, False, False]
CORRECT = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]
PLAN = [0.2, 0.9, 0.4, 0.1, 0.3, 0.7, 0.6, 0.0]
WEIGHTS = {"correct": 2.0, "plan": 1.0}
RNG = np.random.default_rng(3)
TOKENS = [RNG.integers(VOCABULARY, size=length) for length in LENGTHS]


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


LOGITS = [RNG.normal(size=(length, VOCABULARY)) for length in LENGTHS]
OLD, SAMPLED, REFERENCE = (
    [
        np.take_along_axis(log_softmax(logits), tokens[:, None], 1)[:, 0]
        + RNG.normal(size=len(tokens)) * scale
        for logits, tokens in zip(LOGITS, TOKENS, strict=True)
    ]
    for scale in (0.3, 0.5, 0.7)
)


def experience_of(method: GRPOConfig) -> Experience:
    rollouts = [
        Rollout(
            case=GoldenProblem(Problem(f"p{index // GROUP}", "?", "7"), "1. Add."),
            sample=index % GROUP,
            prompt=(1, 2, index // GROUP),
            completion=Completion(
                text="",
                token_ids=tuple(int(token) for token in TOKENS[index]),
                finish_reason="length" if IS_TRUNCATED[index] else "stop",
                prompt_tokens=3,
                log_probs=tuple(float(value) for value in SAMPLED[index]),
            ),
            plan="",
            num_plan_tokens=PLAN_TOKENS[index],
        )
        for index in range(len(LENGTHS))
    ]
    made = Experience(
        rollouts=rollouts,
        rewards=[{"correct": c, "plan": p} for c, p in zip(CORRECT, PLAN, strict=True)],
        old=[torch.tensor(values) for values in OLD],
        reference=[torch.tensor(values) for values in REFERENCE],
        is_kept=[True] * len(rollouts),
    )
    assign_advantages(made, WEIGHTS, method, "sum_then_normalise", Ranks())
    return made


def split(flat: Array) -> list[Array]:
    """From all logits in one row to those of each completion."""
    edges = np.cumsum([length * VOCABULARY for length in LENGTHS])[:-1]
    return [part.reshape(-1, VOCABULARY) for part in np.split(flat, edges)]


def oracle(flat: Array, settings: Mapping[str, Any]) -> float:
    """Write the whole objective down, completion by completion and token by token."""
    used = [i for i in range(len(LENGTHS)) if not IS_TRUNCATED[i]]
    loss = 0.0
    for i in used:
        group = slice(i // GROUP * GROUP, i // GROUP * GROUP + GROUP)
        totals = 2 * np.array(CORRECT[group]) + np.array(PLAN[group])
        spread = totals.std(ddof=1) + 1e-4
        of_answer = 2 * (CORRECT[i] - np.mean(CORRECT[group])) / spread
        of_plan = (PLAN[i] - np.mean(PLAN[group])) / spread
        table = log_softmax(split(flat)[i])
        frozen = log_softmax(LOGITS[i])
        drift = np.mean([SAMPLED[i][t] - frozen[t, TOKENS[i][t]] for t in range(LENGTHS[i])])
        is_left_out = of_answer + of_plan < 0 and drift > settings["off_policy_bound"]
        total = 0.0
        for t in range(LENGTHS[i]):
            has_both = 0 < PLAN_TOKENS[i] < LENGTHS[i]
            is_plan = t < PLAN_TOKENS[i]
            advantage = of_answer if has_both and not is_plan else of_answer + of_plan
            new = table[t, TOKENS[i][t]]
            ratio = np.exp(new - OLD[i][t])
            clipped = min(max(ratio, 1 - 0.2), 1 + 0.28)
            gain = min(ratio * advantage, clipped * advantage)
            gain *= min(np.exp(OLD[i][t] - SAMPLED[i][t]), settings["importance_cap"])
            gain *= 0.0 if is_left_out else 1.0
            d = REFERENCE[i][t] - new
            divergence = np.exp(d) - d - 1  # costs
            entropy = -(np.exp(table[t]) * table[t]).sum()  # pays
            total += -gain + settings["beta"] * divergence - settings["entropy_bonus"] * entropy
        loss += total / LENGTHS[i] / len(used)
    return loss


def scored_by(leaves: Sequence[torch.Tensor], indices: Sequence[int]) -> Any:
    """A model whose logits are ``leaves``."""

    def score(causal_lm: Any, batch: PolicyBatch, **_: Any) -> PolicyScores:
        table = torch.cat([leaves[indices[place]] for place in batch.indices]).log_softmax(-1)
        tokens = batch.completion_ids.flatten()[batch.cells]
        return PolicyScores(table.gather(1, tokens[:, None])[:, 0], -(table.exp() * table).sum(-1))

    return score


def computed(
    method: GRPOConfig, monkeypatch: pytest.MonkeyPatch, *, budget: int, experience: Experience
) -> tuple[float, Array, PassStatistics]:
    leaves = [torch.tensor(logits, requires_grad=True) for logits in LOGITS]
    indices = experience.live
    monkeypatch.setattr(policy_loss, "completion_scores", scored_by(leaves, indices))
    batches = policy_batches(
        [experience.rollouts[i] for i in indices], budget=budget, is_shared=True
    )
    tokens = sum(LENGTHS[i] for i in indices)
    normaliser = Normaliser(rows=len(indices), tokens=tokens, passes=len(batches))
    statistics = PassStatistics(torch.device("cpu"))
    total = 0.0
    for batch in batches:
        loss = pass_loss(
            None, batch, experience, indices,
            method=method, normaliser=normaliser, statistics=statistics,
        )  # fmt: skip
        loss.backward()
        total += loss.item()
    gradient = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return total, torch.cat([part.flatten() for part in gradient]).numpy(), statistics


SETTINGS = {
    "all": {"beta": 0.3, "entropy_bonus": 0.2, "importance_cap": 1.1, "off_policy_bound": 0.1},
    "kl": {"beta": 2.0, "entropy_bonus": 0.0, "importance_cap": 9.0, "off_policy_bound": 9.0},
    "entropy": {"beta": 1e-9, "entropy_bonus": 2.0, "importance_cap": 9.0, "off_policy_bound": 9.0},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("budget", [10**6, 12])
def test_loss_and_gradient_of_passes_equal_the_oracle(
    monkeypatch: pytest.MonkeyPatch, name: str, budget: int
) -> None:
    settings = SETTINGS[name]
    method = GRPOConfig(
        group_size=GROUP, buffer_epochs=2, epsilon_high=0.28, truncation="mask", credit="segment",
        **settings,
    )  # fmt: skip
    experience = experience_of(method)
    assert experience.live == [i for i, is_cut in enumerate(IS_TRUNCATED) if not is_cut]
    value, gradient, statistics = computed(
        method, monkeypatch, budget=budget, experience=experience
    )
    flat = np.concatenate([logits.ravel() for logits in LOGITS])
    step = 1e-6
    expected = np.array(
        [
            (oracle(flat + step * e, settings) - oracle(flat - step * e, settings)) / (2 * step)
            for e in np.eye(len(flat))
        ]
    )
    assert value == pytest.approx(oracle(flat, settings), rel=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=2e-6)
    if name == "all":
        found = statistics.summary(method, Ranks().reduce)
        assert 0.0 < found["off_policy"] < 1.0


def test_statistics_are_means_over_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    method = GRPOConfig(group_size=GROUP, buffer_epochs=2, beta=0.1)
    experience = experience_of(method)
    _, _, statistics = computed(method, monkeypatch, budget=12, experience=experience)
    new = [
        np.take_along_axis(log_softmax(logits), tokens[:, None], 1)[:, 0]
        for logits, tokens in zip(LOGITS, TOKENS, strict=True)
    ]
    new, old, sampled, reference = (np.concatenate(x) for x in (new, OLD, SAMPLED, REFERENCE))
    found = statistics.summary(method, Ranks().reduce)
    gaps = statistics.gaps(Ranks().reduce)
    assert gaps["sampler_gap"] == pytest.approx(np.abs(old - sampled).mean(), rel=1e-5)
    assert gaps["ratio_gap"] == pytest.approx(np.abs(new - old).mean(), rel=1e-5)
    assert gaps["reference_gap"] == pytest.approx(np.abs(new - reference).mean(), rel=1e-5)
    assert found["sampler_gap_max"] == pytest.approx(np.abs(old - sampled).max(), rel=1e-5)
    assert found["kl_k1"] == pytest.approx((new - reference).mean(), rel=1e-4)
    assert found["trained_tokens"] == len(new)
    assert 0.0 < found["padding_rate"] < 1.0


def rewarded(method: GRPOConfig, correct: Sequence[float], **changes: Any) -> Experience:
    made = experience_of(method)
    made.rewards = [{"correct": value} for value in correct]
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_the_kl_as_a_reward_costs_each_token_its_own_and_what_follows() -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.5, kl_in="reward")
    experience = experience_of(method)
    plain = [values.copy() for values in experience.advantages]
    subtract_kl(experience, method.beta)
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            cost = sum(OLD[i][s] - REFERENCE[i][s] for s in range(t, length))
            assert experience.advantages[i][t] == pytest.approx(plain[i][t] - 0.5 * cost)


def test_the_kl_as_a_reward_revives_no_dead_group_and_moves_no_task_advantage() -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.5, kl_in="reward")
    experience = rewarded(method, [1.0, 0.0, 0.0, 1.0] + [0.0] * 4)
    metrics = assign_advantages(experience, {"correct": 2.0}, method, "sum_then_normalise", Ranks())
    subtract_kl(experience, method.beta)
    assert metrics["dead_rate"] == 0.5
    assert experience.live == [0, 1, 2, 3]
    assert not any(values.any() for values in experience.advantages[4:])
    half = 1 / (2 * np.std([2.0, 0, 0, 2.0], ddof=1) + 2e-4) * 2
    np.testing.assert_allclose(experience.totals[:4], half * np.array([1, -1, -1, 1]))


def test_a_completion_without_any_score_is_not_learned_from() -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.0)
    experience = rewarded(method, [1.0, 0.0, np.nan, 1.0, np.nan, np.nan, np.nan, np.nan])
    assign_advantages(experience, {"correct": 2.0}, method, "sum_then_normalise", Ranks())
    assert experience.live == [0, 1, 3]
    lenient = GRPOConfig(group_size=GROUP, beta=0.1, drop_dead_groups=False)
    assign_advantages(experience, {"correct": 2.0}, lenient, "sum_then_normalise", Ranks())
    assert experience.live == [0, 1, 3]


@pytest.mark.parametrize("scaling", ["group", "batch"])
def test_groups_that_were_replaced_count_in_figures_and_in_no_advantage(scaling: str) -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.0, scaling=scaling)
    correct = [0.0] * 4 + [1.0, 0.0, 0.0, 1.0]
    experience = rewarded(method, correct, is_kept=[False] * 4 + [True] * 4)
    metrics = assign_advantages(experience, {"correct": 2.0}, method, "sum_then_normalise", Ranks())
    assert [metrics[f"{name}_groups"] for name in ("drawn", "dead", "kept")] == [2, 1, 1]
    assert metrics["dead_rate"] == 0.5
    assert metrics["reward/total"] == 0.5
    assert experience.live == [4, 5, 6, 7]
    spread = np.std([2.0, 0, 0, 2.0], ddof=1) + 1e-4
    np.testing.assert_allclose(experience.totals[4:], np.array([1, -1, -1, 1]) / spread)
