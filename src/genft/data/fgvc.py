"""FGVC's five data sets in the layout of VPT (arXiv 2203.12119): a JSON file ``{image: class}`` per split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genft.data.labels import infer_classes
from genft.data.layout import Rows, finish, listed_image, task_folder
from genft.data.limits import decode_utf8, read_data_file
from genft.data.task import Fault, Task, TaskData, refuse
from genft.errors import DataError

_REPO = "XiN0919/FGVC"
_LISTS = {"train": "train.json", "validation": "val.json", "test": "test.json"}
_IMAGE_FOLDERS = ("images", "Images", "")  # CUB and NABirds; Stanford Dogs; Flowers and Cars


def read_fgvc(task: Task, fault: Fault = refuse) -> TaskData:
    """The splits that have a list. The classes come from train, and no other split may add one."""
    folder = task_folder(task, list(_LISTS.values()), _REPO)
    if not (folder / _LISTS["train"]).is_file():
        raise DataError(f"{folder / _LISTS['train']}: is missing, and the classes are numbered from it")
    splits, notes, missing = {}, [], []
    for name, file in _LISTS.items():
        if (folder / file).is_file():
            splits[name] = _read_list(folder, folder / file, fault)
        else:
            missing.append(folder / file)
    if not splits["train"].labels:
        raise DataError(f"{folder / _LISTS['train']}: lists no image that exists")
    classes = infer_classes(splits["train"].labels, str(folder / _LISTS["train"]))
    if len(classes) != task.class_count:
        notes.append(f"train has {len(classes)} classes; {task.name} should have {task.class_count}")
    return finish(task.model_copy(update={"classes": classes}), splits, fault, notes, missing)


def _read_list(folder: Path, path: Path, fault: Fault) -> Rows:
    text = decode_utf8(path, read_data_file(path))
    try:
        listed = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path}: cannot be read as JSON ({e})") from None
    if not isinstance(listed, _pairs) or not listed:
        raise DataError(f"{path}: is not an object with a class for every image")
    first = next(image for image, _ in listed)
    inside = next((name for name in _IMAGE_FOLDERS if (folder / name / first).is_file()), None)
    if inside is None:
        inside = next(name for name in _IMAGE_FOLDERS if (folder / name).is_dir())
    rows = Rows()
    for number, (image, label) in enumerate(listed, 1):
        place = f"{path}: entry {number}"
        if found := listed_image(folder / inside, image, place, fault):
            rows.add((str(found),), str(label), place)
    return rows


class _pairs(list[tuple[str, Any]]):
    """The entries of a JSON object in order; an image that is listed twice appears twice."""
