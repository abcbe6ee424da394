"""Human ratings: both formats by hand, files that cannot be used, and a fit that is known."""

import hashlib
import io
import math
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from envs import ratings, regression
from envs.goldens.human_rating import HumanRating
from envs.ratings import KINDS, Snippet
from envs.regression import Split
from testbed.errors import InvalidInput

TEXTS = "1_1\t2.0\tcaf\u00e9 &amp; &quot;wine&quot;\u2028here \r\n2\t-1\tawful\r\n".encode()
RATINGS = b"\xef\xbb\xbf2\t-1\t0.8\t[-2, -1, 0]\r\n1_1\t1.5\t0.5\t[1, 2]\r\n"
LEXICON = b"good\t1.9\t0.9\t[2]\r\n:-\xde\t1.0\t0.9\t[1]\r\n"


def archive(path: Path, texts: bytes = TEXTS, rated: bytes = RATINGS, leave: str = "") -> str:
    """Write an archive like the real one; its checksum."""
    files = {f"{name}_GroundTruth": texts for name in KINDS.values()}
    files |= {f"{name}_anonDataRatings": rated for name in KINDS.values()}
    files["vader_sentiment_lexicon"] = LEXICON
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            if name != leave:
                entry = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}.txt")
                entry.size = len(content)
                packed.addfile(entry, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_snippets_by_hand(tmp_path: Path) -> None:
    """Joined by name, not by place; entities decoded; means of the ratings, whatever the files say; a line separator
    inside of a text is not the end of its line."""
    path = tmp_path / "ratings.tar.gz"
    archive(path)
    found = ratings.read(path)
    assert [snippet.kind for snippet in found] == [kind for kind in KINDS for _ in range(2)]
    assert found[0] == Snippet("movie", 'caf\u00e9 & "wine"\u2028here', (1, 2))
    assert found[1] == Snippet("movie", "awful", (-2, -1, 0))
    assert (found[0].mean, found[0].deviation) == (1.5, 0.5)
    assert found[1].deviation == pytest.approx(math.sqrt(2 / 3))
    assert ratings.spread(found[:2]) == pytest.approx(math.sqrt((0.5 + 2.0) / (1 + 2)))
    assert ratings.lexicon(path) == {
        "good": 1.9,
        ":-\u00de": 1.0,
    }


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    missing, path = tmp_path / "missing.tar.gz", tmp_path / "ratings.tar.gz"
    with pytest.raises(InvalidInput, match=r"missing.tar.gz cannot be read: No such file"):
        ratings.read(missing)
    archive(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidInput, match=r"cannot be unpacked: .+"):
        ratings.read(path)
    archive(path, leave="tweets_anonDataRatings")
    with pytest.raises(InvalidInput, match=r"cannot be unpacked: .*tweets_anonDataRatings"):
        ratings.read(path)


@pytest.mark.parametrize(
    ("texts", "rated", "message"),
    [
        (b"1\ttext\n", RATINGS, "movie texts, line 1: needs 3 fields, got 2"),
        (b"\n3\t0\ttext\n", RATINGS, "movie texts, line 2: there are no ratings of '3'"),
        (b"2\t0\t\xff\n", RATINGS, "movie texts must be UTF-8"),
        (TEXTS, b"2\t0\t0\t[1, 5]\n", r"movie ratings, line 1: .*between -4 and 4, got '\[1, 5\]'"),
        (TEXTS, b"2\t0\t0\t[1,\n", r"movie ratings, line 1: .* got '\[1,'"),
        (TEXTS, b"2\t0\t0\t[]\n", r"movie ratings, line 1: .* got '\[\]'"),
        (TEXTS, b"2\t0\t0\t7\n", "movie ratings, line 1: .* got '7'"),
    ],
)
def test_lines_that_cannot_be_read(texts: bytes, rated: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ratings.parse("movie", texts, rated)


def test_what_is_held_out_does_not_depend_on_what_is_learnt_from() -> None:
    snippets = [Snippet(kind, str(i), (0,)) for i in range(50) for kind in KINDS]
    few, many = (regression.chosen(snippets, Split(count, 20)) for count in (40, 120))
    assert few[1] == many[1]
    assert set(few[0]) < set(many[0])
    for learning, testing in (few, many):
        assert not set(learning) & set(testing)
    for part, size in ((few[1], 5), (few[0], 10), (many[0], 30)):
        kinds = [snippets[i].kind for i in part]
        assert all(kinds.count(kind) == size for kind in KINDS)


def test_ridge_minimises_what_it_says() -> None:
    """Its gradient is zero; without a penalty it is least squares."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)) + 2.0, rng.normal(size=40)
    for penalty in (0.0, 0.5):
        weights, constant = regression.ridge(x, y, penalty)
        residual = x @ weights + constant - y
        np.testing.assert_allclose(residual.mean(), 0.0, atol=1e-12)
        np.testing.assert_allclose(x.T @ residual / 40 + penalty * weights, 0.0, atol=1e-12)


def test_fitted_head_predicts_and_is_measured() -> None:
    """Ratings linear in 2 of 30 features with as much noise: correlation sqrt(1/2) at best, slope 1, and the penalty
    is neither end of what is tried."""
    rng = np.random.default_rng(1)
    found = (rng.normal(size=(2400, 30)) * 5.0 + 3.0).astype(np.float32)
    rated = 0.1 * (found[:, 0] - found[:, 1]) + rng.normal(size=2400) * math.sqrt(0.5)
    fit = regression.fit_head(found[:400], rated[:400], found[400:], rated[400:])
    assert min(regression.PENALTIES) < fit.penalty < max(regression.PENALTIES)
    assert fit.correlation == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert fit.slope == pytest.approx(1.0, abs=0.1)
    # Of jointly normal numbers of correlation r this share of pairs agrees.
    assert fit.pair_accuracy == pytest.approx(0.5 + math.asin(fit.correlation) / math.pi, abs=0.02)
    predicted = np.asarray(jax.jit(lambda head, x: head(x))(fit.head, found[400:]))
    assert np.corrcoef(predicted, rated[400:])[0, 1] == pytest.approx(fit.correlation, abs=1e-5)


def test_heads_are_learnt_once(tmp_path: Path) -> None:
    """Found again by content, without the archive; another trunk is learnt anew, and needs it."""
    model, tokenizer = tiny.loaded()
    path, rng = tmp_path / "ratings.tar.gz", np.random.default_rng(0)
    texts = [" ".join(rng.choice(tiny.PLAIN, 1 + i % 60)) for i in range(60)]
    rows = "".join(f"{i}\t0\t{text}\r\n" for i, text in enumerate(texts))
    rated = "".join(f"{i}\t0\t0\t[{i % 4}, {i % 3}]\r\n" for i in range(60))
    archive(path, rows.encode(), rated.encode())

    def learnt(layers: int) -> regression.Fitted:
        trunk, directory = model.trunk(layers), tmp_path / "heads"
        return HumanRating.learnt(trunk, tokenizer, path, directory, Split(160, 80))

    first = learnt(2)
    ratings.read.cache_clear()
    path.unlink()
    jax.tree.map(np.testing.assert_array_equal, learnt(2), first)
    with pytest.raises(InvalidInput, match="cannot be read"):
        learnt(1)

    class Beginning(tiny.Pieces):
        begin = (1,)

    tokenizer = tokenizer._replace(pieces=Beginning())
    with pytest.raises(InvalidInput, match="cannot be read"):
        learnt(2)
