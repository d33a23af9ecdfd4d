"""The training curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def draw_curve(rows: Sequence[dict[str, float]], title: str, file: Path) -> None:
    """Losses on the left axis (nats a label), the task's own metric on the right one, over updates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(7, 4))
    for key, label in (("train_loss", "training loss (smoothed)"), ("valid_loss", "validation loss")):
        left.plot([row["update"] for row in rows], [row[key] for row in rows], label=label)
    left.set(xlabel="updates", ylabel="nats per label", title=title)
    left.legend(loc="upper left")
    for key, label in (("valid_bleu", "validation BLEU, greedy"), ("valid_accuracy", "validation accuracy, %")):
        points = [(row["update"], row[key]) for row in rows if key in row]
        if points:
            right = left.twinx()
            right.plot(*zip(*points, strict=True), "k.--", label=label)
            right.set_ylabel(label)
            right.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
