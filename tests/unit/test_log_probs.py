"""Log-probabilities: equal to the model's own logits, in chunks, with bounded memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

from plan_tuning.students.log_probs import (
    ProjectionError,
    check_projection,
    chunk_logits,
    token_log_probs,
)
from plan_tuning.students.tiny import build_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(family: str):
    torch.manual_seed(0)
    if family == "granite":
        return GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=3.0)).eval()
    if family == "cohere":
        return CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.2)).eval()
    model, _ = build_tiny(family.removesuffix("_cap"), 0)
    if family.endswith("_cap"):
        model.config.final_logit_softcapping = 5.0
    return model.eval()


def example(model):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, model.config.vocab_size, (2, 9), generator=generator)
    positions = torch.tensor([2, 3, 7, 9, 10, 16])
    return ids, positions, ids.flatten()[positions + 1]


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gemma3_cap", "llama", "granite", "cohere"])
@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_equal_the_models_own(family: str, chunk: int, temperature: float):
    model = build(family)
    ids, positions, targets = example(model)
    found = token_log_probs(
        model,
        ids,
        positions,
        targets,
        temperature=temperature,
        chunk_tokens=chunk,
        with_entropy=True,
        with_top=True,
    )
    logits = model(input_ids=ids).logits.flatten(0, 1)[positions] / temperature
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(
        found.log_probs, expected.gather(-1, targets[:, None])[:, 0], atol=2e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        found.entropy, -(expected.exp() * expected).sum(-1), atol=2e-5, rtol=1e-5
    )
    assert found.is_top is not None
    assert torch.equal(found.is_top, logits.argmax(-1) == targets)
    check_projection(model, ids[:1])


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunks_do_not_change_the_gradient(chunk: int):
    model = build("qwen3")
    ids, positions, targets = example(model)
    gradients = []
    for size in (chunk, 10_000):
        model.zero_grad()
        found = token_log_probs(model, ids, positions, targets, chunk_tokens=size)
        (found.log_probs * torch.arange(len(targets))).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


class _Largest(TorchDispatchMode):
    """Watches every tensor that an operation makes."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and value.shape[-1:] == (self.vocabulary,):
                self.rows = max(self.rows, value.numel() // self.vocabulary)
        return result


def test_no_tensor_exceeds_chunk_times_vocabulary():
    torch.manual_seed(0)
    model = build("qwen3")
    vocabulary = model.config.vocab_size
    ids = torch.randint(3, vocabulary, (4, 64))
    positions = torch.arange(4 * 64 - 1)
    targets = ids.flatten()[1:]
    watch = _Largest(vocabulary)
    with watch:
        token_log_probs(
            model, ids, positions, targets, chunk_tokens=80, with_entropy=True
        ).log_probs.sum().backward()
    assert watch.rows == 80  # of 255; the transposed weights have 64


def test_a_family_that_treats_its_logits_otherwise_is_refused():
    model = build("llama")
    forward = model.forward

    def doubled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2.0
        return output

    model.forward = doubled
    with pytest.raises(ProjectionError, match="not supported"):
        check_projection(model, torch.arange(5)[None])


def test_a_card_holds_more_logits_at_once_than_a_cpu():
    assert chunk_logits(torch.device("cpu")) == 2**24
    assert chunk_logits(torch.device("cuda", 1)) == 2**27
    assert chunk_logits(torch.device("meta")) == 2**24
