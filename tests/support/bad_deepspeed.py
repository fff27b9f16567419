"""Ways a DeepSpeed config can be wrong, alone or beside a recipe, and what the user is told."""

from __future__ import annotations

from tests.support.bad_input import DEEPSPEED, Case, edited, top, zero

DEEPSPEED_CASES = [
    Case(
        "no such config",
        ("recipe.yaml:20: deepspeed: no such DeepSpeed config: zero9.", "zero3_offload"),
        edited("ds.json", "zero9"),
    ),
    Case(
        "config auto",
        ("deepspeed: auto is not available yet.", "Write a file, or one of"),
        edited("deepspeed: ds.json", "deepspeed: auto"),
    ),
    Case(
        "top-level typo",
        (
            "ds.json:4: zero_optimisation: unknown key zero_optimisation.",
            "Did you mean zero_optimization?",
        ),
        deepspeed=edited("zero_optimization", "zero_optimisation", DEEPSPEED),
    ),
    Case(
        "nested typo",
        ("ds.json:5: zero_optimization.overlap_com: unknown key", "Did you mean overlap_comm?"),
        deepspeed=zero('"stage": 2, "overlap_com": true'),
    ),
    Case(
        "offload typo",
        ("zero_optimization.offload_optimizer.devise: unknown key devise.", "Did you mean device?"),
        deepspeed=zero('"stage": 2, "offload_optimizer": {"devise": "cpu"}'),
    ),
    Case(
        "bf16 typo",
        ("bf16.enable: unknown key enable. Did you mean enabled?",),
        deepspeed=edited('"enabled"', '"enable"', DEEPSPEED),
    ),
    Case(
        "removed section",
        ("curriculum_learning: can't be set: DeepSpeed removed it",),
        deepspeed=top('"curriculum_learning": {},'),
    ),
    Case(
        "second wandb run",
        ("wandb: can't be set: it would start a second wandb run",),
        deepspeed=top('"wandb": {"enabled": true},'),
    ),
    Case(
        "trailing comma",
        ("ds.json:5: not JSON in column 15: comma after the last entry.",),
        deepspeed=zero('"stage": 2,'),
    ),
    Case(
        "comment",
        ("ds.json:5: not JSON in column 16", "JSON has no comments"),
        deepspeed=zero('"stage": 2 // two'),
    ),
    Case(
        "duplicate JSON key",
        ("ds.json:6: stage: stands twice; first on line 5.",),
        deepspeed=zero('"stage": 2,\n    "stage": 3'),
    ),
    Case(
        "stage 4",
        ("zero_optimization.stage: got 4, need 0, 1, 2 or 3.",),
        deepspeed=zero('"stage": 4'),
    ),
    Case(
        "stage three",
        ('got "three" (text), need 0, 1, 2 or 3.',),
        deepspeed=zero('"stage": "three"'),
    ),
    Case("stage true", ("got true, need 0, 1, 2 or 3.",), deepspeed=zero('"stage": true')),
    Case(
        "stage auto",
        ('zero_optimization.stage: the recipe has nothing that fills "auto"',),
        deepspeed=zero('"stage": "auto"'),
    ),
    Case(
        "both precisions",
        ("bf16.enabled: fp16 and bf16 are both enabled; choose one.",),
        deepspeed=edited(
            '"bf16": {"enabled": "auto"}',
            '"bf16": {"enabled": true}, "fp16": {"enabled": true}',
            DEEPSPEED,
        ),
    ),
    Case(
        "precision contradicts",
        (
            (
                "ds.json:2: bf16.enabled: true contradicts the recipe's "
                "model.dtype, which needs false (recipe.yaml:7)."
            ),
        ),
        edited("bfloat16", "float32"),
        edited('"auto"}', "true}", DEEPSPEED),
    ),
    Case(
        "NaN unchecked in bf16",
        (
            "ds.json:2: bf16.check_grad_overflow: got false, but the training loop relies on true.",
            "Remove it.",
        ),
        deepspeed=edited('"auto"}', '"auto", "check_grad_overflow": false}', DEEPSPEED),
    ),
    Case(
        "no gradient norm",
        ("zero_optimization.compute_grad_norm: got false, but the training loop relies on true.",),
        deepspeed=zero('"stage": 2, "compute_grad_norm": false'),
    ),
    Case(
        "clip is text",
        ('gradient_clipping: got "one" (text), need a number >= 0',),
        deepspeed=top('"gradient_clipping": "one",'),
        absent=("contradicts",),
    ),
    Case(
        "clip is negative",
        ("gradient_clipping: got -1, need a number >= 0",),
        deepspeed=top('"gradient_clipping": -1,'),
    ),
    Case(
        "clip contradicts",
        (
            (
                "ds.json:3: gradient_clipping: 0.5 contradicts the recipe's "
                "train.max_grad_norm 1.0 (default)."
            ),
        ),
        deepspeed=top('"gradient_clipping": 0.5,'),
    ),
    Case(
        "unfillable auto",
        ('aio: got "auto" (text), expected object',),
        deepspeed=top('"aio": "auto",'),
    ),
    Case(
        "unfillable auto number",
        (
            (
                "gradient_predivide_factor: the recipe has nothing that fills "
                '"auto" here; need a number >= 0.'
            ),
        ),
        deepspeed=top('"gradient_predivide_factor": "auto",'),
    ),
    Case(
        "accumulation 0",
        ("gradient_accumulation_steps: got 0, need an integer >= 1",),
        deepspeed=top('"gradient_accumulation_steps": 0,'),
    ),
    Case(
        "accumulation 2.5",
        ("gradient_accumulation_steps: got 2.5, need an integer >= 1",),
        deepspeed=top('"gradient_accumulation_steps": 2.5,'),
    ),
    Case(
        "accumulation contradicts",
        (
            (
                "gradient_accumulation_steps: 2 contradicts the recipe's "
                "batch sizes, which need 3 (recipe.yaml:17)"
            ),
        ),
        deepspeed=top('"gradient_accumulation_steps": 2,'),
    ),
    Case(
        "batch contradicts",
        (
            (
                "train_batch_size: 32 contradicts the recipe's "
                "train.global_batch_size 24 (recipe.yaml:17)."
            ),
        ),
        deepspeed=top('"train_batch_size": 32,'),
    ),
    Case(
        "micro batch contradicts",
        (
            (
                "train_micro_batch_size_per_gpu: 8 contradicts the recipe's "
                "train.micro_batch_size 4 (recipe.yaml:18)."
            ),
        ),
        deepspeed=top('"train_micro_batch_size_per_gpu": 8,'),
    ),
    Case(
        "batch in quotes",
        ('train_batch_size: got "24" (text), need an integer >= 1',),
        deepspeed=top('"train_batch_size": "24",'),
    ),
    Case(
        "optimizer mistyped",
        ('optimizer.type: got "Adamm" (text), need one of Adagrad, Adam', "Did you mean Adam?"),
        deepspeed=top('"optimizer": {"type": "Adamm"},'),
    ),
    Case(
        "optimizer contradicts",
        ("optimizer.type: Lamb contradicts the recipe's train.optimizer adamw (default).",),
        deepspeed=top('"optimizer": {"type": "Lamb"},'),
    ),
    Case(
        "rate contradicts",
        (
            (
                "optimizer.params.lr: 0.0003 contradicts the recipe's "
                "train.learning_rate 1e-05 (recipe.yaml:19)."
            ),
        ),
        deepspeed=top('"optimizer": {"type": "AdamW", "params": {"lr": 3e-4}},'),
    ),
    Case(
        "schedule contradicts",
        (
            (
                "scheduler.type: WarmupCosineLR contradicts the recipe's "
                "train.schedule linear (default)."
            ),
        ),
        deepspeed=top('"scheduler": {"type": "WarmupCosineLR"},'),
    ),
    Case(
        "warm-up contradicts",
        ("scheduler.params.warmup_num_steps: 10 contradicts the recipe's train.warmup_steps",),
        deepspeed=top(
            '"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 10}},'
        ),
    ),
    Case(
        "NVMe without path",
        ("offload_param.nvme_path: is missing; device nvme needs a folder",),
        deepspeed=zero('"stage": 3, "offload_param": {"device": "nvme"}'),
    ),
    Case(
        "NVMe path missing",
        ("nvme_path: /no/such/drive does not exist.",),
        deepspeed=zero(
            '"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/no/such/drive"}'
        ),
    ),
    Case(
        "optimizer on NVMe",
        ("offload_optimizer.device: masters and moments on an NVMe drive", 'Use "cpu".'),
        deepspeed=zero('"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/tmp"}'),
    ),
    Case(
        "offload to gpu",
        ('offload_param.device: got "gpu" (text), need one of none, cpu, nvme.',),
        deepspeed=zero('"stage": 3, "offload_param": {"device": "gpu"}'),
    ),
    Case(
        "offload without stage",
        ("offload_param to cpu does not work with stage 2.", "Use stage 3."),
        deepspeed=zero('"stage": 2, "offload_param": {"device": "cpu"}'),
    ),
    Case(
        "QLoRA with offload",
        ("method qlora (recipe.yaml:9) does not work with offload_param to cpu",),
        edited("type: lora", "type: qlora"),
        zero('"stage": 3, "offload_param": {"device": "cpu"}'),
    ),
    Case("root is a list", ("ds.json:1: expected object, got a list.",), deepspeed="[]"),
    Case(
        "section is a list",
        ("ds.json:4: zero_optimization: got a list of 0, expected object.",),
        deepspeed='{\n\n\n"zero_optimization": []}',
    ),
    Case(
        "sum of gradients",
        ('gradient_allreduce_op: got "sum" (text), but the training loop',),
        deepspeed=top('"gradient_allreduce_op": "sum",'),
    ),
    Case("not UTF-8", ("ds.json: not UTF-8: byte 3 is 0xff.",), deepspeed='{"\udcff": 1}'),
]
