"""PASCAL Context: 59 classes of things and stuff on the images of VOC 2010 (Mottaghi et al. 2014).

Folders below the root, as in MMSegmentation: ``VOCdevkit/VOC2010/`` with ``JPEGImages/``, ``SegmentationClassContext/``
and ``ImageSets/SegmentationContext/{train,val}.txt``. Masks hold 0..59, as ids or as colours of VOC's map (RGB or
indexed); 0 means none of the 59 classes and is ignored.

Two numberings are in use and a mask does not say which it has: ``voc`` begins with VOC's 20 classes (MMSegmentation's
first list, masks in VOC's colours); ``alphabetical`` comes from sorting the 459 original ids (the Detail API's users,
MMSegmentation's converter and its later lists). With both, train ids are in the order ``voc``. The sheet of
``segpress inspect --sheet`` shows at once if the numbering is wrong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.datasets._lists import names
from pipeline.datasets._masks import Coding
from pipeline.datasets._pairs import Pair, PairDataset, by_stem, matched
from pipeline.datasets._voc import FLICKR, colour_map, development_kit
from pipeline.errors import UserError
from pipeline.labels import IGNORE_INDEX, LabelSpec

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor", "bag", "bed", "bench", "book",
    "building", "cabinet", "ceiling", "cloth", "computer", "cup", "door", "fence", "floor", "flower", "food", "grass",
    "ground", "keyboard", "light", "mountain", "mouse", "curtain", "platform", "sign", "plate", "road", "rock",
    "shelves", "sidewalk", "sky", "snow", "bedclothes", "track", "tree", "truck", "wall", "water", "window", "wood",
)  # fmt: skip
NUMBERINGS = ("voc", "alphabetical")
COLOURS = colour_map(256)


def ids(numbering: str) -> tuple[int, ...]:
    """Id of each class in one of the two numberings, 1..59."""
    order = CLASSES if numbering == "voc" else sorted(CLASSES)
    return tuple(order.index(name) + 1 for name in CLASSES)


def coding(numbering: str) -> Coding:
    """Ids and colours 0..59 in one of the two numberings; 0 and 255 are ignored."""
    train = {0: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX}
    train |= {index: value for value, index in enumerate(ids(numbering))}
    return Coding(
        ids=train,
        colours={COLOURS[index]: value for index, value in train.items()},
        allowed=f"allowed: 0 (ignored), 1..{len(CLASSES)} and 255 (ignored), or their colours in VOC's map",
    )


class PascalContext(PairDataset):
    """PASCAL Context with 59 classes from a local folder.

    Args:
        root: folder that contains ``VOCdevkit/VOC2010``, or the folder VOC2010.
        numbering: numbering of the ids in the masks, ``voc`` or ``alphabetical``; see the top of this file.

    Raises:
        UserError: ``root`` or ``numbering`` is not set.
    """

    title = "PASCAL Context"
    labels = LabelSpec(names=CLASSES, palette=COLOURS[1 : len(CLASSES) + 1])
    licence = FLICKR

    def __init__(self, *, root: str | None = None, numbering: Literal["voc", "alphabetical"] | None = None) -> None:
        super().__init__()
        if numbering not in NUMBERINGS:
            raise UserError(
                f"datasets.pascal_context.numbering: got {numbering!r}; allowed: {' or '.join(NUMBERINGS)}; masks of "
                "the Detail API and of MMSegmentation's converter are alphabetical, masks in VOC's colours are voc; "
                "compare both in the sheet of: segpress inspect --sheet sheet.png"
            )
        self.coding = coding(numbering)
        self.labels = replace(self.labels, original_ids=ids(numbering), original_ignored=0)
        self.root = development_kit("pascal_context", root, year="2010")
        images = by_stem(self.root / "JPEGImages", self.wrong)
        masks = by_stem(self.root / "SegmentationClassContext", self.wrong)
        at = Pair(self.root / "JPEGImages" / "x.jpg", self.root / "SegmentationClassContext" / "x.png")
        for split in ("train", "val"):
            listed = names(self.root / "ImageSets" / "SegmentationContext" / f"{split}.txt", self.wrong)
            self.pairs[split] = matched(listed, images, masks, at=at)
