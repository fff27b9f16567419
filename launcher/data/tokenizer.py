"""The one place that loads a tokenizer, with what the recipe adds to it."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jinja2
import tokenizers
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from launcher.errors import InputError, Problem
from launcher.files.read import read_text, sha256_of, why_unreadable
from launcher.recipe.model_folder import require_readable
from launcher.recipe.schema import ModelSection


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer as a run uses it."""

    tokenizer: PreTrainedTokenizerBase
    digest: str
    """Digest of everything that decides its tokens: vocabulary, rules, template, versions."""
    notes: tuple[str, ...]
    """What was decided for the user."""


def load_tokenizer(model: ModelSection, *, download: bool) -> LoadedTokenizer:
    """Load `model.tokenizer` or the model's own, with its code only where the recipe trusts it.

    Without `download` a hub name is looked up in the local cache alone. Raises `InputError` where
    there is none, or the chat template can't be used.
    """
    path = model.tokenizer or model.path
    key = "model.tokenizer" if model.tokenizer else "model.path"
    if Path(path).expanduser().is_dir():
        require_readable(Path(path).expanduser(), path, key)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path,
            # a revision names a state of the model's repository, not of another one
            revision=None if model.tokenizer else model.revision,
            # nor does it pin one, so code of a tokenizer with a hub name of its own is never run
            trust_remote_code=model.trust_remote_code
            and (model.tokenizer is None or Path(path).expanduser().is_dir()),
            local_files_only=not download,
        )
    except Exception as error:  # libraries raise whatever an odd value leads to
        lines = str(error).strip().splitlines() or [type(error).__name__]
        cure = "Name a folder with tokenizer.json and tokenizer_config.json."
        raise InputError(Problem(path, key, f"no usable tokenizer: {lines[0]}", cure)) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # transformers makes one of special tokens alone where it finds no vocabulary file.
        message = "the tokenizer knows no word: its vocabulary file is missing."
        cure = "Name a folder with tokenizer.json and tokenizer_config.json."
        raise InputError(Problem(path, key, message, cure))
    for how_it_was_loaded in ("local_files_only", "is_local"):
        tokenizer.init_kwargs.pop(how_it_was_loaded, None)  # it would be saved as a trait of it
    if model.chat_template is not None:
        tokenizer.chat_template = _read_template(model.chat_template)
    if model.add_tokens:
        tokenizer.add_tokens(list(model.add_tokens))
    notes = _choose_pad_token(tokenizer, path)
    return LoadedTokenizer(tokenizer, _digest(tokenizer), notes)


def _read_template(file: str) -> str:
    key = "model.chat_template"
    try:
        template = read_text(Path(file).expanduser())
        # compile it now: else a slip in it is reported once per row
        render_jinja_template(conversations=[], chat_template=template)
    except jinja2.TemplateSyntaxError as error:
        message = f"not a Jinja template: {error.message}."
        raise InputError(Problem(f"{file}:{error.lineno}", key, message)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(file, key, f"{why_unreadable(error)}.")) from error
    return template


def _choose_pad_token(tokenizer: PreTrainedTokenizerBase, path: str) -> tuple[str, ...]:
    """Use eos where there is no pad token: harmless, because masks never come from token ids."""
    if tokenizer.pad_token_id is not None:
        return ()
    if tokenizer.eos_token is None:
        message = "the tokenizer has neither a pad nor an eos token."
        cure = "Set pad_token in its tokenizer_config.json."
        raise InputError(Problem(path, "model.tokenizer", message, cure))
    tokenizer.pad_token = tokenizer.eos_token
    note = (
        f"The tokenizer has no pad token, so {tokenizer.eos_token!r} pads; padding has no loss "
        "whatever its id, and the end of a row keeps its loss."
    )
    return (note,)


def _digest(tokenizer: PreTrainedTokenizerBase) -> str:
    # What it saves is what it is, for a folder and for a hub name alike.
    digest = hashlib.sha256(f"{transformers.__version__} {tokenizers.__version__}".encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
                digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()
