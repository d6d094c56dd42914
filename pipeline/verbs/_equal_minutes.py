"""The same minutes of training for every loss: each is timed first, and the number of its steps follows from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.comparison import BASELINE
from pipeline.settings import loss_mixture
from pipeline.settings.params import Params
from pipeline.training.settings import updates, without_labels
from pipeline.verbs import _experiments

#: Steps of a training that is timed. The first ten do not count (training.costs). On a GPU the loss is read every 20
#: steps, and the median is then one of the later reads.
TIMED = 60
#: Params by dotted key.
Changes = dict[str, Any]


def lengths(settings: Params, *, images: int) -> tuple[float | None, dict[str, Changes]]:
    """Minutes of training per run (None: all have the steps of ``distill``), and the changed params of each loss.

    With fewer or more steps than in ``distill``, warm-up and validations keep their share of the training.

    Args:
        images: number of train images, which converts epochs to steps.

    Raises:
        UserError: a training that is timed fails.
    """
    chosen, recipe = settings.compare, settings.distill
    if chosen.budget == "steps":
        return None, {name: {} for name in chosen.losses}
    frames = recipe.unlabelled
    unlabelled = without_labels(recipe.batch_size, share=frames.share) if frames.sources else 0
    steps = updates(recipe, images, unlabelled=unlabelled)
    minutes, by_loss = equal_minutes(settings, seconds_per_step(settings), steps=steps)
    validations = max(1, steps // recipe.validate_every)
    return minutes, {
        name: _length(settings, count, validations=validations, warmup=round(recipe.warmup * count / steps))
        for name, count in by_loss.items()
    }


def seconds_per_step(settings: Params) -> dict[str, float]:
    """The time of a training step on this machine by loss, each from a short training, one after another."""
    chosen = settings.compare
    student, seed = chosen.student, chosen.seeds[0]
    seconds: dict[str, float] = {}
    for name, loss in chosen.losses.items():
        changed = {f"students.{student}.loss": loss, "distill.seed": seed, **_length(settings, TIMED, validations=1)}
        commit, timed = _experiments.run(f"compare-{name}-time", target=f"distill@{student}", params=changed)
        costs = _experiments.read(commit, f"artifacts/costs/{student}.json")
        seconds[name] = costs["seconds_per_step"]
        how = f"over {TIMED} steps" if timed else "from the run cache"
        print(f"{name}: {1000 * seconds[name]:.1f} ms per step ({how})", flush=True)
    return seconds


def equal_minutes(settings: Params, seconds: Mapping[str, float], *, steps: int) -> tuple[float, dict[str, int]]:
    """Minutes of training per run, and the steps of each loss in this time.

    Args:
        seconds: of a step, by loss.
        steps: of ``distill``. Without ``compare.minutes``, ``none`` (else the first loss) trains for so many.
    """
    chosen = settings.compare
    mixtures = {name: loss_mixture.resolve(loss, settings.losses) for name, loss in chosen.losses.items()}
    first = next((name for name, mixture in mixtures.items() if list(mixture) == [BASELINE]), next(iter(mixtures)))
    minutes = chosen.minutes or steps * seconds[first] / 60
    return minutes, {name: max(1, round(60 * minutes / each)) for name, each in seconds.items()}


def _length(settings: Params, steps: int, *, validations: int, warmup: int | None = None) -> Changes:
    """Params of a training with another number of steps."""
    recipe = settings.distill
    return {
        "distill.steps": steps,
        **({} if recipe.epochs is None else {"distill.epochs": None}),
        "distill.validate_every": -(-steps // validations),
        "distill.warmup": recipe.warmup if warmup is None else warmup,
    }
