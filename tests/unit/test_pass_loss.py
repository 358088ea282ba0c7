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
from plan_tuning.config.reward import PlanRewardConfig, RewardConfig
from plan_tuning.records import Completion, Problem
from plan_tuning.students.log_probs import TokenLogProbs
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.grpo.batch import policy_batches
from plan_tuning.training.grpo.experience import Experience, assign_advantages, subtract_kl
from plan_tuning.training.grpo.loss import pass_loss
from plan_tuning.training.grpo.metrics import PassStatistics
from plan_tuning.training.grpo.rollout import Rollout
from plan_tuning.training.grpo.update import mini_batches

Array = np.ndarray[Any, np.dtype[np.float64]]
VOCABULARY, GROUP = 5, 4
LENGTHS = [3, 5, 2, 4, 1, 4, 2, 3]  # two groups of four
PLAN_TOKENS = [1, 2, 0, 2, 1, 1, 2, 3]
IS_TRUNCATED = [False, False, False, True, False, False, False, False]
CORRECT = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]
PLAN = [0.2, 0.9, 0.4, 0.1, 0.3, 0.7, 0.6, 0.0]
REWARD = RewardConfig(plan=PlanRewardConfig(weight=1.0))
ANSWER = RewardConfig()
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


def experience_of(method: GRPOConfig) -> list[Experience]:
    rollouts = [
        Rollout(
            problem=Problem(f"p{index // GROUP}", "?", "7"),
            teacher_plan="1. Add.",
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
    made = [
        Experience(
            rollout,
            rewards={"correct": CORRECT[index], "plan": PLAN[index]},
            old_log_probs=torch.tensor(OLD[index]),
            reference_log_probs=torch.tensor(REFERENCE[index]),
        )
        for index, rollout in enumerate(rollouts)
    ]
    assign_advantages(made, REWARD, method, Ranks())
    return made


def live(experience: Sequence[Experience]) -> list[int]:
    return [index for index, one in enumerate(experience) if one.is_live]


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


def computed(
    method: GRPOConfig, *, budget: int, experience: Sequence[Experience]
) -> tuple[float, Array, PassStatistics]:
    """Loss, gradient and figures of a model whose logits are LOGITS."""
    leaves = [torch.tensor(logits, requires_grad=True) for logits in LOGITS]
    mine = live(experience)
    used = [experience[i] for i in mine]
    batches = policy_batches([one.rollout for one in used], budget=budget, is_shared=True)
    statistics = PassStatistics(torch.device("cpu"))
    total = 0.0
    for batch in batches:
        table = torch.cat([leaves[mine[place]] for place in batch.indices]).log_softmax(-1)
        tokens = batch.completion_ids.flatten()[batch.cells]
        found = TokenLogProbs(
            table.gather(1, tokens[:, None])[:, 0], -(table.exp() * table).sum(-1)
        )
        loss, sums, maxima = pass_loss(
            found, batch, used, method=method, total_rows=len(used),
            total_tokens=sum(LENGTHS[i] for i in mine), num_passes=len(batches),
        )  # fmt: skip
        statistics.add(batch, sums, maxima)
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
def test_loss_and_gradient_of_passes_equal_the_oracle(name: str, budget: int) -> None:
    settings = SETTINGS[name]
    method = GRPOConfig(
        group_size=GROUP, buffer_epochs=2, epsilon_high=0.28, truncation="mask", credit="segment",
        **settings,
    )  # fmt: skip
    experience = experience_of(method)
    assert live(experience) == [i for i, is_cut in enumerate(IS_TRUNCATED) if not is_cut]
    value, gradient, statistics = computed(method, budget=budget, experience=experience)
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


def test_statistics_are_means_over_tokens() -> None:
    method = GRPOConfig(group_size=GROUP, buffer_epochs=2, beta=0.1)
    experience = experience_of(method)
    _, _, statistics = computed(method, budget=12, experience=experience)
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


def rewarded(method: GRPOConfig, correct: Sequence[float]) -> list[Experience]:
    made = experience_of(method)
    for one, value in zip(made, correct, strict=True):
        one.rewards = {"correct": value}
    return made


def test_the_kl_as_a_reward_costs_each_token_its_own_and_what_follows() -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.5, kl_in="reward")
    experience = experience_of(method)
    plain = [one.token_advantages.copy() for one in experience]
    subtract_kl(experience, method.beta)
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            cost = sum(OLD[i][s] - REFERENCE[i][s] for s in range(t, length))
            assert experience[i].token_advantages[t] == pytest.approx(plain[i][t] - 0.5 * cost)


def test_the_kl_as_a_reward_revives_no_dead_group_and_moves_no_task_advantage() -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.5, kl_in="reward")
    experience = rewarded(method, [1.0, 0.0, 0.0, 1.0] + [0.0] * 4)
    metrics = assign_advantages(experience, ANSWER, method, Ranks())
    subtract_kl(experience, method.beta)
    assert metrics["dead_rate"] == 0.5
    assert live(experience) == [0, 1, 2, 3]
    assert not any(one.token_advantages.any() for one in experience[4:])
    half = 1 / (2 * np.std([2.0, 0, 0, 2.0], ddof=1) + 2e-4) * 2
    np.testing.assert_allclose(
        [one.advantage for one in experience[:4]], half * np.array([1, -1, -1, 1])
    )


def test_a_completion_without_any_reward_is_not_learned_from() -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.0)
    experience = rewarded(method, [1.0, 0.0, np.nan, 1.0, np.nan, np.nan, np.nan, np.nan])
    assign_advantages(experience, ANSWER, method, Ranks())
    assert live(experience) == [0, 1, 3]
    lenient = GRPOConfig(group_size=GROUP, beta=0.1, drop_dead_groups=False)
    assign_advantages(experience, ANSWER, lenient, Ranks())
    assert live(experience) == [0, 1, 3]


@pytest.mark.parametrize("scaling", ["group", "batch"])
def test_groups_that_were_replaced_count_in_figures_and_in_no_advantage(scaling: str) -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.0, scaling=scaling)
    correct = [0.0] * 4 + [1.0, 0.0, 0.0, 1.0]
    experience = rewarded(method, correct)
    for one in experience[:4]:
        one.is_kept = False
    metrics = assign_advantages(experience, ANSWER, method, Ranks())
    assert [metrics[f"{name}_groups"] for name in ("drawn", "dead", "kept")] == [2, 1, 1]
    assert metrics["dead_rate"] == 0.5
    assert metrics["reward/total"] == 0.5
    assert live(experience) == [4, 5, 6, 7]
    spread = np.std([2.0, 0, 0, 2.0], ddof=1) + 1e-4
    np.testing.assert_allclose(
        [one.advantage for one in experience[4:]], np.array([1, -1, -1, 1]) / spread
    )


def test_optimizer_steps_are_cut_from_whole_groups_that_are_live() -> None:
    method = GRPOConfig(group_size=GROUP, beta=0.0, mini_batches=2, buffer_epochs=2)
    experience = rewarded(method, [1.0, 0.0, 0.0, np.nan, 0.0, 1.0, 1.0, 1.0])
    assign_advantages(experience, ANSWER, method, Ranks())
    updates = mini_batches(experience, method, Ranks())
    assert updates == [experience[:3], experience[4:]] * 2
    dead = rewarded(method, [1.0] * 4 + [0.0, 1.0, 1.0, 1.0])
    assign_advantages(dead, ANSWER, method, Ranks())
    assert [len(mine) for mine in mini_batches(dead, method, Ranks())] == [4, 0, 4, 0]
