"""Hidden states of a small Qwen3 on a CPU, with the backward pass written out.

In a model of 0.2M parameters less than half of a training step goes into matrix products; the rest
is a hundred small passes over memory and what autograd keeps of each. Here features come first and
tokens last, so that a norm, a rotation or a gate is a few passes over long rows; the gains of the
norms are folded into the weights behind them; and behind the last attention only the positions that
are asked for are computed. The mathematics is that of transformers' Qwen3, its rounding is not.
"""

from __future__ import annotations

from typing import Any

import torch

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)
_COLUMNS = 64  # matrices have a multiple of these: oneDNN writes a kernel for every shape it meets
_MAX_PARAMETERS = 2_000_000  # above, products are what a step costs


def is_small_qwen3(causal_lm: Any) -> bool:
    """Whether :func:`hidden_states` can stand in for the model's own forward pass.

    That is a small Qwen3 as transformers has it (no adapter in it), in float32 on a CPU, without
    dropout, all of whose weights are trained.
    """
    config = causal_lm.config
    if config.model_type != "qwen3":
        return False
    weights = dict(causal_lm.named_parameters())
    expected = {"model.embed_tokens.weight", "model.norm.weight"} | {
        f"model.layers.{place}.{name}"
        for place in range(config.num_hidden_layers)
        for name in _LAYER
    }
    return bool(
        weights.keys() - {"lm_head.weight"} == expected
        and all(_is_plain(weight) for weight in weights.values())
        and sum(weight.numel() for weight in weights.values()) <= _MAX_PARAMETERS
        and config.num_attention_heads == config.num_key_value_heads
        and config.rope_parameters["rope_type"] == "default"
        and config.hidden_act == "silu"
        and not config.attention_dropout
        and not any(getattr(m, "gradient_checkpointing", False) for m in causal_lm.modules())
    )


def _is_plain(weight: torch.nn.Parameter) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.requires_grad


_LAYER = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
)


def hidden_states(causal_lm: Any, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Compute the last hidden states, behind the final norm, at some positions.

    Args:
        causal_lm: of which :func:`is_small_qwen3` holds.
        input_ids: (B, T), padded on the right.
        positions: (N,) indices into the flattened (B * T) tokens.

    Returns:
        (N, H), with gradients for every weight.
    """
    model = causal_lm.model
    weights = [model.embed_tokens.weight, model.norm.weight]
    for layer in model.layers:
        weights += [layer.get_parameter(name) for name in _LAYER]
    asked = _filled(positions, 0)
    states: torch.Tensor = _States.apply(causal_lm.config, input_ids, asked, *weights)
    return states[: len(positions)]


def _filled(x: torch.Tensor, value: int) -> torch.Tensor:
    """Lengthen (N,) to a multiple of _COLUMNS."""
    missing = -len(x) % _COLUMNS
    return torch.nn.functional.pad(x, (0, missing), value=value) if missing else x


class _States(torch.autograd.Function):
    """F features, N = B * T tokens, M asked for, A heads of size D; tensors are (F, N)."""

    @staticmethod
    def forward(ctx: Any, config: Any, input_ids: Any, positions: Any, *weights: Any) -> Any:
        embeddings, last_gain, *rest = weights
        size = len(_LAYER)
        layers = [_Layer(config, *rest[n : n + size]) for n in range(0, len(rest), size)]
        num_rows, length = input_ids.shape
        masks = _masks(config, length)
        turn = _rotation(config, num_rows, length)
        flat = _filled(input_ids.flatten(), 0)
        x = embeddings.index_select(0, flat).t().contiguous()  # (H, N)
        for place, layer in enumerate(layers):
            is_last = place + 1 == len(layers)
            mask = masks[config.layer_types[place]]
            x = layer.forward(x, (num_rows, length), mask, turn, positions if is_last else None)
        normed, scale = _norm(x, config.rms_norm_eps)
        ctx.config, ctx.layers, ctx.turn, ctx.flat = config, layers, turn, flat
        ctx.normed, ctx.scale, ctx.last_gain = normed, scale, last_gain
        ctx.positions, ctx.shape = positions, (num_rows, length)
        ctx.vocabulary = embeddings.shape[0]
        return (normed * last_gain[:, None]).t()  # (M, H)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        grad = grad.t()
        of_gain = (grad * ctx.normed).sum(dim=1)
        dx = _norm_backward(grad * ctx.last_gain[:, None], ctx.normed, ctx.scale)
        found: list[torch.Tensor] = []
        for layer in reversed(ctx.layers):
            dx, grads = layer.backward(dx, ctx.shape, ctx.turn)
            found = [*grads, *found]
        of_embeddings = torch.zeros(ctx.vocabulary, dx.shape[0])
        of_embeddings.index_add_(0, ctx.flat, dx.t())
        ctx.layers = None
        return (None, None, None, of_embeddings, of_gain, *found)


class _Layer:
    """One layer's weights, and what its backward pass needs of its forward pass."""

    def __init__(
        self, config: Any, gain1: Any, q: Any, k: Any, v: Any, q_gain: Any, k_gain: Any, o: Any,
        gain2: Any, gate: Any, up: Any, down: Any,
    ) -> None:  # fmt: skip
        self.eps = config.rms_norm_eps
        self.heads, self.size = config.num_attention_heads, config.head_dim
        self.qkv, self.gain1 = torch.cat([q, k, v]), gain1
        self.gate_up, self.gain2 = torch.cat([gate, up]), gain2
        self.o, self.down = o, down
        # Scores are divided by the root of the size of a head: in the gain of the queries.
        self.gains = torch.stack([q_gain * self.size**-0.5, k_gain])[:, None, :, None]  # (2,1,D,1)

    def forward(
        self,
        x: torch.Tensor,
        shape: tuple[int, int],
        mask: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """(H, N) to (H, N), or (H, M) where positions are asked for."""
        heads, size = self.heads, self.size
        self.x1, self.r1 = _norm(x, self.eps)
        self.w1 = self.qkv * self.gain1
        qkv = _product(self.w1, self.x1).view(3, heads, size, -1)
        self.qk, self.r = _norm(qkv[:2], self.eps)  # (2, A, D, N)
        turned = _rotate(self.qk * self.gains, turn)
        self.q, self.k, self.v = (_by_row(part, shape) for part in (*turned, qkv[2]))
        scores = torch.bmm(self.q.transpose(1, 2), self.k)  # (A * B, T, T)
        self.p = torch.softmax(scores.add_(mask), dim=-1)
        mixed = torch.bmm(self.v, self.p.transpose(1, 2))  # (A * B, D, T)
        self.mixed = _by_feature(mixed, x.new_empty(heads, size, x.shape[1]), shape).flatten(0, 1)
        self.positions = positions
        if positions is not None:
            x, self.mixed = x.index_select(1, positions), self.mixed.index_select(1, positions)
        x = x + _product(self.o, self.mixed)
        self.x2, self.r2 = _norm(x, self.eps)
        self.w2 = self.gate_up * self.gain2
        self.gate, self.up = _product(self.w2, self.x2).chunk(2)
        self.opened = torch.nn.functional.silu(self.gate)
        self.inner = self.opened * self.up
        return _product(self.down, self.inner).add_(x)

    def backward(
        self, dx: torch.Tensor, shape: tuple[int, int], turn: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Gradient behind the layer to that before it, and those of the weights in their order."""
        heads, size = self.heads, self.size
        d_down = _product(dx, self.inner.t())
        d_inner = _product(self.down.t(), dx)
        d_gate_up = torch.empty(2 * len(d_inner), d_inner.shape[1])
        d_gate, d_up = d_gate_up.chunk(2)
        torch.mul(d_inner, self.opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_inner.mul_(self.up), self.gate, grad_input=d_gate)
        d_w2 = _product(d_gate_up, self.x2.t())
        dx = dx + _norm_backward(_product(self.w2.t(), d_gate_up), self.x2, self.r2)
        d_o = _product(dx, self.mixed.t())
        d_mixed = _product(self.o.t(), dx)  # (A * D, N)
        if self.positions is not None:
            d_mixed = _spread(d_mixed, self.positions, self.x1.shape[1])
            dx = _spread(dx, self.positions, self.x1.shape[1])
        d_out = _by_row(d_mixed.view(heads, size, -1), shape)
        d_p = torch.bmm(d_out.transpose(1, 2), self.v)
        d_s = torch._softmax_backward_data(d_p, self.p, -1, torch.float32)
        d_qkv = torch.empty(3, heads, size, self.x1.shape[1])
        _by_feature(torch.bmm(self.k, d_s.transpose(1, 2)), d_qkv[0], shape)
        _by_feature(torch.bmm(self.q, d_s), d_qkv[1], shape)
        _by_feature(torch.bmm(d_out, self.p), d_qkv[2], shape)
        d_qk = _rotate(d_qkv[:2], turn, back=True)
        d_gains = (d_qk * self.qk).sum(dim=(1, 3))  # (2, D)
        d_qkv[:2] = _norm_backward(d_qk * self.gains, self.qk, self.r)
        flat = d_qkv.view(3 * heads * size, -1)
        d_w1 = _product(flat, self.x1.t())
        dx += _norm_backward(_product(self.w1.t(), flat), self.x1, self.r1)
        d_q, d_k, d_v = (d_w1 * self.gain1).chunk(3)
        d_gate_w, d_up_w = (d_w2 * self.gain2).chunk(2)
        grads = [
            (d_w1 * self.qkv).sum(dim=0), d_q, d_k, d_v, d_gains[0] * self.size**-0.5, d_gains[1],
            d_o, (d_w2 * self.gate_up).sum(dim=0), d_gate_w, d_up_w, d_down,
        ]  # fmt: skip
        return dx, grads


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply two matrices by oneDNN, which has the kernels of processors that MKL does not know.

    MKL takes the narrower vectors of old machines where a processor is not of its maker.
    """
    if not _HAS_ONEDNN:
        return left @ right
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
    return found


def _norm(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS norm over the features, the last dimension but one, without its gain; and its factor."""
    scale = (x * x).mean(dim=-2, keepdim=True).add_(eps).rsqrt_()
    return x * scale, scale


def _norm_backward(grad: torch.Tensor, normed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Gradient behind :func:`_norm` to that before it; ``grad`` is overwritten."""
    along = (grad * normed).mean(dim=-2, keepdim=True)
    return grad.addcmul_(normed, along, value=-1.0).mul_(scale)


def _rotate(
    x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], *, back: bool = False
) -> torch.Tensor:
    """Rotary position embedding of (2, A, D, N), or its inverse, which is its gradient."""
    cos, sin = turn
    sign = -1.0 if back else 1.0
    first, second = x.chunk(2, dim=2)
    turned = torch.empty_like(x)
    out_first, out_second = turned.chunk(2, dim=2)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=sign)
    return turned


def _by_row(x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(A, D, N) to (A * B, D, T): the features of a head and a row together."""
    heads, size, _ = x.shape
    tokens = x[..., : shape[0] * shape[1]].unflatten(-1, shape)
    return tokens.transpose(1, 2).reshape(heads * shape[0], size, shape[1])


def _by_feature(x: torch.Tensor, out: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(A * B, D, T) into ``out`` (A, D, N); what is no token is zero there."""
    tokens = shape[0] * shape[1]
    out[..., tokens:] = 0.0
    out[..., :tokens].unflatten(-1, shape).copy_(x.unflatten(0, (-1, shape[0])).transpose(1, 2))
    return out


def _spread(x: torch.Tensor, positions: torch.Tensor, tokens: int) -> torch.Tensor:
    """(F, M) at some positions to (F, N), zero elsewhere."""
    return torch.zeros(x.shape[0], tokens).index_add_(1, positions, x)


def _masks(config: Any, length: int) -> dict[str, torch.Tensor]:
    """What is added to scores (T, T), by the type of a layer."""
    distance = torch.arange(length)[:, None] - torch.arange(length)  # how far back a key lies
    reach = {"full_attention": length, "sliding_attention": config.sliding_window}
    never = torch.tensor(float("-inf"))
    return {
        kind: torch.where((distance >= 0) & (distance < reach[kind]), 0.0, never)
        for kind in set(config.layer_types)
    }


def _rotation(config: Any, num_rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (D / 2, N) of the angles of every token."""
    half = config.head_dim // 2
    speeds = config.rope_parameters["rope_theta"] ** (-torch.arange(half).float() / half)
    angles = speeds[:, None] * _filled(torch.arange(length).repeat(num_rows), 0)
    return angles.cos(), angles.sin()
