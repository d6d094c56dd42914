"""Crops and draws: the same for every number of workers, labels never mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from pipeline.prepared import Prepared
from pipeline.training import data

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def crops(prepared: Prepared, *, seed: int = 0, crop: tuple[int, int] = (64, 64)) -> data.Crops:
    transform = data.recipe(crop=crop, input_size=(64, 96), scale=(0.5, 2.0), labels=prepared.labels, **IMAGENET)
    return data.Crops(prepared.split("train"), transform, seed=seed)


def test_shapes_types_and_ids(prepared: Prepared) -> None:
    image, target = crops(prepared)[0, 0]
    assert image.shape == (3, 64, 64) and image.dtype == torch.float32
    assert target.shape == (64, 64) and target.dtype == torch.int64
    allowed = {*range(prepared.labels.num_classes), prepared.labels.ignore_index}
    assert set(torch.unique(target).tolist()) <= allowed


def test_without_augmentation_the_crop_is_the_frame(prepared: Prepared) -> None:
    transform = data.recipe(crop=(64, 96), input_size=(64, 96), scale=(1.0, 1.0), labels=prepared.labels, **IMAGENET)
    random = ("RandomHorizontalFlip", "RandomApply")
    transform.transforms = [t for t in transform.transforms if type(t).__name__ not in random]
    image, target = data.Crops(prepared.split("train"), transform, seed=0)[2, 0]
    frame, label = prepared.split("train")[2]
    expected = (frame[:, :, ::-1] / 255.0 - IMAGENET["mean"]) / IMAGENET["std"]
    np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), expected, atol=1e-5)
    np.testing.assert_array_equal(target.numpy(), label)


def test_scale_one_is_the_input_size_and_both_sides_cover() -> None:
    image = tv_tensors.Image(torch.zeros(3, 90, 160, dtype=torch.uint8))
    for scale, size in (((1.0, 1.0), (64, 114)), ((2.0, 2.0), (128, 228))):
        assert data.RandomScale(input_size=(64, 96), scale=scale)(image).shape[-2:] == size
    mask = tv_tensors.Mask(torch.tensor([[0, 5], [9, 255]], dtype=torch.uint8))
    grown = data.RandomScale(input_size=(7, 7), scale=(1.0, 1.0))(mask)
    assert set(torch.unique(grown).tolist()) == {0, 5, 9, 255}, "nearest: ids are never mixed"


def test_padding_is_ignored_in_the_target(prepared: Prepared) -> None:
    transform = data.recipe(crop=(96, 128), input_size=(64, 96), scale=(0.5, 0.5), labels=prepared.labels, **IMAGENET)
    image, target = data.Crops(prepared.split("train"), transform, seed=0)[0, 0]
    padded = target == prepared.labels.ignore_index
    assert padded.float().mean() > 0.7
    assert image[:, padded].abs().max() < 0.02 * 255 or image[:, padded].std() < 1.5


def test_workers_and_order_do_not_change_a_crop(prepared: Prepared) -> None:
    alone = [batch[0] for batch in data.batches(crops(prepared), steps=3, batch_size=4, workers=0, seed=1)]
    torch.manual_seed(99)
    with_workers = [batch[0] for batch in data.batches(crops(prepared), steps=3, batch_size=4, workers=2, seed=1)]
    assert all(torch.equal(a, b) for a, b in zip(alone, with_workers, strict=True))


def test_seed_and_draw_change_a_crop(prepared: Prepared) -> None:
    reference = crops(prepared)[0, 0][0]
    assert not torch.equal(reference, crops(prepared)[0, 1][0])
    assert not torch.equal(reference, crops(prepared, seed=1)[0, 0][0])
    state = torch.random.get_rng_state()
    crops(prepared)[0, 0]
    assert torch.equal(state, torch.random.get_rng_state())


def test_draws_cover_everything_before_they_repeat() -> None:
    draws = list(data.Draws(length=5, count=12, seed=0))
    assert len(draws) == 12
    assert sorted(index for index, turn in draws if turn == 0) == list(range(5))
    assert sorted(index for index, turn in draws if turn == 1) == list(range(5))
    assert len([1 for _, turn in draws if turn == 2]) == 2


def test_class_weights_against_hand_counts(prepared: Prepared) -> None:
    split, labels = prepared.split("train"), prepared.labels
    counts = sum(np.bincount(split.label(i).ravel(), minlength=256)[: labels.num_classes] for i in range(len(split)))
    share = counts / counts.sum()
    weights = data.class_weights(split, labels, balance=0.5)
    assert weights is not None
    present = share > 0
    ratio = weights.numpy()[present] * np.sqrt(share[present])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert float((weights.numpy() * share).sum()) == pytest.approx(1.0, rel=1e-5)
    assert data.class_weights(split, labels, balance=0) is None
