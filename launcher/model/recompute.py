"""Gradient checkpointing: activations recomputed in the backward pass, the one place it is set."""

from __future__ import annotations

from transformers import PreTrainedModel


def enable_gradient_checkpointing(model: PreTrainedModel, *, input_gradients: bool) -> None:
    """Turn on non-reentrant checkpointing; call it before adapters are added.

    Reentrant checkpointing silently trains nothing below the first block whose input needs no
    gradient (https://github.com/huggingface/peft/issues/1142). Non-reentrant doesn't need
    `input_gradients`; adapters get them too, so that a model that checkpoints by its own means
    still reaches its first layers. A frozen backbone doesn't: the backward pass would run through
    it for nothing.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if input_gradients:
        model.enable_input_require_grads()
