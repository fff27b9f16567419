"""Ways a recipe can be wrong, and what the user is told."""

from __future__ import annotations

from tests.support.bad_input import HF_TOKEN, RECIPE, WANDB_KEY, Case, edited

ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(f'*{old}' for _ in range(10))}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

RECIPE_CASES = [
    Case(
        "tab",
        ("recipe.yaml:2: tab in column 1.", "Indent with spaces."),
        edited("  name: demo", "\tname: demo"),
    ),
    Case("empty", ("recipe.yaml: recipe is empty.",), ""),
    Case("only a comment", ("recipe is empty",), "# nothing yet\n"),
    Case("a list", ("recipe.yaml:1: a recipe is a mapping of sections, got a list.",), "- a\n"),
    Case("not YAML", ("recipe.yaml:2: not YAML in column", "expected ',' or ']'"), "a: [1\nb: 2\n"),
    Case(
        "duplicate key",
        ("recipe.yaml:3: name: stands twice; first on line 2.",),
        edited("  dir: runs", "  name: other"),
    ),
    Case(
        "duplicate section",
        ("recipe.yaml:23: run: stands twice; first on line 1.",),
        RECIPE + "run: {name: again}\n",
    ),
    Case(
        "unknown key",
        (
            "recipe.yaml:19: train.learing_rate: unknown key learing_rate.",
            "Did you mean learning_rate?",
        ),
        edited("learning_rate", "learing_rate"),
    ),
    Case(
        "unknown section",
        ("recipe.yaml:23: optimiser: unknown key optimiser.",),
        RECIPE + "optimiser: {lr: 1}\n",
    ),
    Case(
        "key of another tool",
        ("train.lr: unknown key lr.", "Did you mean learning_rate?"),
        edited("learning_rate", "lr"),
    ),
    Case(
        "accumulation is derived",
        ("train.gradient_accumulation_steps", "It is derived"),
        edited("learning_rate: 1e-5", "gradient_accumulation_steps: 0"),
    ),
    Case(
        "rate is text",
        ('recipe.yaml:19: train.learning_rate: got "1e-5x" (text), need a finite number > 0.',),
        edited("1e-5", "1e-5x"),
    ),
    Case(
        "rate in quotes",
        ('got "1e-5" (text), need a finite number > 0. Write 1e-05.',),
        edited("1e-5", '"1e-5"'),
    ),
    Case(
        "rate is nan",
        ("train.learning_rate: got .nan, need a finite number > 0.",),
        edited("1e-5", ".nan"),
    ),
    Case("rate is infinite", ("got .inf, need a finite number > 0.",), edited("1e-5", ".inf")),
    Case("rate is negative", ("got -1, need a finite number > 0.",), edited("1e-5", "-1")),
    Case(
        "mode is a truth value",
        ("logging.wandb.mode: got false, need one of auto, online", 'Quote it: "false".'),
        RECIPE + "logging: {wandb: {project: p, mode: false}}\n",
    ),
    Case(
        "method is no",
        ('method.type: got "no" (text), need one of full, freeze, lora, qlora.',),
        edited("type: lora", "type: no"),
    ),
    Case(
        "method mistyped",
        ('got "qlroa" (text)', "Did you mean qlora?"),
        edited("type: lora", "type: qlroa"),
    ),
    Case(
        "method adapter", ("adapter is not available yet",), edited("type: lora", "type: adapter")
    ),
    Case(
        "method without type",
        ("method.type: is missing; need one of full",),
        edited("  type: lora\n", ""),
    ),
    Case(
        "method is text",
        ('recipe.yaml:8: method: got "lora" (text), need a section.',),
        edited("method:\n  type: lora\n  rank: 8\n", "method: lora\n"),
    ),
    Case(
        "truth value is text",
        ('data.shuffle: got "no" (text), need true or false.', "Write false."),
        edited("  max_seq_len: 128", "  max_seq_len: 128\n  shuffle: no"),
    ),
    Case(
        "time is a number",
        ("cluster.time: got 45045, need minutes, hours:minutes:seconds", "Quote the time"),
        RECIPE + "  time: 45045\n",
    ),
    Case(
        "time out of range",
        ('cluster.time: got "99:99"', "hours:minutes:seconds"),
        RECIPE + "  time: '99:99'\n",
    ),
    Case(
        "seed 08",
        ('run.seed: got "08" (text), need an integer >= 0. Write 8.',),
        edited("  dir: runs", "  seed: 08"),
    ),
    Case(
        "python tag",
        ("recipe.yaml:2: tags are not allowed, got !!python/object/apply",),
        edited("demo", '!!python/object/apply:os.system ["touch pwned"]'),
    ),
    Case("alias bomb", ("expansion limit",), ALIAS_BOMB + RECIPE),
    Case("too deep", ("nested deeper than 32 levels",), "a: " + "[" * 60 + "]" * 60),
    Case("too large", ("at most 1,048,576 are read",), RECIPE + "#" * (1 << 20)),
    Case(
        "merge key",
        ("merge keys (<<) are not YAML 1.2.", "Use `extends`."),
        edited("  dir: runs", "  <<: {seed: 1}"),
    ),
    Case(
        "missing section",
        ("recipe.yaml:1: train: is missing; need a section.",),
        RECIPE[: RECIPE.index("train:\n")] + RECIPE[RECIPE.index("deepspeed:") :],
    ),
    Case(
        "missing key",
        ("recipe.yaml:15: train.global_batch_size: is missing; need an integer >= 1.",),
        edited("  global_batch_size: 24\n", ""),
    ),
    Case(
        "no training rows",
        ("data.train: got a list of 0, need a list of at least 1 sections",),
        edited("[{path: train.jsonl}]", "[]"),
    ),
    Case(
        "default sequence too long",
        ("max_seq_len 1024 (default) is more than the model's",),
        edited("  max_seq_len: 128\n", ""),
    ),
    Case(
        "name with a command",
        ('run.name: got "a$(rm -rf x)" (text), need letters',),
        edited("demo", '"a$(rm -rf x)"'),
    ),
    Case(
        "warm-up longer than the run",
        (
            "train.warmup_steps: warmup_steps 50 is not below the total of 20 steps.",
            "recipe.yaml:19",
        ),
        edited("num_epochs: 2", "max_steps: 20", edited("learning_rate: 1e-5", "warmup_steps: 50")),
    ),
    Case(
        "warm-up longer than the epochs",
        ("warmup_steps 50 is not below the total of 2 steps",),
        edited("learning_rate: 1e-5", "warmup_steps: 50"),
    ),
    Case(
        "warm-up given twice",
        ("warmup_steps 5 and warmup_ratio 0.1 are both given",),
        edited("learning_rate: 1e-5", "warmup_steps: 5\n  warmup_ratio: 0.1"),
    ),
    Case(
        "two lengths",
        ("train.max_steps: num_epochs 2 (recipe.yaml:16) and max_steps 9 both",),
        edited("learning_rate: 1e-5", "max_steps: 9"),
    ),
    Case(
        "no length",
        ("recipe.yaml:15: train.num_epochs: is missing; need num_epochs or max_steps",),
        edited("  num_epochs: 2\n", ""),
    ),
    Case(
        "micro batch 0",
        ("train.micro_batch_size: got 0, need an integer >= 1.",),
        edited("micro_batch_size: 4", "micro_batch_size: 0"),
    ),
    Case(
        "micro batch 2.5",
        ("train.micro_batch_size: got 2.5, need an integer >= 1.",),
        edited("micro_batch_size: 4", "micro_batch_size: 2.5"),
    ),
    Case(
        "micro batch auto",
        ("auto is not available yet: write the sequences that fit",),
        edited("micro_batch_size: 4", "micro_batch_size: auto"),
    ),
    Case(
        "geometry",
        (
            (
                "recipe.yaml:17: train.global_batch_size: global_batch_size 64 is not a "
                "multiple of 6 ranks x micro_batch_size 4 = 24; use 48 or 72"
            ),
        ),
        edited("global_batch_size: 24", "global_batch_size: 64"),
        processes=6,
    ),
    Case(
        "batch below one pass",
        ("not a multiple of 8 ranks x micro_batch_size 4 = 32; use 32",),
        processes=8,
    ),
    Case(
        "ranks and nodes",
        ("3 ranks don't divide evenly over 2 nodes. Use 2 or 4 ranks.",),
        RECIPE + "  num_nodes: 2\n",
        processes=3,
    ),
    Case(
        "early stopping blind",
        ("recipe.yaml:22: early_stopping: needs validation rows",),
        edited("  validation_fraction: 0.1\n", "") + "early_stopping: {patience: 2}\n",
    ),
    Case(
        "no chat template",
        (
            (
                "recipe.yaml:7: model.chat_template: none.jinja can't be read: "
                "No such file or directory. Correct the path; it is relative to "
            ),
        ),
        edited("  task: causal-lm\n", "  task: causal-lm\n  chat_template: none.jinja\n"),
    ),
    Case(
        "unknown metric",
        (
            (
                'early_stopping.monitor: got "validation/los", need one of '
                "validation/loss, validation/perplexity"
            ),
            "Did you mean validation/loss?",
        ),
        RECIPE + "early_stopping: {monitor: validation/los}\n",
    ),
    Case(
        "rank 0",
        ("recipe.yaml:10: method.rank: got 0, need an integer >= 1.",),
        edited("rank: 8", "rank: 0"),
    ),
    Case(
        "target matches nothing",
        ('method.target_modules: "q_prj" matches no weight matrix', "Nearest: q_proj"),
        edited("rank: 8", "target_modules: [q_prj]"),
    ),
    Case(
        "sequence too long",
        ("max_seq_len 4096 is more than the model's max_position_embeddings 256",),
        edited("max_seq_len: 128", "max_seq_len: 4096"),
    ),
    Case(
        "no such model folder",
        ("model.path: no such folder: ./nowhere.",),
        edited("path: model", "path: ./nowhere"),
    ),
    Case(
        "model folder without config",
        ("config.json is missing, so runs is not a model folder",),
        edited("path: model", "path: runs"),
    ),
    Case(
        "packing",
        ("data.packing: packing is not available yet.",),
        edited("max_seq_len: 128", "max_seq_len: 128\n  packing: true"),
    ),
    Case(
        "weight",
        ("data.train.0.weight: weight 0.5: mixtures are not available yet.",),
        edited("path: train.jsonl", "path: train.jsonl, weight: 0.5"),
    ),
    Case(
        "remote code without the flag",
        (
            "recipe.yaml:7: model.trust_remote_code: true, so the code in model would be run",
            "add --trust-remote-code to the command",
        ),
        edited("task: causal-lm", "task: causal-lm\n  trust_remote_code: true"),
    ),
    Case(
        "the flag without the recipe",
        ("--trust-remote-code: model.trust_remote_code: the recipe says false",),
        options=("--trust-remote-code",),
    ),
    Case(
        "remote code of a branch",
        ('model.revision: got "main"; code of a hub model needs the 40 hexadecimal digits',),
        edited("path: model", "path: a/b\n  revision: main\n  trust_remote_code: true"),
        options=("--trust-remote-code",),
    ),
    Case(
        "remote code of whatever is newest",
        ("recipe.yaml:4: model.revision: is missing; code of a hub model needs",),
        edited("path: model", "path: a/b\n  trust_remote_code: true"),
        options=("--trust-remote-code",),
    ),
    Case(
        "two validations",
        ("data.validation_fraction: data.validation is given too.",),
        edited("max_seq_len: 128", "max_seq_len: 128\n  validation: [{path: v.jsonl}]"),
    ),
    Case(
        "merge without adapter",
        ("export.merge: merge is for lora and qlora",),
        edited("type: lora\n  rank: 8", "type: full") + "export: {merge: true}\n",
    ),
    Case(
        "key in the recipe",
        (
            "recipe.yaml:23: logging.wandb.api_key: secret in a config file (value ****).",
            "set WANDB_API_KEY",
        ),
        RECIPE + f"logging: {{wandb: {{project: p, api_key: {WANDB_KEY}}}}}\n",
        absent=(WANDB_KEY,),
    ),
    Case(
        "token in a value",
        ("model.revision: secret in a config file", "HF_TOKEN"),
        edited("path: model", f"path: model\n  revision: {HF_TOKEN}"),
        absent=(HF_TOKEN,),
    ),
    Case(
        "token in an override",
        ("--set run.name=****: run.name: secret",),
        overrides=(f"run.name={HF_TOKEN}",),
        absent=(HF_TOKEN,),
    ),
    Case(
        "password in an address",
        ("data.train.0.path: secret in a config file",),
        edited("path: train.jsonl", 'path: "https://me:hunter2@host/x.jsonl"'),
        absent=("hunter2",),
    ),
    Case(
        "extends itself",
        ("extends: a recipe extends itself: recipe.yaml -> recipe.yaml",),
        "extends: recipe.yaml\n" + RECIPE,
    ),
    Case(
        "extends nothing",
        ("recipe.yaml:1: extends: no such recipe: base.yaml",),
        "extends: base.yaml\n" + RECIPE,
    ),
    Case(
        "override of an unknown key",
        ("--set train.lerning_rate=1: train.lerning_rate: unknown", "Did you mean learning_rate?"),
        overrides=("train.lerning_rate=1",),
    ),
    Case(
        "override of a wrong kind",
        ('--set run.seed=x: run.seed: got "x" (text), need an integer',),
        overrides=("run.seed=x",),
    ),
    Case(
        "override without value",
        ("--set: got 'run.seed', need key=value.",),
        overrides=("run.seed",),
    ),
    Case(
        "override past a list",
        ("data.train is a list of 1, so '3' is not one of its places",),
        overrides=("data.train.3.path=x",),
    ),
    Case("override inside a value", ("run.name is not a section",), overrides=("run.name.x=1",)),
    Case(
        "folder that is not ours",
        ("run.name: runs/taken is not empty and is not a run",),
        edited("demo", "taken"),
    ),
    Case(
        "folder of another recipe",
        (
            "recipe.yaml:19: train.learning_rate: 1e-05, but the run in runs/before has 2e-05.",
            "--allow-change train.learning_rate",
        ),
        edited("demo", "before"),
    ),
    Case(
        "change that can't be allowed",
        (
            "recipe.yaml:17: train.global_batch_size: 48, but the run in runs/before has 24",
            "can't change: rows are counted in steps of this size",
            "Restore it, or start a new run",
        ),
        edited("size: 24", "size: 48", edited("1e-5", "2e-5", edited("demo", "before"))),
        options=(
            "--allow-change",
            "train",
        ),
        absent=("--allow-change",),
    ),
    Case(
        "allowed without need",
        (
            "--allow-change: train.lerning_rate: does not differ from the run in runs/before.",
            "Did you mean train.learning_rate? These do: train.learning_rate.",
        ),
        edited("demo", "before"),
        options=(
            "--allow-change",
            "train.lerning_rate",
            "--allow-change",
            "train.learning_rate",
        ),
    ),
    Case(
        "allowed and nothing differs",
        ("--allow-change: train.eps: does not differ", "Nothing does: leave it out."),
        edited("1e-5", "2e-5", edited("demo", "before")),
        options=(
            "--allow-change",
            "train.eps",
        ),
    ),
    Case(
        "allowed for a new run",
        ("--allow-change: train: there is no run yet that could change.",),
        options=(
            "--allow-change",
            "train",
        ),
    ),
    Case(
        "read-only folder",
        (
            "run.dir: ",
            "locked (mode 0555) is read-only",
        ),
        edited("dir: runs", "dir: locked"),
    ),
    Case(
        "folder for everyone",
        ("open (mode 0777) is writable by everyone", "chmod o-w open"),
        edited("dir: runs", "dir: open"),
    ),
    Case(
        "DoRA on 8 bits",
        ("method.dora: dora does not work with quantization int8",),
        edited("type: lora\n", "type: qlora\n  quantization: int8\n  dora: true\n"),
    ),
]
