"""The formats that datasets are written in. One more is one more file with a writer, and one more row here."""

from server.jobs.formats.coco import CocoWriter
from server.jobs.formats.cvat import CvatWriter
from server.jobs.formats.format import Format
from server.jobs.formats.huggingface import HuggingFaceWriter
from server.jobs.formats.jsonl import JsonlWriter
from server.jobs.formats.labelme import LabelMeWriter
from server.jobs.formats.labelstudio import LabelStudioWriter
from server.jobs.formats.report import Report
from server.jobs.formats.voc import VocWriter
from server.jobs.formats.yolo import YoloDetectWriter, YoloSegmentWriter

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
