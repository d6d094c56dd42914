"""The same minutes of training for every loss: each is timed first, and the number of its steps follows from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.reporting.comparison import BASELINE
from pipeline.settings import loss_mixture
from pipeline.settings.params import Params
from pipeline.training.settings import updates, without_labels
from pipeline.verbs import _experiments

#: Steps of a training that is timed. The first ten do not count (training.costs). On a GPU the loss is read every 20
#: steps, and the median is then one of the later reads.
TIMED = 60
#: Highest ratio of the time of a step in a run and in the timing, or its inverse, without a warning.
STRAYED = 1.15
#: Params by dotted key.
Changes = dict[str, Any]


def lengths(settings: Params, *, images: int) -> tuple[float | None, dict[str, Changes], dict[str, float]]:
    """Minutes of training per run (None: all have the same steps), the changed params of each loss, and the seconds of
    its steps, where they were timed.

    With fewer or more steps than in ``distill``, warm-up and validations keep their share of the training.

    Args:
        images: number of train images with labels, which converts epochs to steps. With frames without labels an epoch
            may have other steps for ``none``, which then takes the steps of the others.

    Raises:
        UserError: a training that is timed fails, or the minutes end before the first step of a loss.
    """
    chosen, recipe = settings.compare, settings.distill
    frames = without_labels(recipe.batch_size, share=recipe.unlabelled.share) if recipe.unlabelled.sources else 0
    steps = updates(recipe, images, unlabelled=frames)
    if chosen.budget == "steps":
        stated: Changes = {} if recipe.epochs is None else {"distill.steps": steps, "distill.epochs": None}
        return None, dict.fromkeys(chosen.losses, stated), {}
    seconds, before = seconds_per_step(settings)
    minutes, by_loss = equal_minutes(settings, seconds, before=before, steps=steps)
    validations = max(1, steps // recipe.validate_every)
    changes = {
        name: length_of(settings, count, validations=validations, warmup=round(recipe.warmup * count / steps))
        for name, count in by_loss.items()
    }
    return minutes, changes, seconds


def seconds_per_step(settings: Params) -> tuple[dict[str, float], dict[str, float]]:
    """The time of a training step on this machine by loss, each from a short training, one after another; and the time
    before the first step in which the teacher sees whole frames (``distill.teaching.cached``)."""
    chosen = settings.compare
    student, seed = chosen.student, chosen.seeds[0]
    seconds: dict[str, float] = {}
    before: dict[str, float] = {}
    for name, loss in chosen.losses.items():
        changed = {
            f"students.{student}.loss": loss, "distill.seed": seed, **length_of(settings, TIMED, validations=1),
            **_without_other_trainings(settings),
        }  # fmt: skip
        commit, timed = _experiments.run(f"compare-{name}-time", target=f"distill@{student}", params=changed)
        costs = _experiments.read(commit, f"artifacts/costs/{student}.json")
        seconds[name], before[name] = costs["seconds_per_step"], costs["cached_seconds"]
        how = f"over {TIMED} steps" if timed else "from the run cache"
        print(f"{name}: {1000 * seconds[name]:.1f} ms per step ({how})", flush=True)
    return seconds, before


def equal_minutes(
    settings: Params, seconds: Mapping[str, float], *, before: Mapping[str, float], steps: int
) -> tuple[float, dict[str, int]]:
    """Minutes of training per run, and the steps of each loss in this time.

    Args:
        seconds: of a step, by loss.
        before: seconds before the first step of the first round, by loss.
        steps: of ``distill``. Without ``compare.minutes``, ``none`` (else the first loss) trains for so many.

    Raises:
        UserError: the minutes of a loss end before its first step.
    """
    chosen = settings.compare
    mixtures = {name: loss_mixture.resolve(loss, settings.losses) for name, loss in chosen.losses.items()}
    first = next((name for name, mixture in mixtures.items() if list(mixture) == [BASELINE]), next(iter(mixtures)))
    rounds = _rounds(settings)
    minutes = chosen.minutes or (before[first] + rounds * steps * seconds[first]) / 60
    left = {name: 60 * minutes - before[name] for name in seconds}
    if late := [f"{name} {before[name] / 60:.2f}" for name in seconds if left[name] <= 0]:
        raise UserError(
            f"compare.minutes: the teacher sees whole frames before the first step (distill.teaching.cached), and for "
            f"some losses this takes all of the {minutes:.2f} minutes: {', '.join(late)} minutes; raise "
            "compare.minutes, or set distill.teaching.cached: false"
        )
    return minutes, {name: max(1, round(left[name] / (rounds * each))) for name, each in seconds.items()}


#: What `compare` says of a run that strayed.
TIME_AGAIN = "put another seed first in compare.seeds to time all losses again"


def strayed(seconds: float, *, timed: float, advice: str = TIME_AGAIN) -> str:
    """A warning if a step of a run took another time than in the timing, which may be of another machine; else empty.

    Args:
        seconds: of a step of the run.
        timed: seconds of a step in the timing.
        advice: how all losses are timed again.
    """
    if timed / STRAYED <= seconds <= timed * STRAYED:
        return ""
    return (
        f"a step took {1000 * seconds:.1f} ms, and {1000 * timed:.1f} ms when its loss was timed: that was on another "
        f"machine, or beside other work; {advice}"
    )


def _rounds(settings: Params) -> int:
    """Trainings of a run that has frames without labels; each has all steps."""
    return settings.distill.unlabelled.rounds if settings.distill.unlabelled.sources else 1


def length_of(settings: Params, steps: int, *, validations: int, warmup: int | None = None) -> Changes:
    """Params of a training with another number of steps."""
    recipe = settings.distill
    return {
        "distill.steps": steps,
        **({} if recipe.epochs is None else {"distill.epochs": None}),
        "distill.validate_every": -(-steps // validations),
        "distill.warmup": recipe.warmup if warmup is None else warmup,
    }


def _without_other_trainings(settings: Params) -> Changes:
    """Params that leave out stage 0 and all rounds but one, which say nothing about the time of a step."""
    changes: Changes = {}
    if settings.distill.stage0.steps:
        changes["distill.stage0.steps"] = 0
    if settings.distill.unlabelled.rounds > 1:
        changes["distill.unlabelled.rounds"] = 1
    return changes
