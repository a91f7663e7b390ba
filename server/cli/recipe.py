"""`florist recipe`: what is ready, what is wrong with one, what one does."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

if TYPE_CHECKING:
    from server.jobs.recipes.recipe import Filter, Recipe, Step

app = typer.Typer(help="Recipes: what a job asks about every picture.", no_args_is_help=True)
console, errors = Console(), Console(stderr=True)

Where = Annotated[str, typer.Argument(metavar="FILE|NAME", help="A YAML or JSON file, or the name of a ready recipe.")]


@app.command()
def check(recipe: Where) -> None:
    """Says what is wrong with a recipe, by line; exit code 2 where something is."""
    read = _load(recipe)
    steps = f"{len(read.steps)} step{'s' * (len(read.steps) > 1)}"
    labels = f", {len(read.ontology)} labels" if read.ontology else ""
    console.print(f"[green]✓[/] {escape(read.name)}: {steps}{labels}; hash {read.hash[:12]}", highlight=False)


@app.command()
def show(recipe: Where) -> None:
    """Draws a recipe: what feeds what, and which filters stand between."""
    console.print(tree(_load(recipe)), highlight=False)


@app.command(name="list")
def list_() -> None:
    """Lists the ready recipes."""
    from server.jobs.recipes import parsing

    table = Table("recipe", "steps")
    for name in parsing.ready():
        table.add_row(name, escape(", ".join(step.task for step in parsing.load(name).steps)))
    console.print(table)


def tree(recipe: "Recipe") -> Tree:
    """The steps, each under the one whose regions or words it asks about."""
    root = Tree(Text.assemble((recipe.name, "bold"), *_notes(_whole(recipe))), guide_style="dim")
    if recipe.ontology:
        branch = root.add(Text.assemble(("ontology", "bold"), *_notes([f"others: {recipe.others}"])))
        for label, phrases in recipe.ontology.items():
            branch.add(Text(label if phrases == [label] else f"{label} ← {', '.join(phrases)}"))
    drawn: dict[str, Tree] = {}
    for step in recipe.steps:
        above = drawn[step.sources[0]] if step.sources else root
        head = ((step.id, "bold"), "  ", (step.task, "cyan"), f" → {step.asked.answer_kind}")
        drawn[step.id] = above.add(Text.assemble(*head, *_notes(_details(step))))
    return root


def _notes(notes: list[str]) -> Iterator[tuple[str, str]]:
    if notes:
        yield "\n" + " · ".join(notes), "dim"


def _whole(recipe: "Recipe") -> list[str]:
    notes = [f"to review below a score of {recipe.review_below:g}"] if recipe.review_below is not None else []
    if any(step.check or step.flip for step in recipe.steps):
        notes.append("contradicted: " + ("to review" if recipe.disagreement == "review" else "dropped"))
    return notes


def _details(step: "Step") -> list[str]:
    from server.jobs.recipes.recipe import ONTOLOGY

    notes = []
    if step.each:
        notes.append(f"for each region of {step.each}")
    if step.reference == ONTOLOGY:
        notes.append("for each phrase of the ontology")
    elif step.reference:
        notes.append(f"for the words of {step.reference}")
    elif step.text:
        notes.append(f"for “{step.text}”")
    if step.adapter:
        notes.append(f"adapter {step.adapter}")
    if step.project:
        notes.append(f"who is promoted in {step.project}")
    if step.tile:
        notes.append(f"the whole and tiles of {step.tile.size} px, {step.tile.overlap:.0%} shared")
    if step.flip:
        notes.append(f"agrees with its mirror image at IoU {step.flip:g}")
    notes += _limits(step.filter)
    if step.check:
        notes.append("each asked back")
    if not step.keep:
        notes.append("not kept")
    return notes


def _limits(given: "Filter") -> Iterator[str]:
    for name, value in given.model_dump(exclude_none=True).items():
        word = name.replace("_", " ").replace("min ", "").replace("max ", "")
        least = name.startswith("min") or name == "score"
        yield f"{word} {'≥' if least else '≤'} {value:g}" if name not in ("nms", "duplicates") else f"{word} {value:g}"


def _load(where: str) -> "Recipe":
    from server.jobs.recipes.parsing import RecipeError, load

    try:
        return load(where)
    except RecipeError as error:
        for line in str(error).splitlines():
            errors.print(f"[bold red]florist:[/] {escape(line)}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from None
