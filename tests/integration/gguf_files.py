"""A tiny student as a GGUF file, its matrices rounded to blocks of eight bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from plan_tuning.students.tiny import make_tiny

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def write_gguf(student: Path, file: Path) -> None:
    """Make a tiny untrained Llama in a folder and write it once more as a GGUF file."""
    import gguf

    make_tiny(student, "llama", 0)
    config = json.loads((student / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _add_tokenizer(writer, student)
    for name, weights in load_file(student / "model.safetensors").items():
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        if ".attn_q." in name or ".attn_k." in name:
            weights = _interleaved(weights, config["head_dim"])
        kind = gguf.GGMLQuantizationType.Q8_0 if weights.ndim == 2 else None
        data = weights if kind is None else gguf.quants.quantize(weights, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weights: np.ndarray, head_dim: int) -> np.ndarray:
    """Put the halves of each head side by side, as llama.cpp turns positions."""
    heads = weights.reshape(-1, 2, head_dim // 2, weights.shape[1])
    return heads.swapaxes(1, 2).reshape(weights.shape)


def _add_tokenizer(writer, student: Path) -> None:
    import gguf

    stored = json.loads((student / "tokenizer.json").read_text())
    settings = json.loads((student / "tokenizer_config.json").read_text())
    special = {token["content"]: token["id"] for token in stored["added_tokens"]}
    vocabulary = {**stored["model"]["vocab"], **special}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in special else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in stored["model"]["merges"]])
    writer.add_bos_token_id(vocabulary[settings["bos_token"]])
    writer.add_eos_token_id(vocabulary[settings["eos_token"]])
    writer.add_chat_template((student / "chat_template.jinja").read_text())
