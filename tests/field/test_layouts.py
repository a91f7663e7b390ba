"""Where tools of the field put images and labels."""

import json
from pathlib import Path

import pytest

from labels.dataset import DatasetError
from labels.opening import open_dataset
from tests.field.layouts import (
    LINE,
    make_coco,
    make_cvat,
    make_labelme,
    make_voc,
    read_colors,
    read_reasons,
    read_source,
    write,
)  # fmt: skip


@pytest.mark.situation("R1", "COCO of CVAT, Ultralytics, COCO itself, Roboflow and FiftyOne")
@pytest.mark.parametrize(
    ("images", "files"),
    [
        ("images/{}/d/{}.jpg", "annotations/instances_{}.json"),
        ("{}2017/{}.jpg", "annotations/instances_{}2017.json"),
        ("images/{}2017/{}.jpg", "annotations/instances_{}2017.json"),
        ("images/{}2017/{}.jpg", "annotations/captions_{}2017.json"),
        ("images/{}/{}.jpg", "annotations/{}.json"),
        ("{}/{}.jpg", "{}/_annotations.coco.json"),
        ("{}/data/{}.jpg", "{}/labels.json"),
        ("{}/images/{}.jpg", "{}/annotations/instances_default.json"),
        ("{}/{}.jpg", "{}.json"),
        ("Images/{}/{}.jpg", "Annotations/{}.json"),
    ],
)
def test_coco_folders(tmp_path: Path, images: str, files: str) -> None:
    for split, color in (("train", 10), ("val", 20)):
        write(tmp_path / images.format(split, "a"), color=color)
        file = write(tmp_path / files.format(split), make_coco("d/a.jpg" if "/d/" in images else "a.jpg"))
    colors = read_colors(tmp_path)
    assert sorted(colors.values()) == [1, 2]
    assert [name.split("/")[0][:3] for name in sorted(colors)] == ["tra", "val"]
    assert list(read_colors(file).values()) == [2]
    assert [type(content) for content in read_source(file).values()] == [bytes]


@pytest.mark.situation("R1", "subsets of a CVAT project: XML with `subset`, images/<subset>/")
def test_subsets_of_a_cvat_project(tmp_path: Path) -> None:
    write(tmp_path / "images/Train/a.jpg", color=10), write(tmp_path / "images/Test/a.jpg", color=20)
    path = write(tmp_path / "annotations.xml", make_cvat(("a.jpg", "Train"), ("a.jpg", "Test"), ("b.jpg", "Test")))
    assert read_colors(tmp_path) == read_colors(path) == {"Train/a.jpg": 1, "Test/a.jpg": 2}
    assert "b.jpg" in read_reasons(tmp_path)["annotations.xml:4"]


@pytest.mark.situation("R1", "tasks of CVAT side by side, each with its XML")
def test_cvat_tasks_side_by_side(tmp_path: Path) -> None:
    for task, color in (("task_1", 10), ("task_2", 20)):
        write(tmp_path / task / "images/a.jpg", color=color)
        write(tmp_path / task / "annotations.xml", make_cvat(("a.jpg", "")))
    assert read_colors(tmp_path) == {"task_1/a.jpg": 1, "task_2/a.jpg": 2}


@pytest.mark.situation("R8", "YOLO lists of CVAT with the prefix data/, and splits with capitals or any name")
@pytest.mark.parametrize("split", ["Train", "train", "Validation", "night shift"])
@pytest.mark.parametrize("prefix", ["data/", "", "./", "/content/dataset/"])
def test_yolo_lists(tmp_path: Path, split: str, prefix: str) -> None:
    write(tmp_path / f"images/{split}/a.jpg", color=10)
    write(tmp_path / f"labels/{split}/a.txt", LINE)
    write(tmp_path / f"{split}.txt", f"{prefix}images/{split}/a.jpg\n{prefix}images/{split}/gone.jpg\n")
    write(tmp_path / "data.yaml", f"{split}: {split}.txt\nnames:\n  0: cat\npath: .\n")
    for path in (tmp_path, tmp_path / "data.yaml", tmp_path / f"{split}.txt", tmp_path / f"images/{split}"):
        assert read_colors(path) == {f"images/{split}/a.jpg": 1}
    assert "gone.jpg" in read_reasons(tmp_path)[f"{split}.txt:2"]
    source = read_source(tmp_path / f"{split}.txt")
    assert [type(content) for content in source.values()] == [bytes, str]


@pytest.mark.situation("R8", "YOLO lists that name another image of the same name")
def test_yolo_list_with_a_missing_image(tmp_path: Path) -> None:
    write(tmp_path / "images/a.jpg", color=10), write(tmp_path / "labels/a.txt", LINE)
    write(tmp_path / "train.txt", "data/x/a.jpg\ndata/y/a.jpg\n")
    write(tmp_path / "data.yaml", "train: train.txt\nnames: [cat]\n")
    assert read_colors(tmp_path) == {"images/a.jpg": 1}
    assert "there is no image 'data/y/a.jpg'" in read_reasons(tmp_path)["train.txt:2"]


@pytest.mark.situation("R8", "Darknet: obj.data, obj.names and obj_train_data with images and labels side by side")
def test_darknet_folders(tmp_path: Path) -> None:
    for split, color in (("train", 10), ("valid", 20)):
        write(tmp_path / f"obj_{split}_data/d/a.jpg", color=color)
        write(tmp_path / f"obj_{split}_data/d/a.txt", LINE)
        write(tmp_path / f"{split}.txt", f"data/obj_{split}_data/d/a.jpg\n")
    write(tmp_path / "obj.names", "cat\n")
    write(
        tmp_path / "obj.data", "classes = 1\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    )
    expected = {"obj_train_data/d/a.jpg": 1, "obj_valid_data/d/a.jpg": 2}
    assert read_colors(tmp_path) == read_colors(tmp_path / "obj.data") == expected
    assert (
        read_colors(tmp_path / "train.txt") == read_colors(tmp_path / "obj_train_data") == {"obj_train_data/d/a.jpg": 1}
    )


@pytest.mark.situation("R8", "a missing image that a list of YOLO and a labels file, or two files of COCO, describe")
def test_a_missing_image_is_listed_once(tmp_path: Path) -> None:
    yolo, coco = tmp_path / "yolo", tmp_path / "coco"
    write(yolo / "images" / "a.jpg", color=10)
    for name in ("a", "gone"):
        write(yolo / "labels" / f"{name}.txt", LINE)
    write(yolo / "train.txt", "images/a.jpg\nimages/gone.jpg\n")
    write(yolo / "data.yaml", "train: train.txt\nval: train.txt\nnames: [cat]\n")
    assert list(read_reasons(yolo)) == ["train.txt:2"]
    write(coco / "a.jpg", color=10)
    images = [{"id": number, "file_name": name} for number, name in enumerate(("a.jpg", "gone.jpg"))]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5]}
    for kind, annotation in (("instances", box), ("captions", {"id": 1, "image_id": 1, "caption": "a cat"})):
        document = {"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
        write(coco / "annotations" / f"{kind}_train.json", json.dumps(document))
    assert len(read_reasons(coco)) == 1


@pytest.mark.situation("R8", "flat YOLO folders of labelImg, Roboflow's Darknet and others")
@pytest.mark.parametrize("names", ["classes.txt", "obj.names", "_darknet.labels"])
def test_flat_yolo_folders(tmp_path: Path, names: str) -> None:
    write(tmp_path / "a.JPG", color=10), write(tmp_path / "a.txt", LINE), write(tmp_path / "b.txt", LINE)
    write(tmp_path / names, "cat\n")
    write(tmp_path / "notes.txt", "labels of Monday")
    assert read_colors(tmp_path) == {"a.JPG": 1}
    assert read_reasons(tmp_path) == {"b.txt": "its image is missing"}


@pytest.mark.situation("R8", "YOLO: labels beside images that are in a folder called images; classes.txt in labels")
def test_other_yolo_folders(tmp_path: Path) -> None:
    write(tmp_path / "one/images/a.jpg", color=10), write(tmp_path / "one/images/a.txt", LINE)
    write(tmp_path / "one/images/classes.txt", "cat\n")
    write(tmp_path / "two/images/a.jpg", color=20), write(tmp_path / "two/labels/a.txt", LINE)
    write(tmp_path / "two/labels/classes.txt", "cat\n")
    assert read_colors(tmp_path / "one/images") == {"a.jpg": 1}
    assert read_colors(tmp_path / "two") == {"images/a.jpg": 2}


@pytest.mark.situation("R8", "Roboflow's YOLO: ../train/images, and paths of the machine that trained")
@pytest.mark.parametrize("path", ["../{}/images", "{}/images", "/content/cats-1/{}/images", "..\\{}\\images"])
def test_yolo_split_folders(tmp_path: Path, path: str) -> None:
    for split, color in (("train", 10), ("valid", 20)):
        write(tmp_path / split / "images/a.jpg", color=color), write(tmp_path / split / "labels/a.txt", LINE)
    description = {
        "train": path.format("train"),
        "val": path.format("valid"),
        "test": "../test/images",
        "names": ["cat"],
    }
    write(tmp_path / "data.yaml", json.dumps(description))
    assert read_colors(tmp_path) == {"train/images/a.jpg": 1, "valid/images/a.jpg": 2}
    assert read_reasons(tmp_path) == {"data.yaml: test": "there is no '../test/images'"}
    assert read_colors(tmp_path / "valid") == read_colors(tmp_path / "valid/images") == {"valid/images/a.jpg": 2}


@pytest.mark.situation("R8", "YOLO: one labels file for a.jpg and a.png; labels behind a link")
def test_yolo_labels_of_one_image_only(tmp_path: Path) -> None:
    write(tmp_path / "store/x/a.jpg", color=10), write(tmp_path / "store/x/a.png"), write(tmp_path / "store/x/b.jpg")
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set/images/train").symlink_to(tmp_path / "store/x")
    write(tmp_path / "set/labels/train/a.txt", LINE), write(tmp_path / "set/labels/train/b.txt", LINE)
    write(tmp_path / "set/data.yaml", "train: images/train\nnames: [cat]\n")
    assert list(read_colors(tmp_path / "set")) == ["images/train/b.jpg"]
    assert "a.jpg, a.png" in read_reasons(tmp_path / "set")["labels/train/a.txt"]


@pytest.mark.situation("R8", "YOLO: labels beside JPEGImages, as Darknet has it; classes.txt above folders of splits")
def test_darknet_labels_of_voc(tmp_path: Path) -> None:
    write(tmp_path / "voc/voc.data", "classes = 1\ntrain = /home/me/train.txt\nnames = data/voc.names\n")
    (
        write(tmp_path / "voc/data/voc.names", "cat\n"),
        write(tmp_path / "voc/train.txt", "/home/me/VOC2007/JPEGImages/a.jpg"),
    )
    write(tmp_path / "voc/VOC2007/JPEGImages/a.jpg", color=10), write(tmp_path / "voc/VOC2007/labels/a.txt", LINE)
    assert read_colors(tmp_path / "voc") == {"VOC2007/JPEGImages/a.jpg": 1}
    write(tmp_path / "splits/classes.txt", "cat\n")
    for split, color in (("train", 10), ("val", 20)):
        write(tmp_path / f"splits/{split}/images/a.jpg", color=color)
        write(tmp_path / f"splits/{split}/labels/a.txt", LINE)
    assert read_colors(tmp_path / "splits") == {"train/images/a.jpg": 1, "val/images/a.jpg": 2}
    assert list(read_colors(tmp_path / "splits/val").values()) == [2]


@pytest.mark.situation("R8", "texts of Windows in UTF-16, or partly in another encoding; AppleDouble files of macOS")
def test_texts_of_other_systems(tmp_path: Path) -> None:
    yolo, labelme, voc = tmp_path / "yolo", tmp_path / "labelme", tmp_path / "voc"
    write(yolo / "images/a.jpg", color=10), write(yolo / "images/b.jpg", color=20), write(yolo / "labels/b.txt", LINE)
    (yolo / "labels/a.txt").write_bytes(LINE.encode("utf-16"))
    (yolo / "data.yaml").write_bytes(b"names: [cat]\ntrain: a.txt\nval: b.txt\n")
    (yolo / "a.txt").write_bytes("images/a.jpg\r\n".encode("utf-16"))
    (yolo / "b.txt").write_bytes("images/b.jpg\nimages/狗.jpg\n".encode("gbk"))
    assert read_colors(yolo) == {"images/a.jpg": 1, "images/b.jpg": 2}
    assert list(read_reasons(yolo)) == ["b.txt:2"]
    write(labelme / "a.jpg", color=10), write(voc / "a.jpg", color=10), write(voc / "a.xml", make_voc("a.jpg"))
    (labelme / "a.json").write_bytes(json.dumps(make_labelme("a.jpg")).encode("utf-16"))
    for path in (yolo / "labels/._a.txt", labelme / "._a.json", labelme / "__MACOSX/._a.json", voc / "._a.xml"):
        write(path, "\x00\x05\x16\x07")
    assert read_colors(labelme) == read_colors(voc) == {"a.jpg": 1}
    assert read_reasons(labelme) == read_reasons(voc) == {}


@pytest.mark.situation("R8", "YOLO: labels in another normal form, case, or with an upload's prefix")
def test_yolo_labels_in_another_spelling(tmp_path: Path) -> None:
    images = ("caf\u00e9.jpg", "IMG_1.JPG", "b.jpg", "c.jpg", "deadbeef-d.jpg")
    labels = ("cafe\u0301", "img_1", "0a1b2c3d-b", "0a1b2c3d-c", "deadbeef-c", "0a1b2c3d-d")
    for number, name in enumerate(images, 1):
        write(tmp_path / "images" / name, color=10 * number)
    for name in labels:
        write(tmp_path / f"labels/{name}.txt", LINE)
    write(tmp_path / "val.txt", "\n".join(f"images/{name}" for name in images))
    write(tmp_path / "data.yaml", "names: [cat]\nval: val.txt\n")
    write(tmp_path / "images/e.jpg"), write(tmp_path / "labels/e.txt", LINE)
    found = {image.name: len(image.annotations) for image in open_dataset(tmp_path).images}
    assert found == {f"images/{name}": name[0] != "d" for name in images if name != "c.jpg"}
    assert read_reasons(tmp_path) == {
        "images/c.jpg": "its labels may be in any of several files: 0a1b2c3d-c.txt, deadbeef-c.txt",
        "labels/e.txt": "its image is in no split of the dataset",
        **{f"labels/{name}.txt": "its image is missing" for name in labels[3:]},
    }


@pytest.mark.situation("R1", "Pascal VOC in the layouts of VOC, labelImg and Roboflow")
@pytest.mark.parametrize(
    ("image", "file", "name"),
    [
        ("JPEGImages/a.jpg", "Annotations/a.xml", "a.jpg"),
        ("JPEGImages/train/a.jpg", "Annotations/train/a.xml", "train/a.jpg"),
        ("jpegimages/a.JPG", "annotations/a.xml", "a.JPG"),
        ("images/a.jpg", "annotations/a.xml", "images/a.jpg"),
        ("images/a.jpg", "xmls/a.xml", "images/a.jpg"),
        ("images/a.jpg", "annotations/xmls/a.xml", "images/a.jpg"),
        ("data/a.jpg", "labels/a.xml", "data/a.jpg"),
        ("a.jpg", "a.xml", "a.jpg"),
        ("a.jpg", "annotations/a.xml", "a.jpg"),
        ("train/a.jpg", "train/a.xml", "train/a.jpg"),
        ("train/JPEGImages/a.jpg", "train/Annotations/a.xml", "train/a.jpg"),
        ("VOCdevkit/VOC2012/JPEGImages/a.jpg", "VOCdevkit/VOC2012/Annotations/a.xml", "VOCdevkit/VOC2012/a.jpg"),
    ],
)
def test_voc_folders(tmp_path: Path, image: str, file: str, name: str) -> None:
    write(tmp_path / image, color=10)
    write(tmp_path / "SegmentationClass/a.png", color=90), write(tmp_path / "annotations/trimaps/a.png", color=90)
    # `folder`, `path` and `filename` are often those of another machine.
    path = write(tmp_path / file, make_voc("old.jpg", folder="My Pictures", path="C:\\Users\\me\\old.jpg"))
    assert read_colors(tmp_path) == {name: 1}
    assert list(read_colors(path).values()) == [1]
    assert list(read_colors(path.parent).values()) == [1]


@pytest.mark.situation("R1", "Pascal VOC and LabelMe: labels in a folder of any name")
def test_folders_of_any_name(tmp_path: Path) -> None:
    for form in ("voc", "labelme"):
        write(tmp_path / form / "pics/d/a.jpeg", color=10), write(tmp_path / form / "pics/e/a.jpeg", color=20)
    write(tmp_path / "voc/mine/d/a.xml", make_voc("old.jpg"))
    write(tmp_path / "labelme/mine/d/a.json", make_labelme("old.jpg"))
    assert read_colors(tmp_path / "voc") == read_colors(tmp_path / "labelme") == {"pics/d/a.jpeg": 1}


@pytest.mark.situation("R1", "Pascal VOC: a.jpg and a.png beside one XML file")
def test_voc_images_with_one_stem(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", color=10), write(tmp_path / "a.png", color=20)
    write(tmp_path / "a.xml", make_voc("a.png"))
    assert read_colors(tmp_path) == {"a.png": 2}
    write(tmp_path / "a.xml", make_voc("old.png"))
    with pytest.raises(DatasetError, match=r"several images fit 'a': a\.jpg, a\.png"):
        open_dataset(tmp_path)


@pytest.mark.situation("R4", "LabelMe: backslashes, parent folders, drives and folders of another machine")
@pytest.mark.parametrize(
    ("stated", "image", "file"),
    [
        ("..\\images\\a.jpg", "images/a.jpg", "labels/a.json"),
        ("..\\..\\images\\d\\a.jpg", "images/d/a.jpg", "labels/d/a.json"),
        ("C:\\Users\\me\\Desktop\\a.jpg", "a.jpg", "a.json"),
        ("\\\\nas\\share\\images\\a.jpg", "images/a.jpg", "labels/a.json"),
        ("/home/me/project/images/d/a.jpg", "images/d/a.jpg", "labels/d/a.json"),
        ("../../../images/a.jpg", "images/a.jpg", "labels/a.json"),
        ("a.jpg", "images/a.jpg", "labels/a.json"),
        ("a.jpg", "images/d/a.jpg", "labels/d/a.json"),
        ("a.JPG", "a.jpg", "a.json"),
        ("old name.jpg", "a.jpg", "a.json"),
        ("a%20b.jpg", "a b.jpg", "a b.json"),
    ],
)
def test_labelme_paths(tmp_path: Path, stated: str, image: str, file: str) -> None:
    write(tmp_path / image, color=10)
    path = write(tmp_path / file, make_labelme(stated))
    assert read_colors(tmp_path) == {image: 1}
    assert list(read_colors(path).values()) == list(read_colors(path.parent).values()) == [1]


@pytest.mark.situation("R4", "LabelMe: a copied JSON file; folders of labels that mirror those of images")
def test_labelme_copies_and_mirrors(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"copied/{name}.jpg", color=10), write(tmp_path / f"copied/{name}.json", make_labelme("a.jpg"))
    assert read_colors(tmp_path / "copied") == {"a.jpg": 1}
    reason = "it may be about a.jpg, its imagePath, or about b.jpg, which has its name"
    assert read_reasons(tmp_path / "copied") == {"b.json": reason}
    assert open_dataset(tmp_path / "copied").images[0].complete == frozenset()
    for folder, color in (("x", 10), ("y", 20)):
        write(tmp_path / f"mirror/images/{folder}/a.jpg", color=color)
        write(tmp_path / f"mirror/labels/{folder}/a.json", make_labelme("D:\\old\\a.jpg"))
    assert read_colors(tmp_path / "mirror") == {"images/x/a.jpg": 1, "images/y/a.jpg": 2}


@pytest.mark.situation("S9", "images without a suffix or with an odd one, and unreadable ones, in a dataset")
def test_files_are_images_by_content(tmp_path: Path) -> None:
    for name in ("a", "b.jfif", "c.mpo", "d.data1"):
        write(tmp_path / "images" / name, color=10)
        write(tmp_path / "labels" / f"{name.split('.')[0]}.txt", LINE)
    (tmp_path / "images/e.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "images/f").write_text("no image")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat]\n")
    assert set(read_colors(tmp_path)) == {"images/a", "images/b.jfif", "images/c.mpo", "images/d.data1"}
    assert "HEIC" in read_reasons(tmp_path)["labels/e.txt"]


@pytest.mark.situation("R4", "datasets by relative paths, and the current folder")
def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "coco/images/val/a.jpg", color=10)
    write(tmp_path / "coco/annotations/instances_val.json", make_coco("C:\\old\\a.jpg"))
    write(tmp_path / "voc/JPEGImages/a.jpg", color=10), write(tmp_path / "voc/Annotations/a.xml", make_voc("x.jpg"))
    write(tmp_path / "voc/ImageSets/Main/val.txt", "a")
    write(tmp_path / "yolo/images/val/a.jpg", color=10), write(tmp_path / "yolo/labels/val/a.txt", LINE)
    (
        write(tmp_path / "yolo/data.yaml", "val: images/val\nnames: [cat]\n"),
        write(tmp_path / "yolo/val.txt", "x/val/a.jpg"),
    )
    write(tmp_path / "labelme/labels/a.json", make_labelme("..\\images\\a.jpg"))
    write(tmp_path / "labelme/images/a.jpg", color=10)
    write(tmp_path / "cvat/images/val/a.jpg", color=10)
    write(tmp_path / "cvat/annotations.xml", make_cvat(("a.jpg", "val")))
    parts = {
        "coco": ("annotations", "images/val", "annotations/instances_val.json"),
        "voc": ("Annotations", "Annotations/a.xml", "ImageSets/Main/val.txt"),
        "yolo": ("images", "images/val", "val.txt", "data.yaml"),
        "labelme": ("labels", "labels/a.json"),
        "cvat": ("annotations.xml", "images/val"),
    }
    for name, below in parts.items():
        for part in ("", *below):
            monkeypatch.chdir(tmp_path)
            names = read_colors(Path(name, part))
            assert list(names.values()) == [1], (name, part)
            assert read_colors(Path(f"{name}/../{name}/{part}")) == names
            monkeypatch.chdir(tmp_path / name)
            assert read_colors(Path(part or ".")) == names, (name, part)
