"""A model folder that brings code along, which leaves a trace wherever it is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CONFIGURATION = """\
from transformers import BertConfig

with open({marker!r}, "a") as marker:
    marker.write("configuration\\n")


class TracedConfig(BertConfig):
    model_type = "traced-bert"
"""
MODELING = """\
from transformers import BertForSequenceClassification

from .configuration_traced import TracedConfig

with open({marker!r}, "a") as marker:
    marker.write("modeling\\n")


class TracedForSequenceClassification(BertForSequenceClassification):
    config_class = TracedConfig
"""
TOKENIZATION = """\
from transformers import BertTokenizer

with open({marker!r}, "a") as marker:
    marker.write("tokenization\\n")


class TracedTokenizer(BertTokenizer):
    pass
"""


def with_code(source: Path, folder: Path, marker: Path, *, tokenizer: bool = False) -> Path:
    """Copy a BERT model and give it classes of its own; importing any of them writes `marker`.

    `tokenizer`: its tokenizer is one of those classes as well.
    """
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "traced-bert",
        "architectures": ["TracedForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "configuration_traced.TracedConfig",
            "AutoModelForSequenceClassification": (
                "modeling_traced.TracedForSequenceClassification"
            ),
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    codes = {"configuration": CONFIGURATION, "modeling": MODELING}
    if tokenizer:
        codes["tokenization"] = TOKENIZATION
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        settings |= {
            "tokenizer_class": "TracedTokenizer",
            "auto_map": {"AutoTokenizer": [None, "tokenization_traced.TracedTokenizer"]},
        }
        path.write_text(json.dumps(settings))
    for name, code in codes.items():
        text = code.format(marker=str(marker))
        (folder / f"{name}_traced.py").write_text(text)
    return folder
