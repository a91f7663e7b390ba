import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from prompts.tasks import ADDED_TOKENS, CONTROL, IMAGE
from prompts.vocabulary import Token, Vocabulary, byte_alphabet, classify, special_in, tokens_of


@pytest.mark.parametrize("fields", [{}, {"letters": b"a", "location": 1}, {"structure": "<sep>", "control": "<s>"}])
def test_a_token_is_exactly_one_thing(fields):
    with pytest.raises(ValueError, match="one of"):
        Token(**fields)


@pytest.mark.parametrize("location", [-1, 1000])
def test_a_location_is_one_of_a_thousand(location):
    with pytest.raises(ValueError, match="0 … 999"):
        Token(location=location)


def test_nothing_and_zero_are_things():
    assert Token(letters=b"").letters == b""
    assert Token(location=0).location == 0


def test_every_byte_has_one_printable_character():
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert all(c.isprintable() and not c.isspace() for c in alphabet)


@pytest.mark.parametrize(("shown", "byte"), [("Ġ", b" "), ("Ċ", b"\n"), ("a", b"a"), ("Ã©", "é".encode())])
def test_byte_level_letters_are_read_as_bytes(shown, byte):
    assert classify(shown, added=False) == Token(letters=byte)


def test_letters_outside_the_byte_alphabet_are_kept_as_they_are():
    assert classify("a b", added=False) == Token(letters=b"a b")


@pytest.mark.parametrize("token", CONTROL)
def test_control_tokens_carry_no_content(token):
    assert classify(token) == Token(control=token)


@pytest.mark.parametrize("token", [t for t in ADDED_TOKENS if not t.startswith("<loc_") and t != IMAGE])
def test_structure_tokens_are_known_by_name(token):
    assert classify(token) == Token(structure=token)


def test_location_tokens_are_known_by_number():
    assert [classify(f"<loc_{i}>").location for i in range(1000)] == list(range(1000))


@pytest.mark.parametrize("token", ["<sep>", "<s>", "<loc_5>"])
def test_letters_that_look_like_a_token_of_their_own_are_letters(token):
    assert classify(token, added=False) == Token(letters=token.encode())


def test_a_fine_tuned_models_own_token_is_its_letters():
    assert classify("<VQA>") == Token(letters=b"<VQA>")


def test_a_vocabulary_gives_each_id_its_meaning():
    vocabulary = Vocabulary({"<s>": 0, "Ġcat": 1, "<loc_7>": 2, "<sep>": 4}, added=["<s>", "<loc_7>", "<sep>"])
    assert len(vocabulary) == 5
    assert list(vocabulary) == [vocabulary[i] for i in range(5)]
    assert vocabulary[0] == Token(control="<s>")
    assert vocabulary[1] == Token(letters=b" cat")
    assert vocabulary[2] == Token(location=7)
    assert vocabulary[4] == Token(structure="<sep>")
    # A gap in the ids, the padding of the embedding, and what labels hold where there is nothing to learn.
    assert all(vocabulary[i].control for i in (3, 5, 51327, -1, -100))


def test_an_empty_vocabulary_knows_nothing():
    assert len(Vocabulary({}, [])) == 0


def test_an_answer_written_as_text_is_cut_into_tokens():
    assert tokens_of("</s><s>a <b><loc_5><sep></poly><pad>") == [
        Token(control="</s>"),
        Token(control="<s>"),
        Token(letters=b"a <b>"),
        Token(location=5),
        Token(structure="<sep>"),
        Token(structure="</poly>"),
        Token(control="<pad>"),
    ]


@given(st.text())
def test_text_without_a_special_token_is_one_run_of_letters(text):
    text = text.replace("<", "")
    assert tokens_of(text) == ([Token(letters=text.encode())] if text else [])
    assert special_in(text) is None


@given(st.text(), st.sampled_from([*CONTROL, *ADDED_TOKENS]), st.text())
def test_a_special_token_is_found_within_text(before, token, after):
    before = before.replace("<", "")
    assert special_in(before + token + after) == token


def test_a_tokenizers_ids_are_read_as_the_text_they_were_made_from():
    alphabet = {token: i for i, token in enumerate(byte_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet | {"ca": 256, "Ġca": 257}, merges=[("c", "a"), ("Ġ", "ca")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([*CONTROL, *ADDED_TOKENS])
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    vocabulary = Vocabulary(tokenizer.get_vocab(), added)
    text = "<s>a cat, naïve 🐈<loc_0><loc_999><sep>देव<poly></s>"
    read = [vocabulary[i] for i in tokenizer.encode(text).ids]
    assert Token(letters=b" ca") in read
    assert joined(read) == joined(tokens_of(text))


def joined(tokens):
    """Runs of letters made one, since how a text is cut into letters is the tokenizer's own affair."""
    parts = []
    for token in tokens:
        if token.letters is not None and parts and parts[-1].letters is not None:
            parts[-1] = Token(letters=parts[-1].letters + token.letters)
        else:
            parts.append(token)
    return parts
