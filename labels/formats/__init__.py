"""The formats that datasets are read and written in. A new format is a new file here and a row in FORMATS."""

from labels.format import Format
from labels.formats import coco, cvat, huggingface, jsonl, label_studio, labelme, voc, yolo

# A source is matched against the formats in this order: those that are easiest to recognize first.
FORMATS: dict[str, Format] = {
    "yolo-detect": Format(
        "YOLO, boxes", "YOLO (a folder with data.yaml)", yolo.recognize, yolo.read, yolo.YoloDetectWriter
    ),
    "yolo-segment": Format(
        "YOLO, polygons", "YOLO (a folder with data.yaml)", yolo.recognize, yolo.read, yolo.YoloSegmentWriter
    ),
    "voc": Format(
        "Pascal VOC",
        "Pascal VOC (a folder with Annotations and JPEGImages)",
        voc.recognize,
        voc.read,
        voc.VocWriter,
    ),
    "cvat": Format(
        "CVAT XML 1.1 for images",
        "CVAT for images 1.1 (annotations.xml)",
        cvat.recognize,
        cvat.read,
        cvat.CvatWriter,
    ),
    "huggingface": Format(
        "Hugging Face datasets folder",
        "Hugging Face datasets (a folder with metadata.jsonl, Parquet or Arrow files)",
        huggingface.recognize,
        huggingface.read,
        huggingface.HuggingFaceWriter,
    ),
    "jsonl": Format(
        "JSON lines: all information about every annotation",
        "JSON lines (florist's export, or image, prefix and suffix)",
        jsonl.recognize,
        jsonl.read,
        jsonl.JsonlWriter,
        ".jsonl",
    ),
    "labelme": Format(
        "LabelMe", "LabelMe (JSON files beside the images)", labelme.recognize, labelme.read, labelme.LabelMeWriter
    ),
    "label-studio": Format(
        "Label Studio: tasks with predictions, and their labeling configuration",
        "Label Studio (its JSON export)",
        label_studio.recognize,
        label_studio.read,
        label_studio.LabelStudioWriter,
    ),
    "coco": Format(
        "COCO: instances and captions",
        "COCO (a .json file with images and annotations)",
        coco.recognize,
        coco.read,
        coco.CocoWriter,
    ),
}
