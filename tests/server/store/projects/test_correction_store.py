"""Corrections in both databases: none is ever lost."""

from dataclasses import replace

from labels.label_kind import LabelKind
from prompts.annotations import Text
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Project
from tests.server.store.projects.stored_records import BIRD, CONTENT


def test_corrections_are_added_as_new_versions(store: ProjectStore, project: Project) -> None:
    corrections = store.corrections
    (first,) = corrections.add_corrections(project, [CONTENT])
    other = replace(CONTENT, image_sha256="b" * 64, annotations=())
    caption = replace(CONTENT, label_kind=LabelKind.CAPTIONS, annotations=(Text(label="A bird."),))
    corrections.add_corrections(project, [other, caption])
    (second,) = corrections.add_corrections(project, [replace(CONTENT, annotations=(BIRD, BIRD), complete=False)])
    assert (first.version, second.version) == (1, 2)
    assert first.content == replace(CONTENT, image_name="nest\\x00.png")
    everything = corrections.list_corrections(project)
    assert [c.id for c in everything] == sorted(c.id for c in everything)
    assert len(everything) == 4
    page = corrections.plan_page(project, first.id, 2)
    assert [corrections.list_corrections(project, ids) for ids in page.chunks] == [everything[1:3]]
    assert page.next == (everything[2].id if len(everything) > 3 else None)
    current = corrections.list_current(project)
    assert [(c.content.image_sha256[0], c.content.label_kind, c.version) for c in current] == [
        ("a", LabelKind.OBJECTS, 2),
        ("b", LabelKind.OBJECTS, 1),
        ("a", LabelKind.CAPTIONS, 1),
    ]
    assert corrections.count_images(project) == 2
