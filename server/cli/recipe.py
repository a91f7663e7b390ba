"""`florist recipe`: lists, checks and shows recipes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from server.cli.console import console, error_console

if TYPE_CHECKING:
    from server.jobs.recipes.recipe import AnnotationFilter, Recipe, RecipeStep

app = typer.Typer(help="Recipes: which prompts a job sends about every image.", no_args_is_help=True)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="FILE|NAME", help="A YAML or JSON file, or the name of a built-in recipe.")
]


@app.command()
def check(recipe: RecipeArgument) -> None:
    """Checks a recipe and lists its problems by line. Exit code 2 if there are any."""
    loaded = _load_or_exit(recipe)
    steps = f"{len(loaded.steps)} step{'s' * (len(loaded.steps) > 1)}"
    labels = f", {len(loaded.ontology)} labels" if loaded.ontology else ""
    console.print(f"[green]✓[/] {escape(loaded.name)}: {steps}{labels}; hash {loaded.hash[:12]}", highlight=False)


@app.command()
def show(recipe: RecipeArgument) -> None:
    """Shows a recipe as a tree: its steps, what they depend on, and their filters."""
    console.print(build_tree(_load_or_exit(recipe)), highlight=False)


@app.command(name="list")
def list_recipes() -> None:
    """Lists the built-in recipes."""
    from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe

    table = Table("recipe", "steps")
    for name in list_builtin_recipes():
        table.add_row(name, escape(", ".join(step.task for step in load_recipe(name).steps)))
    console.print(table)


def build_tree(recipe: "Recipe") -> Tree:
    """Returns the steps as a tree, each below the step whose regions or texts it uses."""
    root = Tree(Text.assemble((recipe.name, "bold"), *_format_notes(_describe_recipe(recipe))), guide_style="dim")
    if recipe.ontology:
        notes = _format_notes([f"unmatched: {recipe.unmatched}"])
        branch = root.add(Text.assemble(("ontology", "bold"), *notes))
        for label, phrases in recipe.ontology.items():
            branch.add(Text(label if phrases == [label] else f"{label} ← {', '.join(phrases)}"))
    branches: dict[str, Tree] = {}
    for step in recipe.steps:
        parent = branches[step.dependencies[0]] if step.dependencies else root
        head = ((step.id, "bold"), "  ", (step.task, "cyan"), f" → {step.task_definition.answer_kind}")
        branches[step.id] = parent.add(Text.assemble(*head, *_format_notes(_describe_step(step))))
    return root


def _format_notes(notes: list[str]) -> Iterator[tuple[str, str]]:
    if notes:
        yield "\n" + " · ".join(notes), "dim"


def _describe_recipe(recipe: "Recipe") -> list[str]:
    kinds = {name: score for name, score in recipe.review_below if score} if recipe.review_below else {}
    notes = [f"review below score {', '.join(f'{least:g} ({kind})' for kind, least in kinds.items())}"] if kinds else []
    if any(step.check or step.flip for step in recipe.steps):
        notes.append(f"on disagreement: {recipe.disagreement}")
    return notes


def _describe_step(step: "RecipeStep") -> list[str]:
    from server.jobs.recipes.recipe import ONTOLOGY

    notes = []
    if step.for_each:
        notes.append(f"for each region of {step.for_each}")
    if step.reference == ONTOLOGY:
        notes.append("for each phrase of the ontology")
    elif step.reference:
        notes.append(f"for each text of {step.reference}")
    elif step.text:
        notes.append(f"text “{step.text}”")
    if step.adapter:
        notes.append(f"adapter {step.adapter}")
    if step.project:
        notes.append(f"promoted model of {step.project}")
    if step.tile:
        notes.append(f"whole image and tiles of {step.tile.size} px with {step.tile.overlap:.0%} overlap")
    if step.flip:
        notes.append(f"same in the mirrored image at IoU {step.flip:g}")
    notes += _describe_filter(step.filter)
    if step.check:
        notes.append("labels are verified")
    if step.review_below is not None:
        notes.append(f"review below score {step.review_below:g}")
    if not step.keep:
        notes.append("not kept")
    return notes


def _describe_filter(limits: "AnnotationFilter") -> Iterator[str]:
    for name, value in limits.model_dump(exclude_none=True).items():
        bound, _, quantity = name.partition("_")
        if bound in ("min", "max"):
            yield f"{quantity} {'≥' if bound == 'min' else '≤'} {value:g}"
        else:
            yield f"{'NMS' if name == 'nms' else 'class-agnostic NMS'} {value:g}"


def _load_or_exit(name_or_path: str) -> "Recipe":
    from server.jobs.recipes.parsing import load_recipe
    from server.jobs.recipes.problems import RecipeError

    try:
        return load_recipe(name_or_path)
    except RecipeError as error:
        for line in str(error).splitlines():
            error_console.print(f"[bold red]florist:[/] {escape(line)}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from None
