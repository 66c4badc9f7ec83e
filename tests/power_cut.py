"""A training that ends without warning."""

from __future__ import annotations

from peel4d.engine.train import trainer


class PowerCut(Exception):
    pass


def cut_power(monkeypatch, step: int) -> None:
    """Let the training end in its step of this number, counted from now."""
    original, calls = trainer.picture_loss, []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == step:
            raise PowerCut
        return original(*arguments)

    monkeypatch.setattr(trainer, "picture_loss", cut)
