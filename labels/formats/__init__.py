"""The formats that datasets are written in. One more is one more file with a writer, and one more row here."""

from labels.formats.coco_writer import CocoWriter
from labels.formats.cvat_writer import CvatWriter
from labels.formats.huggingface_writer import HuggingFaceWriter
from labels.formats.jsonl_writer import JsonlWriter
from labels.formats.label_studio_writer import LabelStudioWriter
from labels.formats.labelme_writer import LabelMeWriter
from labels.formats.voc_writer import VocWriter
from labels.formats.yolo_writer import YoloDetectWriter, YoloSegmentWriter
from labels.writing.format import Format
from labels.writing.report import Report

FORMATS: dict[str, Format] = {
    "coco": Format("COCO: instances and captions", CocoWriter),
    "yolo-detect": Format("YOLO, boxes", YoloDetectWriter),
    "yolo-segment": Format("YOLO, polygons", YoloSegmentWriter),
    "voc": Format("Pascal VOC", VocWriter),
    "cvat": Format("CVAT XML 1.1 for images", CvatWriter),
    "label-studio": Format("Label Studio: tasks with predictions, and their labeling configuration", LabelStudioWriter),
    "labelme": Format("LabelMe", LabelMeWriter),
    "jsonl": Format("JSON lines: everything that is known of every label", JsonlWriter, ".jsonl"),
    "huggingface": Format("Hugging Face datasets folder", HuggingFaceWriter),
}

__all__ = ["FORMATS", "Format", "Report"]
