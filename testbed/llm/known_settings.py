"""Settings of checkpoints that are known but not applied: harmless settings, and settings at a neutral value.

One rule holds for all files of a checkpoint: a setting that changes numbers is applied or refused. A setting that is
neither applied, nor harmless, nor at its neutral value is refused, and the message names it.
"""

from typing import Any, Final

#: Fields of ``config.json`` on which no number of the model depends, grouped by the reason.
_HARMLESS: Final = {
    "where the model comes from, and what library wrote the file": (
        "_name_or_path name_or_path _commit_hash transformers_version transformers.js_config "
        "is_llama_config unsloth_fixed unsloth_version"
    ),
    "how weights are stored and computed elsewhere: here they are float32": (
        "dtype torch_dtype use_bfloat16 torchscript use_cache cache_implementation "
        "gradient_checkpointing attn_implementation _attn_implementation "
        "_attn_implementation_autoset _flash_attn_2_enabled use_flash_attn "
        "reorder_and_upcast_attn chunk_size_feed_forward pretraining_tp low_cpu_mem_usage"
    ),
    "what is returned": (
        "return_dict output_attentions output_hidden_states output_scores return_dict_in_generate"
    ),
    "training and initialisation: nothing is dropped out or drawn here": (
        "initializer_range attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop"
    ),
    "other tasks than the next token": (
        "id2label label2id num_labels _num_labels problem_type finetuning_task "
        "task_specific_params summary_type summary_use_proj summary_activation "
        "summary_proj_to_labels summary_first_dropout predict_special_tokens"
    ),
    "tokens, which `testbed.llm.tokenizer` reads": (
        "bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id "
        "tokenizer_class prefix"
    ),
    "how transformers samples: policies here sample from the model's whole distribution": (
        "do_sample temperature top_k top_p typical_p epsilon_cutoff eta_cutoff "
        "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
        "num_beams num_beam_groups diversity_penalty num_return_sequences early_stopping "
        "max_length min_length max_new_tokens bad_words_ids suppress_tokens "
        "begin_suppress_tokens forced_bos_token_id forced_eos_token_id "
        "exponential_decay_length_penalty remove_invalid_values tf_legacy_loss"
    ),
}
HARMLESS: Final = frozenset(" ".join(_HARMLESS.values()).split())
#: Fields of ``config.json`` that are known, and their neutral values, at which they change nothing.
NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False,),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "auto_map": ({},),
    "clip_qkv": (),
    "cross_attention_hidden_size": (),
    "embedding_multiplier": (1.0,),
    "final_logit_softcapping": (),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "logit_scale": (1.0,),
    "logits_scaling": (1.0,),
    "mlp_bias": (False,),
    "moe_intermediate_size": (0,),
    "n_routed_experts": (0,),
    "no_rope_layers": ([],),
    "num_experts": (0,),
    "num_experts_per_tok": (0,),
    "num_local_experts": (0,),
    "pruned_heads": ({},),
    "qk_layernorm": (False,),
    "quantization_config": ({},),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1.0,),
    "rope_interleaved": (False,),
    "rotary_pct": (1.0,),
    "tie_encoder_decoder": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}

#: Prefixes of GGUF metadata on which no number of the model depends: who made the file, and how.
GGUF_HARMLESS_PREFIXES: Final = ("general.", "quantize.", "tokenizer.chat_template")
#: Names of such metadata: byte-pair tokenizers have no scores and no unknown texts, and the tokens are for other tasks.
GGUF_HARMLESS: Final = frozenset(
    {
        "llama.rope.scaling.original_context_length",
        "split.no",
        "split.tensors.count",
        "tokenizer.ggml.cls_token_id",
        "tokenizer.ggml.fim_mid_token_id",
        "tokenizer.ggml.fim_pad_token_id",
        "tokenizer.ggml.fim_pre_token_id",
        "tokenizer.ggml.fim_rep_token_id",
        "tokenizer.ggml.fim_sep_token_id",
        "tokenizer.ggml.fim_suf_token_id",
        "tokenizer.ggml.mask_token_id",
        "tokenizer.ggml.middle_token_id",
        "tokenizer.ggml.padding_token_id",
        "tokenizer.ggml.prefix_token_id",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.seperator_token_id",
        "tokenizer.ggml.suffix_token_id",
        "tokenizer.ggml.token_type_count",
        "tokenizer.ggml.unknown_token_id",
        "tokenizer.huggingface.json",
    }
)
#: GGUF metadata that are known, and their neutral values, at which they change nothing.
GGUF_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "llama.attention.causal": (True,),
    "llama.attention.clamp_kqv": (0.0,),
    "llama.attention.max_alibi_bias": (0.0,),
    "llama.attention.scale": (0.0,),
    "llama.attn_logit_softcapping": (0.0,),
    "llama.embedding_scale": (0.0, 1.0),
    "llama.expert_count": (0,),
    "llama.expert_used_count": (0,),
    "llama.final_logit_softcapping": (0.0,),
    "llama.leading_dense_block_count": (0,),
    "llama.logit_scale": (0.0, 1.0),
    "llama.pooling_type": (0,),
    "llama.residual_scale": (0.0, 1.0),
    # If the type of scaling is missing, llama.cpp treats a factor as a linear one.
    "llama.rope.scale_linear": (0.0, 1.0),
    "llama.rope.scaling.attn_factor": (1.0,),
    "llama.rope.scaling.factor": (0.0, 1.0),
    "llama.rope.scaling.finetuned": (False,),
    "llama.rope.scaling.type": ("none",),
    "llama.tensor_data_layout": ("Meta AI original pth",),
    "llama.use_parallel_residual": (False,),
    "general.type": ("model",),
    "split.count": (0, 1),
    # For byte-pair tokenizers llama.cpp never puts a space in front of a text.
    "tokenizer.ggml.add_space_prefix": (False,),
    "tokenizer.ggml.add_eos_token": (False,),
    "tokenizer.ggml.add_sep_token": (False,),
}
