"""Losses, clipping and KL against a float64 oracle, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from plan_tuning.config.grpo import KL_ESTIMATORS, LOSSES
from plan_tuning.training.grpo.loss import (
    importance_weights,
    kl_terms,
    on_policy_tokens,
    policy_terms,
    token_weights,
)

LENGTHS = [3, 1, 5, 2]
MAX_LENGTH = 6


def numbers(seed: int, scale: float = 0.6) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=sum(LENGTHS)) * scale


NEW, OLD, REFERENCE = -np.abs(numbers(1)) - 0.1, -np.abs(numbers(2)) - 0.1, -np.abs(numbers(3))
ADVANTAGES = np.repeat([1.3, -0.7, -1.1, 0.4], LENGTHS)
ROWS = np.repeat(np.arange(len(LENGTHS)), LENGTHS)


def oracle(
    loss: str,
    new: np.ndarray[Any, Any],
    *,
    low: float,
    high: float,
    cap: float | None,
    frozen: np.ndarray[Any, Any] | None = None,
) -> float:
    """Add the loss up token by token, as its paper writes it."""
    frozen = new if frozen is None else frozen  # what a stopped gradient sees
    total = 0.0
    for row, length in enumerate(LENGTHS):
        at = row == ROWS
        if loss == "gspo":
            ratios = np.full(length, np.exp((new[at] - OLD[at]).sum() / length))
        else:
            ratios = np.exp(new[at] - OLD[at])
        terms = []
        for t in range(length):
            a, r = ADVANTAGES[at][t], ratios[t]
            if loss == "cispo":
                capped = min(np.exp(frozen[at][t] - OLD[at][t]), 1 + high)
                terms.append(-capped * a * new[at][t])
            else:
                free = r if cap is None else min(r, cap)
                terms.append(-min(free * a, min(max(r, 1 - low), 1 + high) * a))
        if loss in ("grpo", "gspo"):
            total += sum(terms) / length / len(LENGTHS)
        elif loss == "dr_grpo":
            total += sum(terms) / (len(LENGTHS) * MAX_LENGTH)
        else:
            total += sum(terms) / sum(LENGTHS)
    return total


def differences(f: Callable[[np.ndarray[Any, Any]], float], x: np.ndarray[Any, Any]) -> Any:
    step = 1e-6
    return np.array(
        [(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(len(x), dtype=float)]
    )


def ours(
    loss: str,
    new: torch.Tensor,
    *,
    low: float = 0.2,
    high: float = 0.2,
    cap: float | None = None,
    importance: torch.Tensor | None = None,
) -> torch.Tensor:
    lengths = torch.tensor(LENGTHS)
    terms = policy_terms(
        loss,
        new,
        torch.tensor(OLD),
        torch.tensor(ADVANTAGES),
        epsilon_low=low,
        epsilon_high=high,
        ratio_cap=cap,
        rows=torch.tensor(ROWS),
        lengths=lengths,
        importance=importance,
    )
    weights = token_weights(
        loss,
        lengths,
        total_rows=len(LENGTHS),
        total_tokens=sum(LENGTHS),
        max_length=MAX_LENGTH,
        local_tokens=sum(LENGTHS),
    ).double()
    return (terms.loss * weights[torch.tensor(ROWS)]).sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("low", "high", "cap"),
    [(0.2, 0.2, None), (0.1, 0.4, None), (0.2, 0.28, 1.5), (3e-4, 4e-4, None)],
)
def test_loss_and_gradient_equal_the_oracle(
    loss: str, low: float, high: float, cap: float | None
) -> None:
    new = torch.tensor(NEW, requires_grad=True)
    value = ours(loss, new, low=low, high=high, cap=cap)
    value.backward()
    expected = oracle(loss, NEW, low=low, high=high, cap=cap)
    gradient = differences(lambda x: oracle(loss, x, low=low, high=high, cap=cap, frozen=NEW), NEW)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert new.grad is not None
    np.testing.assert_allclose(new.grad.numpy(), gradient, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_on_policy_the_gradient_is_that_of_the_log_probability(loss: str) -> None:
    new = torch.tensor(OLD, requires_grad=True)
    ours(loss, new).backward()
    assert new.grad is not None
    lengths = np.array(LENGTHS)[ROWS]
    divisor = {
        "grpo": len(LENGTHS) * lengths,
        "gspo": len(LENGTHS) * lengths,
        "dr_grpo": len(LENGTHS) * MAX_LENGTH,
    }.get(loss, sum(LENGTHS))
    means = ADVANTAGES  # within a completion all tokens have the same advantage
    np.testing.assert_allclose(new.grad.numpy(), -means / divisor, rtol=1e-5)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "bnpo"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
@pytest.mark.parametrize("split", [1, 2, 3])
def test_passes_add_up_to_the_step(loss: str, order: tuple[int, ...], split: int) -> None:
    whole = ours(loss, torch.tensor(NEW))
    total = 0.0
    for rows in (order[:split], order[split:]):
        at = np.concatenate([np.flatnonzero(row == ROWS) for row in rows])
        lengths = torch.tensor([LENGTHS[row] for row in rows])
        places = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        terms = policy_terms(
            loss,
            torch.tensor(NEW[at]),
            torch.tensor(OLD[at]),
            torch.tensor(ADVANTAGES[at]),
            epsilon_low=0.2,
            epsilon_high=0.2,
            rows=places,
            lengths=lengths,
        )
        weights = token_weights(
            loss,
            lengths,
            total_rows=len(LENGTHS),
            total_tokens=sum(LENGTHS),
            max_length=MAX_LENGTH,
        )
        total += float((terms.loss * weights[places]).sum())
    assert total == pytest.approx(whole.item(), rel=1e-6)


def test_bnpo_averages_over_the_tokens_of_each_pass() -> None:
    lengths = torch.tensor([4, 6])
    weights = token_weights(
        "bnpo", lengths, total_rows=9, total_tokens=99, max_length=9, local_tokens=10, num_passes=3
    )
    assert weights.tolist() == pytest.approx([1 / 30, 1 / 30])


def test_clip_shares_count_what_is_silenced() -> None:
    terms = policy_terms(
        "dapo",
        torch.log(torch.tensor([0.5, 0.5, 1.5, 1.5])),
        torch.zeros(4),
        torch.tensor([-1.0, 1.0, 1.0, -1.0]),
        epsilon_low=0.2,
        epsilon_high=0.2,
        rows=torch.zeros(4, dtype=torch.long),
        lengths=torch.tensor([4]),
    )
    assert terms.is_clipped_low.tolist() == [True, False, False, False]
    assert terms.is_clipped_high.tolist() == [False, False, True, False]


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_kl_and_its_gradient_equal_the_oracle(estimator: str, is_weighted: bool) -> None:
    def expected(new: np.ndarray[Any, Any]) -> float:
        d = REFERENCE - new
        terms = {"k1": -d, "k2": d**2 / 2, "k3": np.exp(d) - d - 1}[estimator]
        return float((terms * (np.exp(new - OLD) if is_weighted else 1.0)).sum())

    new = torch.tensor(NEW, requires_grad=True)
    old = torch.tensor(OLD) if is_weighted else None
    total = kl_terms(estimator, new, torch.tensor(REFERENCE), old_log_probs=old).sum()
    total.backward()
    assert total.item() == pytest.approx(expected(NEW))
    assert new.grad is not None
    np.testing.assert_allclose(new.grad.numpy(), differences(expected, NEW), atol=1e-6)


def test_kl_estimators_are_unbiased_and_zero_for_equal_policies() -> None:
    policy = np.array([0.5, 0.3, 0.2])
    reference = np.array([0.2, 0.3, 0.5])
    exact = float((policy * np.log(policy / reference)).sum())
    log_policy, log_reference = torch.tensor(np.log(policy)), torch.tensor(np.log(reference))
    for estimator in ("k1", "k3"):
        terms = kl_terms(estimator, log_policy, log_reference).numpy()
        assert (policy * terms).sum() == pytest.approx(exact)
    for estimator in KL_ESTIMATORS:
        assert not kl_terms(estimator, log_policy, log_policy).any()


@pytest.mark.parametrize(
    ("estimator", "is_weighted", "is_exact"),
    [("k1", False, False), ("k2", False, True), ("k3", False, False),
     ("k1", True, True), ("k3", True, True)],
)  # fmt: skip
def test_which_estimators_have_the_gradient_of_the_kl(
    estimator: str, is_weighted: bool, is_exact: bool
) -> None:
    """Over all tokens of a small vocabulary, weighted by the policy that samples them."""
    logits = torch.tensor([0.4, -0.1, -0.7], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.3, 0.2, 0.1], dtype=torch.float64).log_softmax(0)
    log_policy = logits.log_softmax(0)
    policy = log_policy.exp()
    exact = torch.autograd.grad(
        (policy * (log_policy - reference)).sum(), logits, retain_graph=True
    )[0]
    old = log_policy.detach() if is_weighted else None
    terms = kl_terms(estimator, log_policy, reference, old_log_probs=old)
    found = torch.autograd.grad((policy.detach() * terms).sum(), logits)[0]
    assert torch.allclose(found, exact, atol=1e-9) == is_exact


def test_large_differences_stay_finite() -> None:
    new = torch.tensor([-500.0, -1e-3], requires_grad=True)
    far = torch.tensor([-1e-3, -500.0])
    loss = kl_terms("k3", new, far).sum()
    loss = (
        loss
        + policy_terms(
            "grpo",
            new,
            far,
            torch.tensor([-1.0, -1.0]),
            epsilon_low=0.2,
            epsilon_high=0.2,
            ratio_cap=4.0,
            rows=torch.tensor([0, 0]),
            lengths=torch.tensor([2]),
        ).loss.sum()
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert new.grad is not None
    assert torch.isfinite(new.grad).all()


def test_importance_weights_are_truncated_and_carry_no_gradient() -> None:
    old = torch.tensor(NEW, requires_grad=True)
    weights = importance_weights(old, torch.tensor(OLD), cap=1.2)
    np.testing.assert_allclose(
        weights.detach().numpy(), np.minimum(np.exp(NEW - OLD), 1.2), rtol=1e-12
    )
    new = torch.tensor(NEW, requires_grad=True)
    plain = torch.autograd.grad(ours("dapo", new), new)[0]
    weighted = torch.autograd.grad(ours("dapo", new, importance=weights), new)[0]
    torch.testing.assert_close(weighted, plain * weights.detach())


@pytest.mark.parametrize("bound", [0.05, 0.3, 5.0])
def test_bad_completions_that_the_policy_has_left_do_not_count(bound: float) -> None:
    advantages = [1.3, -0.7, -1.1, 0.4]
    expected = []
    for row, length in enumerate(LENGTHS):
        drift = (OLD[row == ROWS] - NEW[row == ROWS]).sum() / length
        expected += [not (advantages[row] < 0 and drift > bound)] * length
    found = on_policy_tokens(
        torch.tensor(NEW, requires_grad=True),
        torch.tensor(OLD),
        torch.tensor(advantages),
        rows=torch.tensor(ROWS),
        lengths=torch.tensor(LENGTHS),
        bound=bound,
    )
    assert found.tolist() == expected
    assert not found.requires_grad


def test_only_bad_completions_are_left_out() -> None:
    def kept(advantage: float) -> list[bool]:
        return on_policy_tokens(
            torch.tensor([-2.0, -1.0, -1.0]),
            torch.tensor([-1.0, -1.0, -1.0]),
            torch.tensor([advantage, -1.0]),
            rows=torch.tensor([0, 0, 1]),
            lengths=torch.tensor([2, 1]),
            bound=0.4,
        ).tolist()

    assert kept(-1.0) == [False, False, True]
    assert kept(1.0) == kept(0.0) == [True, True, True]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.loss=ppo"):
        token_weights("ppo", torch.tensor([1]), total_rows=1, total_tokens=1, max_length=1)
    with pytest.raises(ValueError, match=r"method\.kl_estimator=k9"):
        kl_terms("k9", torch.zeros(1), torch.zeros(1))
