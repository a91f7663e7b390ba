"""Corrections in both databases: none is ever lost."""

from dataclasses import replace

import pytest

from labels.label_kind import LabelKind
from prompts.annotations import Text
from server.store import InvalidStateError
from server.store.projects.errors import NotFoundError
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


def test_a_withdrawn_correction_counts_no_more_and_stays_in_the_history(store: ProjectStore, project: Project) -> None:
    corrections = store.corrections
    caption = replace(CONTENT, label_kind=LabelKind.CAPTIONS, annotations=(Text(label="A bird."),))
    first, words = corrections.add_corrections(project, [CONTENT, caption])
    withdrawn = corrections.withdraw_correction(project, first.id, "Grace")
    assert (withdrawn.version, withdrawn.withdrawn, withdrawn.content.author) == (2, True, "Grace")
    assert withdrawn.content.annotations == ()
    assert corrections.list_corrections(project) == [first, words, withdrawn]
    assert corrections.list_current(project) == [words]
    assert corrections.count_images(project) == 1
    corrections.withdraw_correction(project, words.id, "Grace")
    assert corrections.list_current(project) == []
    assert corrections.count_images(project) == 0
    (again,) = corrections.add_corrections(project, [CONTENT])
    assert (again.version, again.withdrawn) == (3, False)
    assert corrections.list_current(project) == [again]
    assert corrections.count_images(project) == 1


def test_only_the_current_correction_of_the_project_can_be_withdrawn(store: ProjectStore, project: Project) -> None:
    (first,) = store.corrections.add_corrections(project, [CONTENT])
    (second,) = store.corrections.add_corrections(project, [CONTENT])
    with pytest.raises(InvalidStateError, match="version 1, and version 2 of this image is the current one"):
        store.corrections.withdraw_correction(project, first.id, "")
    withdrawn = store.corrections.withdraw_correction(project, second.id, "")
    for each in (second, withdrawn):
        with pytest.raises(InvalidStateError):
            store.corrections.withdraw_correction(project, each.id, "")
    other = store.create_project(replace(project, name="cats", folder="other"))
    for there, correction_id in ((other, second.id), (project, 10**6)):
        with pytest.raises(NotFoundError, match=f"has no correction {correction_id}"):
            store.corrections.withdraw_correction(there, correction_id, "")
    assert len(store.corrections.list_corrections(project)) == 3
