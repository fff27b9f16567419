"""The recipe as one frozen tree of pydantic models; every key is documented beneath itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
# What sbatch takes (https://slurm.schedmd.com/sbatch.html#OPT_time).
TIME_PATTERN = (
    r"^(UNLIMITED|[0-9]{1,9}(:[0-5]?[0-9]){0,2}"
    r"|[0-9]{1,6}-([01]?[0-9]|2[0-3])(:[0-5]?[0-9]){0,2})$"
)
PATH_PATTERN = r"^[^\x00-\x1f\x7f]{1,4095}$"

# They end up in a job script: what a name of a partition, account or quality of service looks like,
# or several after commas; and what sbatch takes as a constraint.
SLURM_NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.@+,-]{0,199}$"
SLURM_CONSTRAINT_PATTERN = r"^[A-Za-z0-9_(\[][A-Za-z0-9_.,:;=&|*()\[\]-]{0,199}$"

# Beyond these nothing is meant, and much breaks: generators of random numbers, sleeps, dates.
MOST_INT = 10**15
MOST_SECONDS = 31_536_000  # a year
MOST_HOURS = 87_600  # ten years
MOSTS = (MOST_INT, MOST_SECONDS, MOST_HOURS)

PositiveInt = Annotated[int, Field(ge=1, le=MOST_INT, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST_INT, strict=True)]
Finite = Field(allow_inf_nan=False)
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS, allow_inf_nan=False)]
Hours = Annotated[float, Field(gt=0, le=MOST_HOURS, allow_inf_nan=False)]
PathText = Annotated[str, Field(pattern=PATH_PATTERN)]
SlurmName = Annotated[str, Field(pattern=SLURM_NAME_PATTERN)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]

TaskName = Literal["causal-lm", "sequence-classification"]
Dtype = Literal["bfloat16", "float16", "float32"]
Schedule = Literal["linear", "cosine", "constant", "wsd"]


class Section(BaseModel):
    """What all sections share: unknown keys are errors, values can't change.

    The text beneath a key is its documentation; `json_schema` collects it when it is asked for, as
    pydantic's own option to do so would double the time of every command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class RunSection(Section):
    """Identity of the run."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Folder under `run.dir` and name of the wandb run and the Slurm job."""
    seed: NonNegativeInt = 42
    """Seed of the sample order, of new weights (heads, adapters) and of dropout."""
    dir: PathText = "runs"
    """Folder that holds run folders; relative to where the command is run."""
    max_hours: Hours | None = None
    """Wall-clock limit of one launch: it stops in time to save, and the same command resumes."""
    max_restarts: NonNegativeInt = 3
    """Automatic restarts of one launch on this machine, each from a verified checkpoint."""
    timeout_seconds: Seconds = 1800.0
    """The one timeout: how long a rank may make no progress, and a collective wait for a rank."""
    grace_seconds: Seconds | None = None
    """Time between a stop signal and the kill, where the cluster sets it; warns when too short."""


class ModelSection(Section):
    """The base model."""

    path: PathText
    """A folder with `config.json` and safetensors, or a hub name."""
    revision: str | None = None
    """Commit, tag or branch of a hub model."""
    task: TaskName
    """What the model is trained to do."""
    dtype: Dtype = "bfloat16"
    """Precision of weights and compute; the optimizer keeps float32 masters under bf16 and fp16."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation; `auto` lets transformers choose."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant): less memory, more compute."""
    tokenizer: PathText | None = None
    """Folder or hub name of the tokenizer, if it isn't the model's."""
    chat_template: PathText | None = None
    """File with a Jinja chat template that replaces the tokenizer's."""
    add_tokens: tuple[str, ...] = ()
    """Tokens to add to the vocabulary; the embeddings grow when they don't fit."""
    labels: tuple[str, ...] | None = None
    """Class names in order, for classification; read from the training data when absent."""
    trust_remote_code: bool = False
    """Run the code inside the model's folder; the command has to say --trust-remote-code too."""


class FullMethod(Section):
    """Every parameter is trained."""

    type: Literal["full"]
    """Every parameter is trained."""


class FreezeMethod(Section):
    """The backbone is frozen; only what `trainable` names is trained."""

    type: Literal["freeze"]
    """Only the head, or what `trainable` names, is trained."""
    trainable: tuple[str, ...] | None = None
    """Shell-style patterns of parameter names to train; absent: the task's head."""


class LoraMethod(Section):
    """Low-rank adapters on a frozen base (Hu et al. 2021, arXiv 2106.09685)."""

    type: Literal["lora"]
    """Low-rank adapters on a frozen base."""
    rank: PositiveInt = 16
    """Inner dimension of the adapters (`r` in peft)."""
    alpha: PositiveFloat = 32
    """Scale: the update is multiplied by alpha / rank (alpha / sqrt(rank) with `rslora`)."""
    dropout: Fraction = 0.0
    """Dropout in front of the adapters."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: `all-linear`, or names as peft matches them."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full beside the adapters; a new classification head always is."""
    dora: bool = False
    """Weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353)."""
    rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732)."""


class QloraMethod(LoraMethod):
    """LoRA on a base quantised by bitsandbytes (Dettmers et al. 2023, arXiv 2305.14314)."""

    type: Literal["qlora"]  # type: ignore[assignment]
    """Low-rank adapters on a frozen, quantised base."""
    quantization: Literal["nf4", "fp4", "int8"] = "nf4"
    """Storage of the frozen base weights."""
    double_quantization: bool = True
    """Quantise the quantisation constants too (4-bit only)."""


Method = Annotated[
    FullMethod | FreezeMethod | LoraMethod | QloraMethod, Field(discriminator="type")
]


class Source(Section):
    """One place that rows come from."""

    path: PathText
    """JSONL, CSV, Parquet or text file, a glob of them, or the hub name of a data set."""
    split: str = "train"
    """Split of a hub data set; files have none."""
    subset: str | None = None
    """Configuration of a hub data set."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Share in a mixture; only 1.0 for now: every row is used once an epoch."""


class Columns(Section):
    """Names of the columns, where they aren't the usual ones."""

    text: str = "text"
    """Plain text, or the text to classify."""
    label: str = "label"
    """Class of a row."""
    prompt: str = "prompt"
    """What the model is given; no loss."""
    completion: str = "completion"
    """What the model shall answer; loss."""
    messages: str = "messages"
    """Chat turns: a list of {role, content}."""


class DataSection(Section):
    """What is trained on and what is measured on."""

    train: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Training rows."""
    validation: tuple[Source, ...] = ()
    """Validation rows."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    """Share of the training rows held out instead, chosen by `run.seed`."""
    columns: Columns = Columns()
    """Column names; which of them exist decides the format of a row."""
    max_seq_len: PositiveInt = 1024
    """Longest row in tokens."""
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    """What happens to a longer row; the counts stand in the data report."""
    bad_rows: Literal["error", "skip"] = "error"
    """What happens to a row that can't be read or used; the data report counts what is skipped."""
    shuffle: bool = True
    """False keeps the order of the files in every epoch."""
    length_grouping: bool = True
    """Batch rows of similar length together (within shuffled chunks): less padding."""
    packing: bool = False
    """Several rows in one sequence; not available yet."""
    cache_dir: PathText = ".launcher-cache"
    """Folder of tokenised data, keyed by content and settings; shared by all runs."""


class TrainSection(Section):
    """How the weights move."""

    num_epochs: Annotated[float, Field(gt=0, le=MOST_INT, allow_inf_nan=False)] | None = None
    """Passes over the training rows; this or `max_steps`."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; this or `num_epochs`."""
    global_batch_size: PositiveInt
    """Sequences per optimizer step, on any number of ranks."""
    micro_batch_size: PositiveInt
    """Sequences per rank per forward pass."""
    learning_rate: PositiveFloat | None = None
    """Peak rate; absent: full 2e-5, lora and qlora 2e-4, freeze 1e-3."""
    schedule: Schedule = "linear"
    """Shape after warm-up: linear or cosine to the minimum, constant, or warm-up-stable-decay."""
    warmup_steps: NonNegativeInt | None = None
    """Steps of linear warm-up; this or `warmup_ratio`."""
    warmup_ratio: Fraction | None = None
    """Warm-up as a share of all steps; default 0.03 when neither is given."""
    decay_ratio: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.2
    """Share of all steps in the final decay of `wsd`."""
    min_learning_rate_ratio: Fraction = 0.0
    """Rate at the end as a share of the peak."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled decay; never on biases and norms."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Global gradient norm above which gradients are scaled down; 0: no clipping."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW of torch (fused where it can be), or bitsandbytes' with 8-bit moments."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the two moments."""
    eps: PositiveFloat = 1e-8
    """Term added to the denominator."""
    zero_gradients: Literal["error", "warn"] = "error"
    """What happens when a trainable tensor got no gradient by the second step."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What happens at a loss or gradient that is NaN or infinite: stop, or leave out the update."""
    max_skipped_steps: PositiveInt = 20
    """Updates left out in a row before the run stops."""


class EvaluateSection(Section):
    """When and how the validation rows are measured: always at the start and at the end."""

    every_steps: PositiveInt | None = None
    """Interval in optimizer steps; absent: at the end of each epoch."""
    micro_batch_size: PositiveInt | None = None
    """Sequences per rank per forward pass; absent: as in training."""


class EarlyStoppingSection(Section):
    """Stop when a metric has not improved for `patience` evaluations in a row."""

    monitor: str = "validation/loss"
    """Metric that decides; also decides which checkpoint is the best."""
    patience: PositiveInt = 3
    """Evaluations without improvement before the run stops."""
    min_delta: NonNegativeFloat = 0.0
    """Change that counts as improvement, in the metric's unit."""


class CheckpointSection(Section):
    """When the whole state is saved and what is kept."""

    every_steps: PositiveInt | None = None
    """Interval in optimizer steps; absent: at the end of each epoch. Always at the end."""
    keep_last: Annotated[int, Field(ge=1, strict=True)] = 2
    """Newest checkpoints kept."""
    keep_best: bool = True
    """Also save at, and keep, the best evaluation."""
    if_save_fails: Literal["continue", "stop"] = "continue"
    """What happens when a checkpoint can't be written (a full disk): go on to the next, or stop."""
    asynchronous: bool = True
    """Write behind training; false: the step waits for the disk."""


class ExportSection(Section):
    """What is written for others when the run ends."""

    weights: Literal["best", "last"] = "best"
    """Which checkpoint; `best` is the last one where nothing is validated."""
    merge: bool = False
    """Fold adapters into the unquantised base weights."""


class WandbSection(Section):
    """Weights & Biases."""

    project: str
    """Project name."""
    entity: str | None = None
    """User or team."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto`: online with a key in the environment, else offline."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""


class LoggingSection(Section):
    """Records of the run; `metrics.jsonl` is always written."""

    every_steps: PositiveInt = 1
    """Interval of training records in optimizer steps."""
    wandb: WandbSection | None = None
    """Absent: no wandb."""


class ClusterSection(Section):
    """What the run is carried by."""

    num_nodes: PositiveInt = 1
    """Machines."""
    gpus_per_node: PositiveInt | None = None
    """Ranks per node; absent: the GPUs of this machine, else `cpu_ranks`."""
    cpu_ranks: PositiveInt = 1
    """Ranks on a machine without a GPU."""
    time: Annotated[str, Field(pattern=TIME_PATTERN)] | None = None
    """Time that the run needs in Slurm, as sbatch reads it; quote it. More than the partition gives
    one job becomes several, one after another."""
    partition: SlurmName | None = None
    """Slurm partition, or several after commas; absent: the site file's, else Slurm's default."""
    account: SlurmName | None = None
    """Slurm account that pays for the job."""
    qos: SlurmName | None = None
    """Slurm's quality of service."""
    constraint: Annotated[str, Field(pattern=SLURM_CONSTRAINT_PATTERN)] | None = None
    """Features that nodes must have, as sbatch reads them, such as `a100&ib`."""


class Recipe(Section):
    """One fine-tuning run, completely."""

    run: RunSection
    model: ModelSection
    method: Method
    """What is trained: full, freeze, lora or qlora, by `type`."""
    data: DataSection
    train: TrainSection
    evaluate: EvaluateSection = EvaluateSection()
    early_stopping: EarlyStoppingSection | None = None
    """Absent: the run goes on to its last step."""
    checkpoint: CheckpointSection = CheckpointSection()
    export: ExportSection = ExportSection()
    logging: LoggingSection = LoggingSection()
    deepspeed: PathText
    """DeepSpeed config: a JSON file, or the name of a shipped one (`zero2`)."""
    cluster: ClusterSection = ClusterSection()
