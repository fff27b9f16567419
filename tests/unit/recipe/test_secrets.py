"""Secrets are found by shape and by name, ordinary values are not, and none is ever printed."""

from __future__ import annotations

import pytest

from launcher.recipe.read_yaml import parse_yaml
from launcher.recipe.secrets import find_secrets, is_secret, redact

HEX_40 = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.path", "hf_abcdefghijklmnopqrstuvwxyz"),
        ("run.name", "sk-proj-abcdefghijklmnopqrst"),
        ("run.name", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
        ("run.name", "AKIAIOSFODNN7EXAMPLE"),
        ("logging.wandb.project", HEX_40),
        ("logging.wandb.api_key", "short"),
        ("model.token", "x"),
        ("data.password", "x"),
        ("data.train.0.path", "https://user:secret@example.org/rows.jsonl"),
    ],
)
def test_a_secret(key: str, value: str) -> None:
    assert is_secret(tuple(key.split(".")), value)
    problems = find_secrets(parse_yaml(f"x: {{{key.split('.')[-1]}: '{value}'}}", "f"))
    assert len(problems) == 1
    assert len(value) < 6 or value not in str(problems[0][1])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.revision", HEX_40),
        ("model.add_tokens.0", "<|im_start|>"),
        ("model.tokenizer", "org/tokenizer"),
        ("model.path", "task-oriented/model-that-has-a-long-name"),
        ("data.train.0.path", "https://example.org:8080/a@b.jsonl"),
        ("run.seed", 42),
        ("logging.wandb.api_key", None),
    ],
)
def test_no_secret(key: str, value: object) -> None:
    assert not is_secret(tuple(key.split(".")), value)


def test_redacting_keeps_the_rest() -> None:
    text = "use hf_abcdefghijklmnopqrstuvwxyz at https://me:pw@host/x"
    assert redact(text) == "use **** at https://****@host/x"
