"""The keys of a DeepSpeed config, as DeepSpeed 0.19 reads them, and what we let each of them say.

A plain table, so that the front end needn't import DeepSpeed (and torch with it); a test compares
it with the models of the installed DeepSpeed. Documentation of the keys:
https://www.deepspeed.ai/docs/config-json/
"""

from __future__ import annotations

Kinds = dict[str, str]
"""Key -> kind: what `deepspeed_check` accepts as its value."""

TOP_LEVEL: Kinds = {
    "train_batch_size": "count",
    "train_micro_batch_size_per_gpu": "count",
    "gradient_accumulation_steps": "count",
    "gradient_clipping": "number",
    "bf16": "section",
    "fp16": "section",
    "zero_optimization": "section",
    "optimizer": "section",
    "scheduler": "section",
    "activation_checkpointing": "section",
    "aio": "section",
    "checkpoint": "section",
    "comms_logger": "section",
    "communication_data_type": "text",
    "compile": "section",
    "data_types": "section",
    "disable_allgather": "bool",
    "disable_python_gc": "bool",
    "dump_state": "bool",
    "flops_profiler": "section",
    "gradient_allreduce_op": "text",
    "gradient_predivide_factor": "number",
    "log_level": "text",
    "managed_gradient_accumulation": "bool",
    "memory_breakdown": "bool",
    "prescale_gradients": "bool",
    "seq_parallel_communication_data_type": "text",
    "steps_per_print": "int",
    "timers": "section",
    "vocabulary_size": "int",
    "wall_clock_breakdown": "bool",
    "zero_allow_untested_optimizer": "bool",
    "zero_force_ds_cpu_optimizer": "bool",
}

BF16: Kinds = {
    "enabled": "bool",
    "immediate_grad_update": "bool",
    "check_grad_overflow": "bool",
    "bf16_master_weights_and_grads": "bool",
    "bf16_optimizer_states": "bool",
}

FP16: Kinds = {
    "enabled": "bool",
    "auto_cast": "bool",
    "loss_scale": "number",
    "initial_scale_power": "int",
    "loss_scale_window": "int",
    "hysteresis": "int",
    "consecutive_hysteresis": "bool",
    "min_loss_scale": "int",
    "fp16_master_weights_and_grads": "bool",
}

ZERO: Kinds = {
    "stage": "stage",
    "contiguous_gradients": "bool",
    "reduce_scatter": "bool",
    "reduce_bucket_size": "int",
    "use_multi_rank_bucket_allreduce": "bool",
    "allgather_partitions": "bool",
    "allgather_bucket_size": "int",
    "overlap_comm": "bool",
    "compute_grad_norm": "bool",
    "load_from_fp32_weights": "bool",
    "elastic_checkpoint": "bool",
    "offload_param": "section",
    "offload_optimizer": "section",
    "zenflow": "section",
    "sub_group_size": "int",
    "cpu_offload_param": "bool",
    "cpu_offload_use_pin_memory": "bool",
    "cpu_offload": "bool",
    "stage3_prefetch_bucket_size": "int",
    "stage3_param_persistence_threshold": "int",
    "stage3_model_persistence_threshold": "int",
    "stage3_max_live_parameters": "int",
    "stage3_max_reuse_distance": "int",
    "stage3_gather_16bit_weights_on_model_save": "bool",
    "stage3_module_granularity_threshold": "int",
    "stage3_use_all_reduce_for_fetch_params": "bool",
    "stage3_allgather_sequential": "bool",
    "stage3_gather_fp16_weights_on_model_save": "bool",
    "ignore_unused_parameters": "bool",
    "legacy_stage1": "bool",
    "round_robin_gradients": "bool",
    "parameter_alignment": "bool",
    "zero_hpz_partition_size": "int",
    "zero_quantized_weights": "bool",
    "zero_quantized_nontrainable_weights": "bool",
    "zero_quantized_gradients": "bool",
    "memory_efficient_linear": "bool",
    "pipeline_loading_checkpoint": "bool",
    "override_module_apply": "bool",
    "log_trace_cache_warnings": "bool",
    "enable_sanity_checks": "bool",
    "save_muon_momentum_buffer_in_memory": "bool",
    "leaf_module": "section",
}

OFFLOAD_PARAM: Kinds = {
    "device": "device",
    "nvme_path": "text",
    "buffer_count": "int",
    "buffer_size": "int",
    "max_in_cpu": "int",
    "pin_memory": "bool",
}

OFFLOAD_OPTIMIZER: Kinds = {
    "device": "device",
    "nvme_path": "text",
    "buffer_count": "int",
    "pin_memory": "bool",
    "pipeline_read": "bool",
    "pipeline_write": "bool",
    "fast_init": "bool",
    "ratio": "number",
    "super_offload": "bool",
    "cpuadam_cores_perc": "number",
}

SECTIONS: dict[str, Kinds] = {
    "": TOP_LEVEL,
    "bf16": BF16,
    "fp16": FP16,
    "zero_optimization": ZERO,
    "zero_optimization.offload_param": OFFLOAD_PARAM,
    "zero_optimization.offload_optimizer": OFFLOAD_OPTIMIZER,
}
"""Sections whose keys are all known; the keys of other sections go to DeepSpeed as they are."""

_REMOVED = "DeepSpeed removed it and would ignore it."
_NOT_OURS = "the launcher doesn't support it: every rank is a data-parallel rank."
REFUSED: dict[str, str] = {
    "amp": "DeepSpeed removed Apex; model.dtype decides the precision.",
    "autotuning": "it would change the batch sizes that the recipe gives.",
    "bfloat16": "it is the old name of bf16.",
    "comet": "records of the run are the launcher's; see `logging`.",
    "compression_training": _REMOVED,
    "csv_monitor": "records of the run are the launcher's; see metrics.jsonl.",
    "curriculum_learning": _REMOVED,
    "data_efficiency": "the order of the samples is the recipe's.",
    "dataloader_drop_last": "every sample is used; the launcher has its own batches.",
    "datastates_ckpt": "checkpoints are the launcher's; see `checkpoint` in the recipe.",
    "eigenvalue": _REMOVED,
    "elasticity": _REMOVED,
    "expert_parallel": _NOT_OURS,
    "graph_harvesting": _REMOVED,
    "hybrid_engine": "it is for generation while training, which the launcher doesn't do.",
    "nebula": _REMOVED,
    "pipeline": _NOT_OURS,
    "progressive_layer_drop": _REMOVED,
    "quantize_training": _REMOVED,
    "sequence_parallel_size": _NOT_OURS,
    "sparse_attention": _REMOVED,
    "sparse_gradients": _REMOVED,
    "tensor_parallel": _NOT_OURS,
    "tensorboard": "records of the run are the launcher's; see metrics.jsonl.",
    "torch_autocast": "model.dtype decides the precision.",
    "use_data_before_expert_parallelism": _NOT_OURS,
    "wandb": "it would start a second wandb run; use `logging.wandb` in the recipe.",
    "weight_quantization": "method qlora decides the quantisation.",
    "zero_optimization.mics_hierarchical_params_gather": _REMOVED,
    "zero_optimization.mics_shard_size": _REMOVED,
    "zero_optimization.zenflow": "it delays updates, so the run would not be the recipe's.",
    "zero_optimization.zeropp_loco_param": _REMOVED,
}
"""Dotted key -> why it can't stand in a config of ours."""

FIXED: dict[str, object] = {
    # Without these two, NaN gradients would go into the weights at ZeRO-1 and ZeRO-2.
    "bf16.check_grad_overflow": True,
    "zero_optimization.compute_grad_norm": True,
    "gradient_allreduce_op": "mean",
    "managed_gradient_accumulation": True,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}
"""Dotted keys that the training loop relies on; another value would change or break the run."""

OPTIMIZERS = (
    "Adagrad", "Adam", "AdamW", "Lamb", "Lion", "Muon", "MuAdam", "MuAdamW", "MuSGD", "OneBitAdam",
    "OneBitLamb", "ZeroOneAdam",
)  # fmt: skip
SCHEDULERS = ("LRRangeTest", "OneCycle", "WarmupLR", "WarmupDecayLR", "WarmupCosineLR")
