import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from prompts.special_tokens import ADDED_TOKENS, CONTROL_TOKENS, IMAGE
from prompts.vocabulary import (
    Token,
    Vocabulary,
    classify_token,
    find_special_token,
    tokenize_answer,
    unicode_to_bytes,
)


@pytest.mark.parametrize("fields", [{}, {"text_bytes": b"a", "location": 1}, {"structure": "<sep>", "control": "<s>"}])
def test_a_token_has_exactly_one_field(fields):
    with pytest.raises(ValueError, match="one of"):
        Token(**fields)


@pytest.mark.parametrize("location", [-1, 1000])
def test_an_invalid_location_is_rejected(location):
    with pytest.raises(ValueError, match="0 … 999"):
        Token(location=location)


def test_empty_bytes_and_location_zero_are_valid():
    assert Token(text_bytes=b"").text_bytes == b""
    assert Token(location=0).location == 0


def test_every_byte_has_one_printable_character():
    alphabet = unicode_to_bytes()
    assert sorted(alphabet.values()) == list(range(256))
    assert all(c.isprintable() and not c.isspace() for c in alphabet)


@pytest.mark.parametrize(("character", "byte"), [("Ġ", b" "), ("Ċ", b"\n"), ("a", b"a"), ("Ã©", "é".encode())])
def test_byte_level_text_is_decoded_to_bytes(character, byte):
    assert classify_token(character, added=False) == Token(text_bytes=byte)


def test_text_outside_the_byte_alphabet_is_encoded_as_utf8():
    assert classify_token("a b", added=False) == Token(text_bytes=b"a b")


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_control_tokens_are_recognized(token):
    assert classify_token(token) == Token(control=token)


@pytest.mark.parametrize("token", [t for t in ADDED_TOKENS if not t.startswith("<loc_") and t != IMAGE])
def test_structure_tokens_are_recognized(token):
    assert classify_token(token) == Token(structure=token)


def test_location_tokens_are_recognized():
    assert [classify_token(f"<loc_{i}>").location for i in range(1000)] == list(range(1000))


@pytest.mark.parametrize("token", ["<sep>", "<s>", "<loc_5>"])
def test_byte_level_text_that_looks_like_a_special_token_is_text(token):
    assert classify_token(token, added=False) == Token(text_bytes=token.encode())


def test_the_token_of_a_fine_tuned_model_is_text():
    assert classify_token("<VQA>") == Token(text_bytes=b"<VQA>")


def test_a_vocabulary_maps_each_id_to_its_token():
    vocabulary = Vocabulary({"<s>": 0, "Ġcat": 1, "<loc_7>": 2, "<sep>": 4}, added=["<s>", "<loc_7>", "<sep>"])
    assert len(vocabulary) == 5
    assert list(vocabulary) == [vocabulary[i] for i in range(5)]
    assert vocabulary[0] == Token(control="<s>")
    assert vocabulary[1] == Token(text_bytes=b" cat")
    assert vocabulary[2] == Token(location=7)
    assert vocabulary[4] == Token(structure="<sep>")
    # A gap in the ids, the padding of the embedding, and the ignored label of the loss.
    assert all(vocabulary[i].control for i in (3, 5, 51327, -1, -100))


def test_an_empty_vocabulary_has_length_zero():
    assert len(Vocabulary({}, [])) == 0


def test_an_answer_string_is_split_into_tokens():
    assert tokenize_answer("</s><s>a <b><loc_5><sep></poly><pad>") == [
        Token(control="</s>"),
        Token(control="<s>"),
        Token(text_bytes=b"a <b>"),
        Token(location=5),
        Token(structure="<sep>"),
        Token(structure="</poly>"),
        Token(control="<pad>"),
    ]


@given(st.text())
def test_text_without_a_special_token_is_one_token(text):
    text = text.replace("<", "")
    assert tokenize_answer(text) == ([Token(text_bytes=text.encode())] if text else [])
    assert find_special_token(text) is None


@given(st.text(), st.sampled_from([*CONTROL_TOKENS, *ADDED_TOKENS]), st.text())
def test_a_special_token_is_found_inside_text(before, token, after):
    before = before.replace("<", "")
    assert find_special_token(before + token + after) == token


def test_the_ids_of_a_tokenizer_map_back_to_its_text():
    alphabet = {token: i for i, token in enumerate(unicode_to_bytes())}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet | {"ca": 256, "Ġca": 257}, merges=[("c", "a"), ("Ġ", "ca")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([*CONTROL_TOKENS, *ADDED_TOKENS])
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    vocabulary = Vocabulary(tokenizer.get_vocab(), added)
    text = "<s>a cat, naïve 🐈<loc_0><loc_999><sep>देव<poly></s>"
    found = [vocabulary[i] for i in tokenizer.encode(text).ids]
    assert Token(text_bytes=b" ca") in found
    assert join_text(found) == join_text(tokenize_answer(text))


def join_text(tokens):
    """Joins consecutive text tokens, because a tokenizer may split text anywhere."""
    parts = []
    for token in tokens:
        if token.text_bytes is not None and parts and parts[-1].text_bytes is not None:
            parts[-1] = Token(text_bytes=parts[-1].text_bytes + token.text_bytes)
        else:
            parts.append(token)
    return parts
