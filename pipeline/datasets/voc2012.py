"""PASCAL VOC 2012 segmentation: 20 classes and background (Everingham et al. 2010).

Folders below the root: ``VOCdevkit/VOC2012/`` with ``JPEGImages/``, ``SegmentationClass/`` and
``ImageSets/Segmentation/{train,val}.txt``. Masks are indexed PNG files in VOC's colour map: 0..20, and 255 at borders.

With ``augmented``, train is the usual list of 10,582 images (Hariharan et al. 2011, SBD): masks of ids in
``SegmentationClassAug/``, names in ``ImageSets/Segmentation/trainaug.txt``. If this list does not exist, train has all
masks that are not in val.
"""

from __future__ import annotations

from pipeline.datasets._lists import names
from pipeline.datasets._masks import Coding
from pipeline.datasets._pairs import Pair, PairDataset, by_stem, matched
from pipeline.datasets._voc import FLICKR, colour_map, development_kit
from pipeline.labels import IGNORE_INDEX, LabelSpec

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
COLOURS = colour_map(256)


class VOC2012(PairDataset):
    """PASCAL VOC 2012 from a local folder.

    Args:
        root: folder that contains ``VOCdevkit/VOC2012``, or the folder VOC2012.
        augmented: also train on the masks of SBD.

    Raises:
        UserError: ``root`` is not set, or is not a folder.
    """

    title = "VOC 2012"
    labels = LabelSpec(
        names=CLASSES,
        palette=COLOURS[: len(CLASSES)],
        original_ids=tuple(range(len(CLASSES))),
        original_ignored=IGNORE_INDEX,
    )
    coding = Coding(
        ids={index: index for index in (*range(len(CLASSES)), IGNORE_INDEX)},
        colours={COLOURS[index]: index for index in (*range(len(CLASSES)), IGNORE_INDEX)},
        allowed="allowed: 0..20 and 255 (border), or their colours in VOC's map",
    )
    licence = FLICKR

    def __init__(self, *, root: str | None = None, augmented: bool = False) -> None:
        super().__init__()
        self.root = development_kit("voc2012", root, year="2012")
        lists = self.root / "ImageSets" / "Segmentation"
        images = by_stem(self.root / "JPEGImages", self.wrong)
        val = names(lists / "val.txt", self.wrong)
        folder, train = "SegmentationClass", lists / "train.txt"
        masks = by_stem(self.root / folder, self.wrong)
        self.pairs = {"train": {}, "val": {}}  # in this order
        self.pairs["val"] = matched(val, images, masks, at=self._at(folder))
        if augmented:
            folder, train = "SegmentationClassAug", lists / "trainaug.txt"
            masks = by_stem(self.root / folder, self.wrong)
        held_out = set(val)
        listed = names(train, self.wrong) if train.is_file() or not augmented else sorted(masks.keys() - held_out)
        repeated = [name for name in listed if name in held_out]
        self.wrong += [f"{train.name}: {name} is also in val.txt; remove it from {train.name}" for name in repeated]
        self.pairs["train"] = matched(listed, images, masks, at=self._at(folder))

    def _at(self, masks: str) -> Pair:
        """The paths where the files of a sample must be."""
        return Pair(self.root / "JPEGImages" / "x.jpg", self.root / masks / "x.png")
