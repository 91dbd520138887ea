"""The zoo: architectures of transformers with random weights, a few thousand parameters each. What depends on length is
scaled down with them.

`FAST` are eight of different kinds; the others are run by `make zoo`.
"""

from __future__ import annotations

from typing import Any

VOCAB, WIDTH, LAYERS = 96, 32, 4
SMALL = dict(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
HEAD = dict(head_dim=8)
MOE = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
SLIDING = dict(sliding_window=6)

ROUTED = {
    **MOE,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    original_max_position_embeddings=16,
    short_factor=[1.0, 1.1, 1.2, 1.3],
    long_factor=[1.0, 2.0, 4.0, 8.0],
)
MLA = dict(kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, num_key_value_heads=4)
SSM = dict(mamba_d_state=8, mamba_n_heads=4, mamba_d_head=16, mamba_chunk_size=8)
LINEAR = dict(linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)


# architecture -> (class prefix, changes to SMALL; None removes a key)
ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", HEAD),
    "qwen3_moe": ("Qwen3Moe", {**HEAD, **MOE}),
    "qwen3_next": (
        "Qwen3Next",
        {
            **HEAD,
            **MOE,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "mistral": ("Mistral", {**HEAD, **SLIDING}),
    "mixtral": ("Mixtral", {**MOE, "sliding_window": None}),
    "gemma": ("Gemma", HEAD),
    "gemma2": ("Gemma2", {**HEAD, **SLIDING, "query_pre_attn_scalar": 8}),
    "gemma3": (
        "Gemma3",
        {**HEAD, **SLIDING, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", {}),
    "olmo": ("Olmo", {}),
    "olmo2": ("Olmo2", {}),
    "gpt2": ("GPT2", {}),
    "gpt_neo": ("GPTNeo", {"attention_types": [[["global", "local"], 2]], "window_size": 6}),
    "gpt_neox": ("GPTNeoX", {"num_key_value_heads": None}),
    "gptj": ("GPTJ", {"rotary_dim": 4}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": WIDTH}),
    "bloom": ("Bloom", {"n_layer": LAYERS, "n_head": 4}),
    "falcon": ("Falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon_alibi": (
        "Falcon",
        {"alibi": True, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": False},
    ),
    "mpt": ("Mpt", {"d_model": WIDTH, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 128}),
    "gpt_oss": ("GptOss", {**HEAD, **MOE, **SLIDING}),
    "cohere": ("Cohere", {}),
    "cohere2": ("Cohere2", {**HEAD, **SLIDING}),
    "granite": ("Granite", {}),
    "granitemoe": ("GraniteMoe", MOE),
    "stablelm": ("StableLm", {}),
    "smollm3": ("SmolLM3", {}),
    "glm4": ("Glm4", HEAD),
    "glm": ("Glm", HEAD),
    "deepseek_v3": (
        "DeepseekV3",
        {
            **MOE,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
        },
    ),
    "starcoder2": ("Starcoder2", SLIDING),
    "nemotron": ("Nemotron", {}),
    "exaone4": ("Exaone4", {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "helium": ("Helium", HEAD),
    "ernie4_5": ("Ernie4_5", HEAD),
    # recurrent and hybrid
    "jamba": (
        "Jamba",
        {**MOE, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False},
    ),
    "mamba": ("Mamba", {"state_size": 8}),
    "mamba2": ("Mamba2", {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8, "chunk_size": 8}),
    "recurrent_gemma": (
        "RecurrentGemma",
        {
            "attention_window_size": 6,
            "lru_width": WIDTH,
            "block_types": ["recurrent", "attention"],
            "max_position_embeddings": None,
        },
    ),
    "qwen3_5": ("Qwen3_5", {**HEAD, **LINEAR, "layer_types": ["linear_attention", "full_attention"] * 2}),
    "zamba": (
        "Zamba",
        {
            "n_mamba_heads": 2,
            "mamba_d_state": 8,
            "num_key_value_heads": 4,
            "use_mamba_kernels": False,
            "layers_block_type": ["mamba", "hybrid"] * 2,
        },
    ),
    "zamba2": (
        "Zamba2",
        {
            "n_mamba_heads": 4,
            "mamba_d_state": 8,
            "num_key_value_heads": 4,
            "chunk_size": 8,
            "adapter_rank": 4,
            "use_mamba_kernels": False,
            "layers_block_type": ["mamba", "hybrid"] * 2,
        },
    ),
    "falcon_h1": ("FalconH1", {**SSM, "mamba_d_ssm": 64}),
    "nemotron_h": (
        "NemotronH",
        {
            **HEAD,
            **MOE,
            "num_local_experts": None,
            "num_experts": None,
            "n_routed_experts": 4,
            "moe_shared_expert_intermediate_size": 16,
            "num_hidden_layers": None,
            "layers_block_type": ["mamba", "attention", "moe", "mamba"],
            "ssm_state_size": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "chunk_size": 8,
            "use_mamba_kernels": False,
        },
    ),
    "lfm2": ("Lfm2", {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"] * 2}),
    "bamba": ("Bamba", {**SSM, "attn_layer_indices": [1, 3]}),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {**MOE, **SSM, "shared_intermediate_size": 16, "layer_types": ["mamba", "attention"] * 2},
    ),
    "minimax": ("MiniMax", {**HEAD, **MOE, "block_size": 8, "layer_types": ["linear_attention", "full_attention"] * 2}),
    "xlstm": (
        "xLSTM",
        {
            "num_heads": 4,
            "chunk_size": 8,
            "ffn_round_up_to_multiple_of": 8,
            "qk_dim_factor": 2.0,
            "v_dim_factor": 2.0,
            "inference_state_dtype": "float32",
            "autocast_kernel_dtype": "float32",
        },
    ),
    "openai_gpt": ("OpenAIGPT", {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 128}),
    # attention that changes with length
    "phi3_longrope": (
        "Phi3",
        {
            "original_max_position_embeddings": 16,
            "rope_parameters": {**LONGROPE},
        },
    ),
    "llama_dynamic": (
        "Llama",
        {
            "max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "gpt_neo_wide": ("GPTNeo", {"attention_types": [[["global", "local"], 2]], "window_size": 24}),
    "deepseek_v32": (
        "DeepseekV32",
        {
            **ROUTED,
            **MLA,
            **HEAD,
            "num_experts": None,
            "num_local_experts": None,
            "index_topk": 8,
            "index_head_dim": 16,
            "index_n_heads": 16,
        },
    ),
    # dense
    "gpt_bigcode": ("GPTBigCode", {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_inner": 48, "n_positions": 128}),
    "codegen": (
        "CodeGen",
        {
            "n_embd": WIDTH,
            "n_layer": LAYERS,
            "n_head": 4,
            "n_inner": 48,
            "n_positions": 128,
            "n_ctx": 128,
            "rotary_dim": 4,
        },
    ),
    "persimmon": ("Persimmon", {}),
    "xglm": ("XGLM", {"d_model": WIDTH, "ffn_dim": 48, "num_layers": LAYERS, "attention_heads": 4}),
    "biogpt": ("BioGpt", {}),
    "ctrl": ("CTRL", {"n_embd": WIDTH, "dff": 48, "n_layer": LAYERS, "n_head": 4, "n_positions": 128}),
    "gpt_neox_japanese": ("GPTNeoXJapanese", {"intermediate_multiple_size": 2, "num_key_value_heads": None}),
    "arcee": ("Arcee", {}),
    "olmo3": ("Olmo3", {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "seed_oss": ("SeedOss", HEAD),
    "apertus": ("Apertus", {}),
    "hunyuan_v1_dense": ("HunYuanDenseV1", HEAD),
    "bitnet": ("BitNet", {}),
    "diffllama": ("DiffLlama", HEAD),
    "vaultgemma": (
        "VaultGemma",
        {**HEAD, **SLIDING, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "ministral": ("Ministral", {**HEAD, **SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "ministral3": (
        "Ministral3",
        {
            **HEAD,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 16,
                "llama_4_scaling_beta": 0.1,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
    ),
    "nanochat": ("NanoChat", {}),
    "mllama": ("Mllama", {"cross_attention_layers": []}),
    "cwm": (
        "Cwm",
        {
            **HEAD,
            **SLIDING,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "jais2": ("Jais2", HEAD),
    "hyperclovax": ("HyperCLOVAX", HEAD),
    "emu3": ("Emu3", {}),
    "granite_swa": ("GraniteSWA", {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "modernbert_decoder": (
        "ModernBertDecoder",
        {
            "local_attention": 12,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_key_value_heads": None,
        },
    ),
    "youtu": ("Youtu", MLA),
    "minicpm3": ("MiniCPM3", {**MLA, "dim_model_base": 32}),
    "doge": ("Doge", {"keep_window_size": 128}),
    "gemma4": (
        "Gemma4",
        {
            **HEAD,
            **SLIDING,
            "global_head_dim": 8,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    # mixtures of experts
    "phimoe": ("Phimoe", {**MOE, "sliding_window": None}),
    "qwen2_moe": ("Qwen2Moe", {**MOE, "shared_expert_intermediate_size": 16}),
    "qwen3_moe_mixed": ("Qwen3Moe", {**HEAD, **MOE, "decoder_sparse_step": 2, "mlp_only_layers": [3]}),
    "qwen3_5_moe": (
        "Qwen3_5Moe",
        {
            **HEAD,
            **MOE,
            **LINEAR,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "olmoe": ("Olmoe", MOE),
    "flex_olmo": ("FlexOlmo", MOE),
    "olmo_hybrid": (
        "OlmoHybrid",
        {**LINEAR, "linear_num_key_heads": 4, "layer_types": ["linear_attention", "full_attention"] * 2},
    ),
    "ernie4_5_moe": (
        "Ernie4_5_Moe",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_num_shared_experts": 1},
    ),
    "dots1": (
        "Dots1",
        {
            **HEAD,
            **ROUTED,
            "num_experts": None,
            "num_local_experts": None,
            **SLIDING,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "glm4_moe": ("Glm4Moe", {**HEAD, **ROUTED, "num_experts": None, "num_local_experts": None}),
    "glm4_moe_lite": ("Glm4MoeLite", {**MLA, **ROUTED, "num_experts": None, "num_local_experts": None}),
    "glm_moe_dsa": (
        "GlmMoeDsa",
        {
            **ROUTED,
            **MLA,
            **HEAD,
            "num_experts": None,
            "num_local_experts": None,
            "index_topk": 8,
            "index_head_dim": 16,
            "index_n_heads": 16,
        },
    ),
    "solar_open": ("SolarOpen", {**HEAD, **ROUTED, "num_experts": None, "num_local_experts": None}),
    "exaone_moe": (
        "ExaoneMoe",
        {
            **SLIDING,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        },
    ),
    "deepseek_v2": ("DeepseekV2", {**ROUTED, **MLA, "num_experts": None, "num_local_experts": None}),
    "jetmoe": (
        "JetMoe",
        {
            "kv_channels": 8,
            "num_key_value_heads": 2,
            "num_attention_heads": None,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "granitemoeshared": ("GraniteMoeShared", {**MOE, "shared_intermediate_size": 16}),
    "granitemoe_swa": (
        "GraniteMoeSWA",
        {**MOE, **SLIDING, "shared_intermediate_size": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "aria_text": ("AriaText", {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1, **HEAD}),
    "lfm2_moe": (
        "Lfm2Moe",
        {**MOE, "num_local_experts": None, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"] * 2},
    ),
    "hunyuan_v1_moe": ("HunYuanMoEV1", {**HEAD, "num_experts": 4, "moe_topk": 2}),
    "minimax_m2": ("MiniMaxM2", {**HEAD, **MOE, "rotary_dim": 4}),
    "afmoe": (
        "Afmoe",
        {
            **HEAD,
            **SLIDING,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "num_shared_experts": 1,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "dbrx": (
        "Dbrx",
        {
            "d_model": WIDTH,
            "n_heads": 4,
            "n_layers": LAYERS,
            "max_seq_len": 128,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": WIDTH},
        },
    ),
    "longcat_flash": (
        "LongcatFlash",
        {
            **MLA,
            **HEAD,
            "num_hidden_layers": None,
            "num_layers": LAYERS,
            "ffn_hidden_size": 48,
            "moe_topk": 2,
            "n_routed_experts": 4,
            "zero_expert_num": 2,
            "expert_ffn_hidden_size": 16,
        },
    ),
    "mimo_v2_flash": (
        "MiMoV2Flash",
        {
            **HEAD,
            **SLIDING,
            **ROUTED,
            "num_experts": None,
            "num_local_experts": None,
            "v_head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "laguna": (
        "Laguna",
        {
            **HEAD,
            **SLIDING,
            **MOE,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "mellum": ("Mellum", {**HEAD, **SLIDING, **MOE, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "cohere2_moe": (
        "Cohere2Moe",
        {
            **HEAD,
            **SLIDING,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "hy_v3": ("HYV3", {**HEAD, **MOE, "num_local_experts": None, "num_shared_experts": 1}),
    "kimi_linear": (
        "KimiLinear",
        {
            **MLA,
            **MOE,
            "num_experts": None,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "n_shared_experts": 1,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "axk1": ("AXK1", {**ROUTED, **MLA, "num_experts": None, "num_local_experts": None}),
    "llama4": (
        "Llama4",
        {
            **HEAD,
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 8,
            "no_rope_layers": [1, 0, 1, 0],
            "layer_types": ["chunked_attention", "full_attention"] * 2,
            "attn_temperature_tuning": True,
            "floor_scale": 8,
        },
    ),
    "falcon_mamba": ("FalconMamba", {"state_size": 8}),
    "rwkv": ("Rwkv", {"context_length": 128, "attention_hidden_size": WIDTH, "rescale_every": 0}),
    # attention that changes with length
    "llama_llama3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama_yarn": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama_linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "qwen2_sliding": (
        "Qwen2",
        {
            **SLIDING,
            "use_sliding_window": True,
            "max_window_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
    ),
    "phimoe_longrope": (
        "Phimoe",
        {
            **MOE,
            "sliding_window": None,
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 16,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.0, 2.0, 4.0, 8.0],
                "short_mscale": 1.0,
                "long_mscale": 1.2,
            },
        },
    ),
    "minicpm3_longrope": (
        "MiniCPM3",
        {
            **MLA,
            "dim_model_base": 32,
            "rope_parameters": {**LONGROPE},
        },
    ),
    "deepseek_v3_yarn": (
        "DeepseekV3",
        {
            **ROUTED,
            **MLA,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 16,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        },
    ),
    "mistral_wide": ("Mistral", {**HEAD, "sliding_window": 12}),
    # newer ones
    "lfm3": ("Lfm3", {**HEAD, **SLIDING, "layer_types": ["conv", "sliding_attention", "conv", "full_attention"]}),
    "zaya": (
        "Zaya",
        {
            **HEAD,
            **MOE,
            "num_local_experts": None,
            "num_experts_per_tok": 1,
            "router_hidden_size": 8,
            "intermediate_size": None,
        },
    ),
    "beam": (
        "Beam",
        {
            **HEAD,
            **SLIDING,
            **MOE,
            "n_group": 1,
            "topk_group": 1,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "flint": (
        "Flint",
        {
            **HEAD,
            **SLIDING,
            **MOE,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "kolibri1": (
        "Kolibri1",
        {
            **HEAD,
            **SLIDING,
            **MOE,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "inkling": (
        "Inkling",
        {
            **HEAD,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "sliding_window_size": 6,
            "d_rel": 4,
            "rel_extent": 16,
            "conv_kernel_size": 3,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 16,
        },
    ),
    "bailing_hybrid": (
        "BailingHybrid",
        {
            **MLA,
            **MOE,
            "num_experts": None,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "head_dim": 8,
            "first_k_dense_replace": 1,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "axk2": ("AXK2", {**ROUTED, **MLA, "num_experts": None, "num_local_experts": None}),
}

# Architectures whose stream is not (batch, sequence, width), and what the refusal says.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n": (
        "Gemma3n",
        {
            **HEAD,
            "num_kv_shared_layers": 0,
            "laurel_rank": 4,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "layer_types": ["full_attention"] * LAYERS,
            "activation_sparsity_pattern": [0.0] * LAYERS,
            "altup_num_inputs": 2,
            "intermediate_size": [48] * LAYERS,
        },
    ),
    "hrm_text": ("HrmText", {**HEAD, "num_key_value_heads": None}),
    "hy_v4": (
        "HYV4",
        {
            **ROUTED,
            **MLA,
            **HEAD,
            "num_experts": None,
            "num_local_experts": None,
            "index_topk": 8,
            "index_head_dim": 16,
            "index_n_heads": 16,
        },
    ),
    "qwen4_exp": (
        "Qwen4Exp",
        {
            **HEAD,
            **MOE,
            **LINEAR,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "hc_count": 2,
            "hc_lowrank": 8,
            "ngram_vocab_size_base": 50,
            "make_ngram_vocab_size_divisible_by": 8,
            "split_ngram_parts": 2,
            "indexer_n_heads": 8,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 8,
            "indexer_compress_ratio": 2,
        },
    ),
    "deepseek_v4": (
        "DeepseekV4",
        {
            "head_dim": 16,
            "num_key_value_heads": 1,
            "intermediate_size": None,
            "moe_intermediate_size": 16,
            "q_lora_rank": 16,
            "num_experts_per_tok": 2,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "hc_mult": 2,
            "sliding_window": 6,
            "o_groups": 2,
            "o_lora_rank": 8,
            "index_n_heads": 2,
            "index_head_dim": 16,
            "index_topk": 4,
        },
    ),
}

CONFIGS = {
    "Gemma3": "Gemma3TextConfig",
    "Gemma3n": "Gemma3nTextConfig",
    "Qwen3_5": "Qwen3_5TextConfig",
    "Qwen3_5Moe": "Qwen3_5MoeTextConfig",
    "Llama4": "Llama4TextConfig",
    "Mllama": "MllamaTextConfig",
    "Emu3": "Emu3TextConfig",
    "Gemma4": "Gemma4TextConfig",
    "Inkling": "InklingTextConfig",
    "Qwen4Exp": "Qwen4ExpTextConfig",
}
CLASSES = {"GPT2": "GPT2LMHeadModel", "OpenAIGPT": "OpenAIGPTLMHeadModel", "CTRL": "CTRLLMHeadModel"}

# plain attention, windows, positions of its own, tuples and alibi, experts, linear attention, no cache that can be
# resumed, positions that change with length
FAST = ("llama", "gemma3", "gpt2", "bloom", "deepseek_v3", "qwen3_next", "mamba2", "phi3_longrope")
