#!/usr/bin/env python3
"""Writes tests/data/configs/cases.json: configs of every supported architecture, in the older and the newer schema, with
what transformers resolves them to. Needs transformers and numpy, not torch: rope functions run on a numpy stand-in."""
import json, logging, math, pathlib, sys, types
import numpy as np


class Array(np.ndarray):
    def to(self, *args, dtype=None, **kwargs):
        dtype = dtype or next((a for a in args if isinstance(a, type)), None)
        return self.astype(dtype).view(Array) if dtype else self

    def float(self):
        return self.astype(np.float32).view(Array)


def arange(*args, dtype=np.int64, device=None):
    return np.arange(*args, dtype=dtype).view(Array)


logging.disable(logging.WARNING)
import transformers.modeling_rope_utils as rope_utils
from transformers import CONFIG_MAPPING

rope_utils.torch = types.SimpleNamespace(
    arange=arange, tensor=lambda v, dtype=None, device=None: np.array(v, dtype=dtype).view(Array), Tensor=Array,
    where=np.where, clamp=np.clip, float=np.float32, float32=np.float32, int64=np.int64)

LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 320}
FACTORS = {"short_factor": [1.0, 1.05, 1.2, 1.5, 2.0, 2.5, 3.0, 3.5], "long_factor": [1.1, 1.7, 2.9, 5.3, 9.1, 17.0, 33.0, 64.0]}


def case(name, architecture, model_type, **fields):
    return name, {"architectures": [architecture], "model_type": model_type, **fields}


CASES = [
    case("llama, nothing said", "LlamaForCausalLM", "llama"),
    case("llama, older", "LlamaForCausalLM", "llama", **SIZES, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=5e5,
         rope_scaling={"rope_type": "llama3", **LLAMA3}, max_position_embeddings=131072, tie_word_embeddings=True,
         attention_bias=True, mlp_bias=True, torch_dtype="bfloat16", bos_token_id=7, eos_token_id=[8, 9]),
    case("llama, newer", "LlamaForCausalLM", "llama", **SIZES, head_dim=32, max_position_embeddings=131072, dtype="float16",
         rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}),
    case("llama, linear, type", "LlamaForCausalLM", "llama", **SIZES, rope_scaling={"type": "linear", "factor": 4}),
    case("llama, dynamic", "LlamaForCausalLM", "llama", **SIZES, rope_scaling={"type": "dynamic", "factor": 2.0}),
    case("mistral, nothing said", "MistralForCausalLM", "mistral"),
    case("mistral, older", "MistralForCausalLM", "mistral", **SIZES, num_key_value_heads=2, sliding_window=40, rope_theta=1e4),
    case("mistral, no window", "MistralForCausalLM", "mistral", **SIZES, num_key_value_heads=2, sliding_window=None,
         head_dim=32, rope_theta=1e6),
    case("qwen2, nothing said", "Qwen2ForCausalLM", "qwen2"),
    case("qwen2, window off", "Qwen2ForCausalLM", "qwen2", **SIZES, num_key_value_heads=2, use_sliding_window=False,
         sliding_window=131072, max_window_layers=2, rope_theta=1e6, tie_word_embeddings=True),
    case("qwen2, window on", "Qwen2ForCausalLM", "qwen2", **SIZES, num_key_value_heads=2, use_sliding_window=True,
         sliding_window=48, max_window_layers=3, rope_theta=1e6),
    case("qwen2, yarn", "Qwen2ForCausalLM", "qwen2", **SIZES, num_key_value_heads=2, rope_theta=1e6,
         max_position_embeddings=131072,
         rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    case("qwen2, yarn with everything", "Qwen2ForCausalLM", "qwen2", **SIZES, num_key_value_heads=2,
         max_position_embeddings=131072,
         rope_parameters={"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 24.0, "beta_slow": 2.0,
                          "original_max_position_embeddings": 4096, "truncate": False, "mscale": 1.5,
                          "mscale_all_dim": 0.75}),
    case("qwen2, newer", "Qwen2ForCausalLM", "qwen2", **SIZES, num_key_value_heads=None, use_sliding_window=True, sliding_window=48,
         layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"]),
    case("qwen3, nothing said", "Qwen3ForCausalLM", "qwen3"),
    case("qwen3, older", "Qwen3ForCausalLM", "qwen3", **SIZES, num_key_value_heads=2, head_dim=32, rope_theta=1e6,
         attention_bias=True),
    case("gemma2, nothing said", "Gemma2ForCausalLM", "gemma2"),
    case("gemma2, older", "Gemma2ForCausalLM", "gemma2", **SIZES, num_key_value_heads=2, head_dim=32, sliding_window=64,
         hidden_act="gelu_pytorch_tanh", query_pre_attn_scalar=24, attn_logit_softcapping=40.0,
         final_logit_softcapping=None, rope_theta=10000.0),
    case("gemma3, nothing said", "Gemma3ForCausalLM", "gemma3_text"),
    case("gemma3, older", "Gemma3ForCausalLM", "gemma3_text", **{**SIZES, "num_hidden_layers": 7}, head_dim=32,
         num_key_value_heads=1, sliding_window=32, sliding_window_pattern=3, rope_theta=1e6, rope_local_base_freq=2e4,
         query_pre_attn_scalar=32),
    case("gemma3, newer", "Gemma3ForCausalLM", "gemma3_text", **SIZES, head_dim=32, num_key_value_heads=2, sliding_window=32,
         layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
         rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                          "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
    case("gemma3, wrapped", "Gemma3ForConditionalGeneration", "gemma3", eos_token_id=[1, 106],
         text_config={"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6,
                      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}),
    case("phi3, nothing said", "Phi3ForCausalLM", "phi3"),
    case("phi3, longrope", "Phi3ForCausalLM", "phi3", **SIZES, sliding_window=262144, max_position_embeddings=131072,
         original_max_position_embeddings=4096, rope_theta=10000.0, rope_scaling={"type": "longrope", **FACTORS}),
    case("phi3, partial", "Phi3ForCausalLM", "phi3", **{**SIZES, "hidden_size": 96}, num_key_value_heads=2,
         partial_rotary_factor=0.67, max_position_embeddings=131072, tie_word_embeddings=True,
         original_max_position_embeddings=4096, rope_scaling={"type": "longrope", **FACTORS}),
    case("mixtral, nothing said", "MixtralForCausalLM", "mixtral"),
    case("mixtral, older", "MixtralForCausalLM", "mixtral", **SIZES, num_key_value_heads=2, num_local_experts=4,
         num_experts_per_tok=3, sliding_window=None, rope_theta=1e6),
    case("qwen3moe, nothing said", "Qwen3MoeForCausalLM", "qwen3_moe"),
    case("qwen3moe, older", "Qwen3MoeForCausalLM", "qwen3_moe", **SIZES, num_key_value_heads=2, head_dim=32, num_experts=16,
         num_experts_per_tok=4, moe_intermediate_size=48, norm_topk_prob=True, decoder_sparse_step=2, mlp_only_layers=[3],
         rope_theta=1e6),
    case("olmo2, nothing said", "Olmo2ForCausalLM", "olmo2"),
    case("olmo2, older", "Olmo2ForCausalLM", "olmo2", **SIZES, rms_norm_eps=1e-6, rope_theta=5e5, eos_token_id=100257),
    case("granite, nothing said", "GraniteForCausalLM", "granite"),
    case("granite, older", "GraniteForCausalLM", "granite", **SIZES, num_key_value_heads=2, embedding_multiplier=12.0,
         attention_multiplier=0.015625, residual_multiplier=0.22, logits_scaling=16.0, rope_theta=1e4),
]


def frequencies(config, layer_type, seq_len):
    parameters = config.rope_parameters
    nested = layer_type in parameters
    kind = (parameters[layer_type] if nested else parameters)["rope_type"]
    if kind == "default":
        p = parameters[layer_type] if nested else parameters
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dim = int(head_dim * (p.get("partial_rotary_factor") or 1.0))
        return 1.0 / (p["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim)), 1.0
    return rope_utils.ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=seq_len, layer_type=layer_type if nested else None)


def expected(raw):
    whole = CONFIG_MAPPING[raw["model_type"]].from_dict(json.loads(json.dumps(raw)))
    config = getattr(whole, "text_config", whole)
    kind, L = raw["model_type"], config.num_hidden_layers
    D = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    window = getattr(config, "sliding_window", None) if kind not in ("llama", "olmo2", "granite") else None
    types = getattr(config, "layer_types", None) if kind in ("qwen2", "qwen3", "gemma2", "gemma3", "gemma3_text") else None
    types = types or ["sliding_attention" if window else "full_attention"] * L
    gemma = kind.startswith("gemma")
    experts = kind in ("mixtral", "qwen3_moe")
    sparse = [experts and i not in (getattr(config, "mlp_only_layers", None) or [])
              and (i + 1) % getattr(config, "decoder_sparse_step", 1) == 0 for i in range(L)]
    eos = getattr(whole, "eos_token_id", None)
    eos = config.eos_token_id if eos is None else eos
    ropes = {}
    for layer_type in sorted(set(types)):
        for label, seq_len in (("short", None), ("long", config.max_position_embeddings)):
            inv_freq, factor = frequencies(config, layer_type, seq_len)
            ropes[f"{layer_type} {label}"] = {"inv_freq": [float(f"{v:.9g}") for v in np.asarray(inv_freq)], "factor": float(factor)}
    return {
        "C": config.hidden_size, "L": L, "H": config.num_attention_heads, "F": config.intermediate_size, "D": D,
        "G": config.num_key_value_heads or config.num_attention_heads, "V": config.vocab_size,
        "context": config.max_position_embeddings, "norm_eps": config.rms_norm_eps,
        "tied": whole.tie_word_embeddings, "bos": config.bos_token_id,
        "eos": [] if eos is None else eos if isinstance(eos, list) else [eos],
        "windows": [window if t == "sliding_attention" else 0 for t in types], "types": types, "ropes": ropes,
        "embedding_scale": math.sqrt(config.hidden_size) if gemma else getattr(config, "embedding_multiplier", 1.0),
        "attention_scale": config.query_pre_attn_scalar**-0.5 if gemma else getattr(config, "attention_multiplier", D**-0.5),
        "residual_scale": getattr(config, "residual_multiplier", 1.0), "logits_scale": 1 / getattr(config, "logits_scaling", 1.0),
        "attention_softcap": getattr(config, "attn_logit_softcapping", None) or 0.0,
        "logits_softcap": getattr(config, "final_logit_softcapping", None) or 0.0,
        "qkv_bias": kind == "qwen2" or (kind not in ("mistral", "mixtral", "phi3") and bool(config.attention_bias)),
        "o_bias": kind not in ("qwen2", "mistral", "mixtral", "phi3") and bool(config.attention_bias),
        "mlp_bias": bool(getattr(config, "mlp_bias", False)), "sparse": sparse,
        "X": config.num_local_experts if experts else 0, "top_k": config.num_experts_per_tok if experts else 0,
        "F_expert": getattr(config, "moe_intermediate_size", config.intermediate_size) if experts else 0,
        "renormalise": getattr(config, "norm_topk_prob", True),
    }


if __name__ == "__main__":
    path = pathlib.Path(__file__).parent.parent / "tests/data/configs/cases.json"
    lines = [json.dumps({"name": name, "config": raw, "expected": expected(raw)}) for name, raw in CASES]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(path, path.stat().st_size, file=sys.stderr)
