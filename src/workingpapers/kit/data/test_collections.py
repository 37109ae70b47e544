"""Loaders that list many things: prompts, stamps, meanings, surfaces, motifs, tables."""

import gzip
import io
import json
import sqlite3
import tarfile
import wave

import numpy as np
import pytest
import torch
from PIL import Image

from workingpapers.kit.data import keel as keel_module
from workingpapers.kit.data import meshes as meshes_module
from workingpapers.kit.data.dna_binding import dna_binding, tables
from workingpapers.kit.data.efficientnet_lite0 import efficientnet_lite0
from workingpapers.kit.data.jaspar import jaspar
from workingpapers.kit.data.keel import keel
from workingpapers.kit.data.meshes import meshes
from workingpapers.kit.data.openmoji import openmoji
from workingpapers.kit.data.spam_assassin import spam_assassin
from workingpapers.kit.data.spoken_captions import spoken_captions
from workingpapers.kit.data.stamps import stamps
from workingpapers.kit.data.telephone_prompts import telephone_prompts
from workingpapers.kit.data.wordnet import wordnet


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---------------------------------------------------------------- made-up files


def test_both_strands_of_dna_get_the_score(tmp_path):
    lines = ["8-mer\t8-mer\tE-score\tMedian\tZ-score", "AAAAAAAC\tGTTTTTTT\t-0.25\t1\t2"]
    put(tmp_path / "X_REF_R1_8mers.txt", "\n".join([*lines, "ACGTACGT\tACGTACGT\t0.5\t1\t2"]))
    sequences, scores = dna_binding("X_REF_R1", tmp_path)
    assert tables(tmp_path) == ["X_REF_R1"]
    places = (~scores.isnan()).nonzero().flatten()
    bound = {tuple(sequences[i].tolist()): scores[i].item() for i in places}
    assert bound == {
        (0, 0, 0, 0, 0, 0, 0, 1): -0.25,
        (2, 3, 3, 3, 3, 3, 3, 3): -0.25,
        (0, 1, 2, 3, 0, 1, 2, 3): 0.5,
    }
    assert len(sequences.unique(dim=0)) == 65536
    with pytest.raises(ValueError, match="name must be one of X_REF_R1, got 'Y'"):
        dna_binding("Y", tmp_path)


def test_a_meaning_is_read_from_its_line(tmp_path):
    put(
        tmp_path / "data.noun",
        "  1 This software and database\n"
        "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 003 @ 02083346 n 0000 "
        "@i 01317541 n 0000 ~ 01322604 n 0000 | a member of the genus; occurs in breeds; "
        '"the dog barked all night"; "a dog"  \n',
    )
    (meaning,) = wordnet(root=tmp_path)
    assert meaning.key == "n02084071"
    assert meaning.words == ("dog", "domestic dog", "Canis familiaris")
    assert meaning.group == "noun.animal"
    assert meaning.definition == "a member of the genus; occurs in breeds"
    assert meaning.examples == ("the dog barked all night", "a dog")
    assert meaning.broader == ("n02083346", "n01317541")
    with pytest.raises(ValueError, match="kind must be one of noun, verb, adj, adv"):
        wordnet("preposition")


def test_satellites_and_syntactic_markers_are_tidied(tmp_path):
    put(tmp_path / "data.adj", "00004171 00 s 01 moribund(p) 0 001 & 00003939 a 0000 | dying  \n")
    (meaning,) = wordnet("adj", tmp_path)
    assert (meaning.key, meaning.words, meaning.examples) == ("a00004171", ("moribund",), ())


def recording(path, samples, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.array(samples, dtype="<i2").tobytes())


def test_prompts_join_sound_and_text(tmp_path):
    sounds = tmp_path / "usr/share/asterisk/sounds/es_MX_f_Allison"
    recording(sounds / "digits/0.wav", [0, 16384, -32768])
    recording(sounds / "beep.wav", [1])
    text = "\ufeffbeep: pip\n; Core: Sounds\n\ndigits/0: cero\ndigits/0: diez\n"
    name = "usr/share/doc/asterisk-core-sounds-es/core-sounds-es.txt.gz"
    put(tmp_path / name, gzip.compress(text.encode()))
    beep, zero = telephone_prompts("es", tmp_path)
    assert (beep.name, beep.text) == ("beep", "pip")
    assert (zero.name, zero.text) == ("digits/0", "cero")
    assert zero.sound.tolist() == [0.0, 0.5, -1.0]
    recording(sounds / "beep.wav", [1], rate=16000)
    with pytest.raises(ValueError, match="must have 8 kHz"):
        telephone_prompts("es", tmp_path)
    with pytest.raises(ValueError, match="language must be one of en, es, fr, it, ru, got 'de'"):
        telephone_prompts("de")


def test_mails_are_labelled_by_their_folder(tmp_path):
    put(tmp_path / "spam-1/b.txt", "Subject: win\n\ncaf\xe9".encode("latin1"))
    put(tmp_path / "hard-ham-1/c.txt", "Subject: hi\n\nspam?")
    put(tmp_path / "spam-1/b.json", "{}")
    texts, labels = spam_assassin(tmp_path)
    assert texts == ["Subject: hi\n\nspam?", "Subject: win\n\ncafé"]
    assert labels.tolist() == [0, 1]


def test_a_table_of_text_numbers_and_gaps_becomes_numbers(tmp_path):
    put(tmp_path / "odd.dat", "1.5, red, ?, yes\n-2, blue, 7, no\n\n0, red, 1e1, yes\n")
    x, y = keel("odd", root=tmp_path)
    assert x.nan_to_num(-9).tolist() == [[1.5, 1, -9], [-2, 0, 7], [0, 1, 10]]
    assert y.tolist() == [1, 0, 1]
    assert keel_module.tables(root=tmp_path) == ["odd"]
    with pytest.raises(ValueError, match="name must be one of odd, got 'even'"):
        keel("even", root=tmp_path)


@pytest.fixture
def kangaroo(tmp_path):
    (tmp_path / "animals").mkdir()
    Image.new("RGBA", (40, 20), (255, 0, 0, 255)).save(tmp_path / "animals/kangaroo.png")
    Image.new("RGBA", (40, 20)).save(tmp_path / "animals/kangaroo_mirror.png")
    Image.new("RGBA", (40, 20)).save(tmp_path / "animals/silent.png")
    text = "A red kangaroo.\naf.utf8='n Rooi kangeroe\nes.utf8=Un canguro.\n"
    put(tmp_path / "animals/kangaroo.txt", text)
    put(tmp_path / "animals/kangaroo_mirror.txt", text)
    put(tmp_path / "animals/kangaroo_desc_es.ogg", b"sound")
    put(tmp_path / "animals/wallaby_desc_es.ogg", b"no text")
    put(tmp_path / "animals/roo_desc_es.ogg", b"sound")
    put(tmp_path / "animals/roo.txt", "A kangaroo.\nes.utf8=Otro.\n")
    return tmp_path


def test_a_stamp_has_its_captions_and_a_white_square(kangaroo):
    (stamp,) = stamps(kangaroo)
    assert (stamp.category, stamp.caption) == ("animals", "A red kangaroo.")
    assert stamp.translations == {"af": "'n Rooi kangeroe", "es": "Un canguro."}
    picture = stamp.picture(8)
    assert picture.shape == (3, 8, 8)
    assert picture[:, 4, 4].tolist() == [1, 0, 0]
    assert picture[:, 0, 4].tolist() == [1, 1, 1]


def test_copies_of_a_recording_are_left_out(kangaroo):
    (clip,) = spoken_captions("es", kangaroo)
    assert (clip.path.name, clip.text) == ("kangaroo_desc_es.ogg", "Un canguro.")
    assert spoken_captions("fr", kangaroo) == []
    with pytest.raises(ValueError, match="language must be one of es, ru"):
        spoken_captions("en")


def test_polygons_are_cut_into_triangles(tmp_path):
    square = (
        "OFF\n# a square\n4 1 0\n\n0 0 0\n1 0 0 # corner\n1 1 0\n0 1 0.5\n4 0 1 2 3 0.1 0.2 0.3\n"
    )
    point = "COFF 1 0 0\n1 2 3 255 0 0\n"
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as archive:
        for name, text in {"square": square, "point": point, "other": "hello"}.items():
            info = tarfile.TarInfo(f"data/meshes/{name}.off")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    points, triangles = meshes("square", tmp_path)
    assert points.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5]]
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3]]
    points, triangles = meshes("point", tmp_path)
    assert points.tolist() == [[1, 2, 3]] and triangles.shape == (0, 3)
    assert meshes_module.names(tmp_path) == ["other", "point", "square"]
    with pytest.raises(ValueError, match="name must be one of other, point, square, got 'cube'"):
        meshes("cube", tmp_path)
    with pytest.raises(ValueError, match="Object File Format, got 'hello'"):
        meshes("other", tmp_path)


def test_motifs_are_read_from_the_database_and_leave_it_alone(tmp_path):
    path = tmp_path / "JASPAR2024.sqlite"
    base = sqlite3.connect(path)
    base.execute("create table MATRIX (ID, COLLECTION, BASE_ID, VERSION, NAME)")
    base.execute("create table MATRIX_DATA (ID, row, col, val)")
    base.executemany(
        "insert into MATRIX values (?, ?, ?, ?, ?)",
        [
            (3, "CORE", "MA0002", 1, "B"),
            (7, "CORE", "MA0001", 2, "A"),
            (5, "UNVALIDATED", "U", 1, "C"),
        ],
    )
    base.executemany(
        "insert into MATRIX_DATA values (?, ?, ?, ?)",
        [(7, "G", 2, 4.0), (7, "A", 1, 1.0), (3, "T", 1, 2.0), (5, "A", 1, 1.0)],
    )
    base.commit()
    base.close()
    before = path.read_bytes()
    first, second = jaspar(tmp_path)
    assert (first.key, first.name, second.key) == ("MA0001.2", "A", "MA0002.1")
    assert first.counts.tolist() == [[1, 0], [0, 0], [0, 4], [0, 0]]
    assert second.counts.tolist() == [[0], [0], [0], [2]]
    assert path.read_bytes() == before


def test_drawings_have_names_and_tags(tmp_path):
    entry = {
        "hexcode": "1F600", "annotation": "grinning face", "tags": "face, grin", "skintone": "",
        "group": "smileys-emotion", "subgroups": "face-smiling",
    }  # fmt: skip
    put(tmp_path / "data/openmoji.json", json.dumps([entry, entry | {"tags": "", "skintone": 1}]))
    first, second = openmoji(tmp_path)
    assert first.path == tmp_path / "color/svg/1F600.svg"
    assert (first.name, first.tags, first.skin) == ("grinning face", ("face", "grin"), "")
    assert (second.tags, second.skin) == ((), "1")


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "efficientnet-lite0-57934424.pth")
    with pytest.raises(ValueError, match="must hold EfficientNet-Lite0's tensors"):
        efficientnet_lite0(tmp_path)


# ---------------------------------------------------------------- the real ones


@pytest.mark.collections
def test_every_8_mer_was_measured_in_every_table():
    assert len(tables()) == 200
    sequences, scores = dna_binding()
    assert not scores.isnan().any() and scores.abs().max() <= 0.5
    backward = (3 - sequences.flip(1)) @ 4 ** torch.arange(7, -1, -1)
    assert torch.equal(scores, scores[backward])


@pytest.mark.collections
def test_wordnet_is_complete():
    meanings = {kind: wordnet(kind) for kind in ("noun", "verb", "adj", "adv")}
    sizes = {kind: len(found) for kind, found in meanings.items()}
    assert sizes == {"noun": 82115, "verb": 13767, "adj": 18156, "adv": 3621}
    groups = {m.group for kind in ("noun", "verb") for m in meanings[kind]}
    assert len(groups) == 41
    keys = {m.key for found in meanings.values() for m in found}
    assert len(keys) == 117659
    assert all(key in keys for found in meanings.values() for m in found for key in m.broader)


@pytest.mark.collections
@pytest.mark.parametrize(
    ("language", "clips", "minutes"),
    [("en", 568, 25.5), ("es", 527, 31.0), ("fr", 561, 26.0), ("it", 599, 23.8), ("ru", 576, 24.8)],
)
def test_prompts_are_as_many_and_as_long_as_counted(language, clips, minutes):
    prompts = telephone_prompts(language)
    assert len(prompts) == clips
    spoken = sum(len(prompt.sound) for prompt in prompts) / 8000 / 60
    assert spoken == pytest.approx(minutes, abs=0.05)
    assert sum(not prompt.text for prompt in prompts) < 50


@pytest.mark.collections
def test_spam_assassin_is_what_was_counted():
    texts, labels = spam_assassin()
    assert len(texts) == 6046 and labels.sum() == 1896
    assert len({text.split("\n\n", 1)[-1] for text in texts}) == 5875


@pytest.mark.collections
def test_keel_has_its_tables_unrounded():
    assert len(keel_module.tables()) == 43 and len(keel_module.tables(imbalanced=True)) == 100
    x, y = keel("iris")
    assert x[0].tolist() == pytest.approx([5.1, 3.5, 1.4, 0.2])
    assert y.bincount().tolist() == [50, 50, 50]
    assert keel("phoneme")[0].shape == (5404, 5)
    assert keel("pima", imbalanced=True)[0].shape == (768, 8)


@pytest.mark.collections
def test_stamps_are_what_was_counted():
    found = stamps()
    assert len(found) == 785 and len({stamp.caption for stamp in found}) == 674
    assert sum(stamp.category == "animals" for stamp in found) == 146
    assert len({stamp.category for stamp in found}) == 16


@pytest.mark.collections
def test_spoken_captions_are_what_was_counted():
    sizes = {"es": 753, "ru": 782, "bg": 774, "fr": 770, "ro": 777, "be": 617}
    assert {language: len(spoken_captions(language)) for language in sizes} == sizes
    assert spoken_captions("es")[0].path.read_bytes()[:4] == b"OggS"


@pytest.mark.collections
def test_surfaces_have_their_known_sizes():
    assert len(meshes_module.names()) == 138
    assert meshes("armadillo")[1].shape == (52000, 3)
    points, triangles = meshes()
    assert triangles.shape == (75408, 3) and triangles.max() == len(points) - 1


@pytest.mark.collections
def test_jaspar_is_what_was_counted():
    motifs = jaspar()
    widths = [motif.counts.shape[1] for motif in motifs]
    assert len(motifs) == 4279 and (min(widths), max(widths)) == (4, 35)
    assert [m.key for m in motifs if m.name == "E2F1"] == ["MA0024.1", "MA0024.2", "MA0024.3"]


@pytest.mark.collections
def test_openmoji_has_its_drawings():
    found = openmoji()
    assert len(found) == 4495 and sum(emoji.group == "people-body" for emoji in found) == 2418
    assert all(emoji.path.is_file() for emoji in found)


@pytest.mark.collections
@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.5), (0.45, 0.225)])
def test_efficientnet_sees_a_cat(mean, deviation):
    from workingpapers.kit.data.pictures import test_pictures

    model = efficientnet_lite0()
    assert sum(p.numel() for p in model.parameters()) == 4652008 and not model.training
    cat = test_pictures()["chelsea"][None, :, :, 75:375]
    small = torch.nn.functional.interpolate(cat, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        top = model((small - mean) / deviation).topk(3).indices[0].tolist()
    assert set(top) & {281, 282, 283, 284, 285}  # the five cats of ImageNet
