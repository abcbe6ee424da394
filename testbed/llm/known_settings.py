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
#: Fields of ``config.json`` that are known, and their neutral values, at which they change nothing; a field without any
#: must be left out.
NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    name: values
    for values, names in (
        (
            (),
            "attention_multiplier attn_logit_softcapping clip_qkv cross_attention_hidden_size "
            "final_logit_softcapping query_pre_attn_scalar",
        ),
        (
            (False,),
            "add_cross_attention attention_bias is_encoder_decoder mlp_bias qk_layernorm "
            "rope_interleaved tie_encoder_decoder use_mrope use_qk_norm use_sliding_window",
        ),
        ((False, True), "is_decoder"),
        (
            (0,),
            "moe_intermediate_size n_routed_experts num_experts num_experts_per_tok "
            "num_local_experts",
        ),
        ((1.0,), "embedding_multiplier logit_scale logits_scaling residual_multiplier rotary_pct"),
        (({},), "auto_map pruned_heads quantization_config"),
        (([],), "no_rope_layers"),
    )
    for name in names.split()
}

#: Prefixes of GGUF metadata on which no number of the model depends: who made the file, and how.
GGUF_HARMLESS_PREFIXES: Final = ("general.", "quantize.", "tokenizer.chat_template")
#: Names of such metadata: byte-pair tokenizers have no scores and no unknown texts, and the tokens are for other tasks.
GGUF_HARMLESS: Final = frozenset(
    form.format(name)
    for form, names in (
        ("llama.rope.scaling.{}", "original_context_length"),
        ("split.{}", "no tensors.count"),
        ("tokenizer.ggml.{}", "scores token_type_count"),
        (
            "tokenizer.ggml.{}_token_id",
            "cls fim_mid fim_pad fim_pre fim_rep fim_sep fim_suf mask middle padding prefix "
            "seperator suffix unknown",
        ),
        ("tokenizer.{}", "huggingface.json"),
    )
    for name in names.split()
)
#: GGUF metadata that are known, and their neutral values, at which they change nothing.
GGUF_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    name: values
    for values, names in (
        ((True,), "llama.attention.causal"),
        (
            (False,),
            "llama.rope.scaling.finetuned llama.use_parallel_residual tokenizer.ggml.add_eos_token "
            # For byte-pair tokenizers llama.cpp never puts a space in front of a text.
            "tokenizer.ggml.add_sep_token tokenizer.ggml.add_space_prefix",
        ),
        (
            (0,),
            "llama.expert_count llama.expert_used_count llama.leading_dense_block_count "
            "llama.pooling_type",
        ),
        ((0, 1), "split.count"),
        (
            (0.0,),
            "llama.attention.clamp_kqv llama.attention.max_alibi_bias llama.attention.scale "
            "llama.attn_logit_softcapping llama.final_logit_softcapping",
        ),
        (
            (0.0, 1.0),
            "llama.embedding_scale llama.logit_scale llama.residual_scale llama.rope.scaling.factor "
            # If the type of scaling is missing, llama.cpp treats a factor as a linear one.
            "llama.rope.scale_linear",
        ),
        ((1.0,), "llama.rope.scaling.attn_factor"),
        (("none",), "llama.rope.scaling.type"),
        (("model",), "general.type"),
        (("Meta AI original pth",), "llama.tensor_data_layout"),
    )
    for name in names.split()
}
