"""README.md of an export: what it is, how it came about, how it does, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launcher.checkpoint.describe import Description
from launcher.escape import as_code_span, for_markdown, quoted
from launcher.files.lines import read_lines
from launcher.files.read import real
from launcher.files.write import replace_text
from launcher.recipe.schema import LoraMethod, Recipe
from launcher.run_dir import RunDir

TEMPLATE = "model_card.md.jinja"
METHOD_WORDS = {
    "full": "full fine-tuning: every weight was trained",
    "freeze": "feature extraction: the backbone is the base model's, only a part was trained",
    "lora": "LoRA: low-rank adapters on a frozen base",
    "qlora": "QLoRA: low-rank adapters on a frozen base that was quantised during training",
}
SUFFIXES = {
    "causal-lm": ("AutoModelForCausalLM", "text-generation"),
    "sequence-classification": ("AutoModelForSequenceClassification", "text-classification"),
}


@dataclass(frozen=True)
class Card:
    """What the card says beyond recipe and description."""

    kind: str
    """`full`, `adapter` or `merged`."""
    step: int
    metrics: Mapping[str, float]
    checked: str


def write_card(folder: Path, recipe: Recipe, description: Description, card: Card) -> None:
    """Render README.md; paths of this machine never stand in it, only names."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown, not HTML
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": lambda value: for_markdown(str(value)), "quoted": quoted}
    auto_class, pipeline = SUFFIXES[recipe.model.task]
    text = environment.get_template(TEMPLATE).render(
        title=recipe.run.name,
        base_model=base_name(recipe),
        library="peft" if card.kind == "adapter" else "transformers",
        pipeline=pipeline,
        tags=[recipe.model.task, recipe.method.type, "deepspeed", "shardlaunch"],
        what=_what(recipe, card),
        code=_code(recipe, description, card, auto_class),
        settings=_settings(recipe),
        metrics=[(name, f"{value:.6g}") for name, value in sorted(card.metrics.items())],
        step=card.step,
        labels=", ".join(
            f"{i}: {for_markdown(label)}" for i, label in _labels(recipe, description)
        ),
        checked=card.checked,
    )
    replace_text(folder / "README.md", text, 0o644)


def metrics_at(run_dir: RunDir, step: int) -> dict[str, float]:
    """Return the validation metrics recorded at a step; empty where nothing was validated."""
    metrics: dict[str, float] = {}
    for record in read_lines(run_dir.metrics).records:
        if record.integer("step") == step:
            found = {name: record.number(name) for name in record if name.startswith("validation/")}
            metrics |= {name: value for name, value in found.items() if value is not None}
    return metrics


def base_name(recipe: Recipe) -> str:
    """Return the hub name of the base model, or the name of its folder without the path to it."""
    path = Path(recipe.model.path).expanduser()
    return real(path).name if path.is_dir() else recipe.model.path


def data_name(path: str) -> str:
    """Return a data set's hub name, or its file's name without the path to it."""
    hub_like = path.count("/") == 1 and not Path(path).suffix and not Path(path).exists()
    return path if hub_like and not path.startswith((".", "/", "~")) else Path(path).name


def _labels(recipe: Recipe, description: Description) -> list[tuple[int, str]]:
    if recipe.model.task != "sequence-classification":
        return []
    classes = description.config.id2label or {}
    return sorted((int(i), str(label)) for i, label in classes.items())


def _what(recipe: Recipe, card: Card) -> str:
    base = base_name(recipe)
    data = ", ".join(for_markdown(data_name(source.path)) for source in recipe.data.train)
    words = METHOD_WORDS[recipe.method.type]
    first = f"{as_code_span(base)}, tuned for {recipe.model.task} on {data} by {words}."
    if card.kind == "adapter":
        return f"{first} This folder holds the adapter alone; it needs the base model."
    if card.kind == "merged":
        return (
            f"{first} The adapter is folded into the unquantised base, each layer in float32 and "
            f"then stored as {recipe.model.dtype}."
        )
    return first


def _code(recipe: Recipe, description: Description, card: Card, auto_class: str) -> str:
    if card.kind != "adapter":
        return (
            f"from transformers import AutoTokenizer, {auto_class}\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
            f'model = {auto_class}.from_pretrained("path/to/this/folder", dtype="auto")'
        )
    arguments = f'{quoted(base_name(recipe))}, dtype="{recipe.model.dtype}"'
    if recipe.model.task == "sequence-classification":
        arguments += f", num_labels={description.config.num_labels}"
    resize = "base.resize_token_embeddings(len(tokenizer))\n" if recipe.model.add_tokens else ""
    return (
        "from peft import PeftModel\n"
        f"from transformers import AutoTokenizer, {auto_class}\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
        f"base = {auto_class}.from_pretrained({arguments})\n"
        f"{resize}"
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")'
    )


def _settings(recipe: Recipe) -> list[tuple[str, object]]:
    train, method = recipe.train, recipe.method
    rows: list[tuple[str, object]] = [("method", method.type)]
    if isinstance(method, LoraMethod):
        shown = method.model_dump(exclude={"type"})
        rows += [(name, _cell(value)) for name, value in shown.items() if value not in ((), False)]
    rows += [
        ("seed", recipe.run.seed),
        ("dtype", recipe.model.dtype),
        ("learning rate", train.learning_rate),
        ("schedule", train.schedule),
        ("global batch size", train.global_batch_size),
        ("weight decay", train.weight_decay),
        ("max gradient norm", train.max_grad_norm),
        ("optimizer", train.optimizer),
        ("max sequence length", recipe.data.max_seq_len),
    ]
    return rows


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
