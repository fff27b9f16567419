"""What the command line allows beyond the recipe: said once by a person, never written down."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Consent:
    """The options that a person has to give for what is refused otherwise."""

    allow_change: tuple[str, ...] = ()
    """Recipe keys (sections too) in which a run may differ from how it was begun."""
    trust_checkpoint: bool = False
    """Resume from a run folder or checkpoint that belongs to another user."""
    trust_remote_code: bool = False
    """Run the code inside a model folder, where the recipe asks for it as well."""

    def options(self) -> list[str]:
        """Return the same as options of a command, for the processes that are started."""
        options = [part for key in self.allow_change for part in ("--allow-change", key)]
        options += ["--trust-checkpoint"] if self.trust_checkpoint else []
        return options + (["--trust-remote-code"] if self.trust_remote_code else [])

    @staticmethod
    def add_to(parser: argparse.ArgumentParser) -> None:
        """Let a parser read what `options` returns."""
        parser.add_argument("--allow-change", action="append", default=[], metavar="KEY")
        parser.add_argument("--trust-checkpoint", action="store_true")
        parser.add_argument("--trust-remote-code", action="store_true")

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Consent:
        """Return what a parser of `add_to` has read."""
        return cls(
            tuple(arguments.allow_change), arguments.trust_checkpoint, arguments.trust_remote_code
        )


NO_CONSENT = Consent()
