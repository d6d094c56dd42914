"""CVAT's exports "CVAT for images 1.1" (annotations.xml) and "Segmentation mask 1.1" (labelmap.txt and folders).

Formats: https://docs.cvat.ai/docs/dataset_management/formats/. In the XML file, shapes of a higher ``z_order`` are on
top; shapes of the same ``z_order`` are in the order of the file. The run lengths of a mask follow the rows of its box.
Images are at ``images/NAME`` or ``NAME`` below the root. In an export of masks, ``labelmap.txt`` has the colours and
ImageSets/Segmentation the splits; unlabelled pixels are ``background``. Coordinates refer to the displayed image, after
its EXIF orientation is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.datasets._annotated import Annotated, AnnotatedDataset, Order, Shape, labels_used
from pipeline.datasets._classes import Classes, Palette, Rest, named_classes
from pipeline.datasets._cvat_xml import Attributes, drawn, parsed
from pipeline.datasets._exports import inside
from pipeline.datasets._images import read_mask
from pipeline.datasets._licence import UNSTATED, Stated
from pipeline.datasets._lists import lines, safe
from pipeline.datasets._masks import Coding
from pipeline.datasets._pairs import root_folder
from pipeline.datasets._palettes import Colour
from pipeline.datasets._patterns import compiled, find
from pipeline.datasets._shapes import Mask, Size, Width
from pipeline.datasets._splits import FOLDERS
from pipeline.errors import Problems, UserError
from pipeline.frames import Array

BACKGROUND = "background"


class Cvat(AnnotatedDataset):
    """Images annotated with CVAT.

    Args:
        root: folder of the unpacked export.
        classes: class -> labels, or a list of labels; null: all labels of the export, in its order.
        palette: one RGB colour per class; null: CVAT's colours.
        ignore: labels whose pixels are ignored.
        background: class of the pixels outside all shapes; a new name gets train id 0. Null: they are ignored.
        rest: shapes of other labels: ``error`` (refuse them), ``ignore`` (their pixels are ignored), ``skip`` (they are
            not painted).
        order: which shape is on top: the one of higher z_order, or the later one in the file (``file``), or the smaller
            one (``area``); ``refuse``: overlaps of different classes are errors. No effect on an export of masks.
        line_width: width of polylines and points in pixels; null: they are errors, because they have no area.
        lists, splits, shares, sequence, seed: as in folder.py; used if the export has no subsets train and validation.
        stated: the option ``licence``, see ``_licence.py``.

    Raises:
        UserError: ``root`` is not set or contains no export, or the options contradict each other.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        classes: Classes | None = None,
        palette: Palette | None = None,
        ignore: list[str] | None = None,
        background: str | None = None,
        rest: Rest = "error",
        order: Order = "file",
        line_width: Width | None = None,
        lists: dict[str, str] | None = None,
        splits: dict[str, list[str]] | None = None,
        shares: dict[str, float] | None = None,
        sequence: str | None = None,
        seed: int = 0,
        stated: Stated = UNSTATED,
    ) -> None:
        super().__init__("cvat", root_folder("cvat", root, holds="annotations.xml, or labelmap.txt"), order=order)
        self.licence = stated.read()
        self.line_width = line_width
        xml = self.root / "annotations.xml"
        if not xml.is_file() and not (self.root / "labelmap.txt").is_file():
            raise UserError(
                f"{self.root}: no annotations.xml and no labelmap.txt; export the task as 'CVAT for images 1.1' or "
                "'Segmentation mask 1.1', with images, and unpack the export"
            )
        colours: dict[str, Colour] = {}
        subsets = self._of_xml(xml, colours) if xml.is_file() else self._of_masks(colours)
        used = labels_used(sample for samples in subsets.values() for sample in samples.values())
        if not colours and not used:
            raise UserError("; ".join(self.wrong) or f"{self.root}: the export has no label; export it again")
        file_labels = [label for label in colours or used if label.lower() != BACKGROUND]
        self.coding = named_classes(
            "cvat",
            classes,
            palette=palette,
            ignore=ignore,
            background=background,
            rest=rest,
            file_labels=[*file_labels, *(colours.keys() - set(file_labels) if classes else ())],
            declared=bool(colours),
            colours=colours if len(set(colours.values())) == len(colours) else None,
            unlabelled=next((label for label in colours if label.lower() == BACKGROUND), None),
        )
        self.labels = self.coding.labels
        if not xml.is_file():
            self.wrong += self.coding.unknown(dict.fromkeys(colours, "in labelmap.txt"))
            self.masks = Coding(
                colours={colour: self.coding.train_id(label) for label, colour in colours.items()},
                allowed="allowed: the colours of labelmap.txt; export the masks and labelmap.txt again",
            )
        official = {name: FOLDERS.get(name.lower()) for name in subsets}
        if lists is None and splits is None and {"train", "val"} <= set(official.values()):
            unknown = [name for name in subsets if not official[name]]
            self.wrong += [
                f"subset {name!r} is not a split; rename it to one of: {', '.join(FOLDERS)}" for name in unknown
            ]
            for name, samples in subsets.items():
                for stem, sample in samples.items():
                    self._keep(official[name] or "train", stem, sample)
        else:
            samples_of_all = {stem: sample for samples in subsets.values() for stem, sample in samples.items()}
            self._split(samples_of_all, lists=lists, splits=splits, shares=shares, sequence=sequence, seed=seed)
        self._finish()

    def _of_xml(self, file: Path, colours: dict[str, Colour]) -> dict[str, dict[str, Annotated]]:
        """Samples by subset and name. Adds the labels and their colours to ``colours``."""
        splits: dict[str, dict[str, Annotated]] = {}
        try:
            labels, images = parsed(file)
        except UserError as error:
            self.wrong.append(str(error))
            return splits
        colours.update(labels)
        for image, shapes in images:
            name, subset = image.get("name", ""), image.get("subset", "")
            try:
                candidates = [inside(self.root, folder, name) for folder in ("images", f"images/{subset}", ".")]
                path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
                size = int(image["height"]), int(image["width"])
                shape_list = [
                    Shape(values["label"], self._drawing(kind, values), int(values.get("z_order") or 0))
                    for kind, values in shapes
                ]
            except (KeyError, ValueError) as error:  # a UserError is a ValueError
                self.wrong.append(f"{file.name}: image {name!r}: {error}")
                continue
            stem = str(Path(name.replace("\\", "/")).with_suffix(""))
            if stem in splits.setdefault(subset, {}):
                self.wrong.append(f"{file.name}: image {name!r}: another image has this name; rename one of the two")
            splits[subset][stem] = Annotated(path, f"{file.name}: {name}", size, shape_list)
        return splits

    def _drawing(self, kind: str, values: Attributes) -> Callable[[Size], Mask]:
        return lambda size: drawn(kind, values, size, line_width=self.line_width)

    def _of_masks(self, colours: dict[str, Colour]) -> dict[str, dict[str, Annotated]]:
        """Samples by list file and name. Adds the labels and their colours to ``colours``."""
        for number, line in lines(self.root / "labelmap.txt", self.wrong):
            if line.startswith("#"):
                continue
            label, _, rest = line.partition(":")
            parts = rest.split(":")[0].split(",")
            if not label or len(parts) != 3 or not all(part.strip().isdecimal() and int(part) < 256 for part in parts):
                self.wrong.append(
                    f"labelmap.txt:{number}: got {line!r}; allowed: 'label:r,g,b:parts:actions'; export it again"
                )
                continue
            red, green, blue = (int(part) for part in parts)
            if label in colours or (red, green, blue) in colours.values():
                self.wrong.append(
                    f"labelmap.txt:{number}: another line has the same label or colour: {line!r}; export it again"
                )
            colours[label] = red, green, blue
        images, masks = (
            find(self.root / folder, compiled("**/*", Problems("cvat"), key=folder), self.wrong).files
            for folder in ("JPEGImages", "SegmentationClass")
        )
        splits: dict[str, dict[str, Annotated]] = {}
        files = sorted((self.root / "ImageSets" / "Segmentation").glob("*.txt"))
        if not files:
            self.wrong.append(f"{self.root}/ImageSets/Segmentation: no list file; export it again")
        for file in files:
            splits[file.stem] = {
                name: Annotated(
                    images.get(name, self.root / "JPEGImages" / f"{name}.jpg"),
                    f"{file.name}: {name}",
                    mask=masks.get(name, self.root / "SegmentationClass" / f"{name}.png"),
                )
                for name in self._listed(file)
            }
        return splits

    def _listed(self, file: Path) -> Iterator[str]:
        """Names of the images in a list file: without suffix, with folders if the images have them."""
        seen: set[str] = set()
        for number, name in lines(file, self.wrong):
            if not safe(name) or name in seen:
                self.wrong.append(f"{file.name}:{number}: not a file name, or listed twice: {name!r}; export it again")
            else:
                seen.add(name)
                yield name

    def read_label(self, sample: Annotated, mask: Path) -> Array:
        """Train ids (H, W) uint8 of a mask file."""
        return self.masks.decode(mask, read_mask(mask))
