"""`florist prompt`: asks the model about one image."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from prompts.annotations import Annotation
from prompts.class_lists import describe_left_out
from prompts.class_texts import split_classes
from prompts.tasks import PromptError, check_region_size
from server.cli.console import console, error_console, fail
from server.cli.engine import get_adapter_name, list_unknown_tasks, load_engine, load_settings_or_exit
from server.cli.options import AdapterOption, AnyClassOption, DeviceOption, ModelOption, TextOption, find_task_or_exit


def prompt(
    image: Annotated[Path, typer.Argument(help="The image file.")],
    task: Annotated[str, typer.Argument(help="A task token such as '<OD>'; `florist tasks` lists them.")],
    text: TextOption = None,
    region: Annotated[str | None, typer.Option(help="x1,y1,x2,y2 in pixels, for tasks that take a region.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Save the image with its annotations drawn to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    adapter: AdapterOption = None,
    any_class: AnyClassOption = False,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Sends one prompt about one image.

    --text may name several classes, separated by commas or as a JSON list, for a task that looks for a class: they are
    asked for one by one.
    """
    chosen, corners = find_task_or_exit(task, text, region), _parse_region(region)
    from labels.images import ImageError, decode_image
    from server.engine.class_lists import find_adapter_class_list, list_known_classes, submit_held
    from server.engine.class_prompts import submit_classes
    from server.engine.errors import InvalidRequestError
    from server.engine.request import Request

    try:
        data = image.read_bytes()
        pixels = decode_image(data, max_bytes=len(data), max_pixels=load_settings_or_exit().max_pixels)
        classes = split_classes(chosen, text)
        chosen.build_prompt(classes[0] if classes else text, corners, pixels.size)
        check_region_size(corners or ())
    except OSError as error:
        fail(f"{image}: {error.strerror or error}")
    except ImageError as error:
        fail(f"{image}: {error}")
    except PromptError as error:
        fail(str(error))
    adapter_name = get_adapter_name(adapter)
    with load_engine(model, device, adapter) as engine:
        class_list = None if any_class else find_adapter_class_list(engine, [adapter_name])
        class_list = class_list if chosen.answers_classes else None
        warnings = [class_list.warning] if class_list and class_list.warning else []
        warnings += list_unknown_tasks(engine, [chosen.token])
        try:
            request = Request(engine.prepare(pixels), chosen, text, corners, adapter=adapter_name)
            known = list_known_classes(engine, adapter_name)
            result = submit_classes(
                lambda own: submit_held(engine.submit, own, class_list, known), request, classes
            ).wait()
        except InvalidRequestError as error:
            fail(str(error))
        except Exception as error:
            fail(f"the model failed on this prompt: {error}", 1)
    warnings += filter(None, [describe_left_out(each.label for each in result.left_out)])
    for warning in warnings:
        error_console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True, highlight=False)
    if class_list:
        sentence = f"held to the {len(class_list.names):,} classes of {class_list.origin}; --any-class lets it name any"
        error_console.print(escape(sentence), soft_wrap=True, highlight=False)
    if as_json:
        answer = {
            "model": engine.checkpoint.name,
            "adapter": adapter_name,
            "task": task,
            "width": pixels.width,
            "height": pixels.height,
            "annotations": [annotation.model_dump() for annotation in result.annotations],
            "text": result.text,
            "class_list": class_list and {"origin": class_list.origin, "classes": len(class_list.names)},
            "warnings": warnings,
        }
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    elif not result.annotations:
        error_console.print("the answer has no annotations")
    else:
        _print_annotations(result.annotations)
    if draw is not None:
        from labels.drawing import draw_annotations

        try:
            draw_annotations(pixels, result.annotations).save(draw)
        except (OSError, ValueError) as error:
            fail(f"{draw}: {getattr(error, 'strerror', None) or error}")


def _parse_region(region: str | None) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in region.split(",")) if region is not None else None
    except ValueError:
        fail(f"--region is x1,y1,x2,y2 in pixels, such as 10,20,200,180; got {region!r}")


def _print_annotations(annotations: Sequence[Annotation]) -> None:
    if all(annotation.kind == "text" for annotation in annotations):
        for annotation in annotations:
            print(annotation.label)
        return
    table = Table("kind", "label", "score", "coordinates in pixels")
    for annotation in annotations:
        score = "" if annotation.score is None else f"{annotation.score:.2f}"
        table.add_row(annotation.kind, escape(annotation.label), score, _format_coordinates(annotation))
    console.print(table)


def _format_coordinates(annotation: Annotation) -> str:
    match annotation.kind:
        case "box":
            return _format_numbers(annotation.box)
        case "quad":
            return _format_numbers(annotation.quad)
        case "polygon":
            return " | ".join(map(_format_numbers, annotation.polygons))
    return ""


def _format_numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)
