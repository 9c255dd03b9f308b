"""Reading a matrix: each format, and each way in which a file can be wrong."""

import csv
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse

from dlngeo.jobs.load import DataError, load, photograph
from dlngeo.jobs.tables import Form


class Bomb:
    """An object whose unpickling creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def matrix(missing=True):
    out = np.random.default_rng(0).standard_normal((9, 7))
    if missing:
        out[2, 3] = out[0, 0] = np.nan
    return out


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def npy(array, allow_pickle=True):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_header(shape, descr="<f8"):
    """A .npy file that claims a shape and holds nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def csr_npz(**changes):
    """A SciPy sparse archive, with some members replaced."""
    parts = {
        "format": np.array(b"csr"),
        "shape": np.array([9, 7]),
        "data": np.arange(30.0),
        "indices": np.arange(30) % 7,
        "indptr": np.array([0, 7, 14, 21, 28, 30, 30, 30, 30, 30]),
    }
    return zipped(**{name: npy(np.asarray(value)) for name, value in (parts | changes).items()})


def test_npy_and_npz(tmp_path):
    a = matrix()
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "one.npz", a)
    np.savez_compressed(tmp_path / "named.npz", arr=a, other=np.zeros((3, 3)), label=np.array(["x"]))
    np.savez(tmp_path / "only.npz", weights=a, vector=np.zeros(3))
    for name in ("a.npy", "one.npz", "named.npz", "only.npz"):
        np.testing.assert_array_equal(load(tmp_path / name).matrix, a)
    np.save(tmp_path / "i.npy", np.arange(63, dtype=np.int16).reshape(9, 7).T)
    assert load(tmp_path / "i.npy").matrix.dtype == np.float64


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_sparse_entries_that_are_absent_are_missing(tmp_path, form):
    a = matrix(missing=False)
    a[np.random.default_rng(1).random(a.shape) < 0.4] = 0
    scipy.sparse.save_npz(tmp_path / "a.npz", scipy.sparse.coo_array(a).asformat(form))
    loaded = load(tmp_path / "a.npz").matrix
    stored = ~np.isnan(loaded)
    assert (stored >= (a != 0)).all()
    np.testing.assert_array_equal(loaded[stored], a[stored])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_csv(tmp_path, delimiter, header):
    a = matrix()
    lines = [delimiter.join("" if np.isnan(x) else repr(float(x)) for x in row) for row in a]
    lines[5] = lines[5].replace(lines[5].split(delimiter)[2], " NaN ")
    a[5, 2] = np.nan
    if header:
        lines.insert(0, delimiter.join(f'"film {k}"' for k in range(7)))
    path = write(tmp_path / "a.csv", "\ufeff" + "\r\n".join(lines) + "\r\n\r\n")
    data = load(path)
    np.testing.assert_array_equal(data.matrix, a)
    columns = tuple(f"film {k}" for k in range(7)) if header else None
    assert data.form == Form(False, None, columns, (), delimiter, ".")


TABLE = pd.DataFrame(matrix(), columns=range(7))
COUNTS = pd.DataFrame(np.random.default_rng(1).integers(1, 6, (12, 7)))
NUMBERS, LETTERS = tuple("0123456"), tuple("abcdefghi")
R = TABLE.set_axis([f"V{k}" for k in range(7)], axis=1).set_axis(range(1, 10))


@pytest.mark.parametrize(
    ("text", "rows", "columns", "names", "options"),
    [
        (TABLE.to_csv(), tuple("012345678"), NUMBERS, ("",), {}),
        (TABLE.to_csv(index=False), None, NUMBERS, (), {}),
        (TABLE.to_csv(header=False), tuple("012345678"), None, (), {"index": True}),
        (TABLE.to_csv(header=False, index=False), None, None, (), {}),
        (TABLE.set_axis(list(LETTERS)).to_csv(index_label="who"), LETTERS, NUMBERS, ("who",), {}),
        (TABLE.set_axis([9, 2, 4, 6, 1, 11, 30, 5, 3]).to_csv(), ("9", "2", "4", "6", "1", "11", "30", "5", "3"),
         NUMBERS, ("",), {}),
        (R.to_csv(quoting=csv.QUOTE_NONNUMERIC), tuple("123456789"), tuple(R.columns), ("",), {}),
        (R.to_csv()[1:], tuple("123456789"), tuple(R.columns), ("",), {}),
        (TABLE.to_csv(index=False, header=False, lineterminator=",\n"), None, None, (), {}),
        (R.to_csv(index=False, lineterminator=",\n"), None, tuple(R.columns), (), {}),
        (TABLE.to_csv(sep="\t"), tuple("012345678"), NUMBERS, ("",), {}),
        (TABLE.to_csv(sep=";", decimal=","), tuple("012345678"), NUMBERS, ("",), {}),
        (R.to_csv(sep="\t", decimal=",", index=False), None, tuple(R.columns), (), {}),
    ],
    ids=[*"abcdefghijklm"],
)  # fmt: skip
def test_names_in_tables_are_recognised(tmp_path, text, rows, columns, names, options):
    data = load(write(tmp_path / "a.csv", text), **options)
    np.testing.assert_array_equal(data.matrix, matrix())
    assert (data.form.rows, data.form.columns, data.form.names) == (rows, columns, names)


LONG = pd.DataFrame({"user": np.arange(60) % 7 + 3, "item": np.arange(60) // 7, "rating": np.arange(60) % 5 + 0.5})
WORDS = LONG.assign(user=[f"u{k}" for k in LONG.user]).rename(columns={"rating": "x"})
DATED = LONG.assign(time=1)


@pytest.mark.parametrize(
    ("table", "written", "options"),
    [
        (LONG, {}, {}),
        (LONG, {"index": False}, {}),
        (LONG, {"index": False, "header": False}, {"long": True}),
        (WORDS, {"index": False}, {}),
        (WORDS, {"index": False, "header": False, "sep": ";", "decimal": ","}, {}),
        (DATED, {"index": False}, {"long": True}),
    ],
    ids=["numbered", "named", "bare", "words", "european", "dated"],
)
def test_long_tables_become_matrices(tmp_path, table, written, options):
    data = load(write(tmp_path / "a.csv", table.to_csv(**written)), **options)
    wide = table.pivot(index="user", columns="item", values=table.columns[2])
    rows, columns = list(map(str, wide.index)), list(map(str, wide.columns))
    at = [rows.index(name) for name in data.form.rows], [columns.index(name) for name in data.form.columns]
    np.testing.assert_array_equal(data.matrix, wide.to_numpy()[np.ix_(*at)])
    assert data.form.names == (() if written.get("header") is False else tuple(table.columns[:3]))
    assert data.form.long


@pytest.mark.parametrize(
    ("text", "message", "settled", "shape"),
    [
        (TABLE.to_csv(header=False), "first column counts 0, 1, … .* --index or --no-index", {"index": False}, (9, 8)),
        (COUNTS.to_csv(index=False), "line 1 counts 0, 1, … .* --header or --no-header", {"header": True}, (12, 7)),
        (TABLE.set_axis(range(2010, 2017), axis=1).to_csv(index=False), "counts 2010", {"header": True}, (9, 7)),
        (LONG.to_csv(index=False, header=False), "--long or --wide", {"long": False}, (60, 3)),
        (DATED.to_csv(index=False), "a fourth column.* --long or --wide", {"long": False}, (60, 4)),
        ("film,300\n" + "1,2.5\n2,1.5\n" * 9, "numbers and what is none, as 'film'", {"header": True}, (18, 2)),
    ],
    ids=["index", "header", "years", "long", "dated", "mixed"],
)
def test_two_readings_are_asked_back_with_the_option_that_settles_it(tmp_path, text, message, settled, shape):
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(DataError, match=message):
        load(path)
    assert load(path, **settled).matrix.shape == shape


def test_matrix_market(tmp_path):
    a = matrix(missing=False)
    scipy.io.mmwrite(tmp_path / "dense.mtx", a, precision=17)
    np.testing.assert_allclose(load(tmp_path / "dense.mtx").matrix, a, rtol=1e-15)
    a[a < -0.3] = 0
    scipy.io.mmwrite(tmp_path / "sparse.mtx", scipy.sparse.coo_array(a), precision=17)
    np.testing.assert_allclose(load(tmp_path / "sparse.mtx").matrix, np.where(a == 0, np.nan, a), rtol=1e-15)


def test_a_picture_has_a_peak(tmp_path):
    np.save(tmp_path / "a.npy", np.abs(matrix()))
    np.save(tmp_path / "b.npy", np.arange(63).reshape(9, 7) / 100)
    assert load(tmp_path / "a.npy", picture=True).peak == 255
    assert load(tmp_path / "b.npy", picture=True).peak == 1
    assert load(tmp_path / "b.npy").peak is None
    small = photograph(shrink=8)
    assert small.matrix.shape == (53, 53)
    assert small.peak == 1
    assert 0 <= small.matrix.min() < 0.2 < 0.8 < small.matrix.max() <= 1


FULL = matrix(missing=False)
BAD = {
    "suffix.txt": (b"1,2\n3,4\n", "use .npy, .npz, .csv, .mtx"),
    "nosuffix": (b"1,2\n3,4\n", "a file without a suffix"),
    "empty.npy": (b"", "is empty"),
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n\n\n", "no numbers"),
    "junk.npy": (bytes(range(256)), "not a readable .npy"),
    "junk.npz": (bytes(range(256)), "not a readable .npz"),
    "junk.mtx": (bytes(range(256)), "not a readable .mtx"),
    "junk.csv": (bytes(range(256)), "not text"),
    "nul.csv": (b"1,2\n\0,4\n", "is not"),
    "cut.npy": (npy(FULL)[:-8], "not a readable .npy"),
    "cut.npz": (zipped(arr=npy(FULL))[:-40], "not a readable .npz"),
    "cut.mtx": (b"%%MatrixMarket matrix coordinate real general\n9 7 30\n1 1 1.0\n", "not a readable .mtx"),
    "vector.npy": (npy(np.arange(63.0)), "a matrix has two axes"),
    "cube.npy": (npy(np.zeros((9, 7, 3))), "a matrix has two axes"),
    "row.npy": (npy(np.arange(63.0)[None]), "at least 2×2"),
    "none.npy": (npy(np.zeros((0, 7))), "at least 2×2"),
    "text.npy": (npy(np.array([["a", "b"]] * 9)), "no real numbers"),
    "complex.npy": (npy(FULL + 1j), "no real numbers"),
    "missing.npy": (npy(np.full((9, 7), np.nan)), "all entries are missing"),
    "missing.csv": (b",,\n,,\n,,\n", "all entries are missing"),
    "few.npy": (npy(np.eye(4)), "only 16 entries are known"),
    "inf.npy": (npy(np.where(FULL > 1, np.inf, FULL)), "infinite entries"),
    "inf.csv": (b"1,inf\n" * 12, "infinite entries"),
    "constant.npy": (npy(np.ones((9, 7))), "nothing to complete"),
    "overflow.npy": (npy(FULL * 1e300), "too large or too small"),
    "underflow.npy": (npy(FULL * 1e-300), "too large or too small"),
    "huge.npy": (npy_header((10**6, 10**6)), r"too large \(1000000×1000000\)"),
    "huge.npz": (zipped(arr=npy_header((10**6, 10**6))), "too large"),
    "hugesparse.npz": (csr_npz(shape=[10**9, 10**9]), "too large"),
    "huge.mtx": (b"%%MatrixMarket matrix coordinate real general\n999999 999999 1\n1 1 1.0\n", "too large"),
    "two.npz": (zipped(a=npy(FULL), b=npy(FULL)), "keep one, or call it arr"),
    "nomatrix.npz": (zipped(a=npy(np.zeros(3)), b=npy(np.zeros(3))), "holds 0 matrices"),
    "nothing.npz": (zipped(), "holds 0 matrices"),
    "indices.npz": (csr_npz(indices=np.arange(30) % 7 + 7**9), "not a readable .npz"),
    "indptr.npz": (csr_npz(indptr=[0, 999999, 3, 21, 28, 30, 30, 30, 30, 30]), "not a readable .npz"),
    "format.npz": (csr_npz(format=np.array(b"xyz")), "not a readable .npz"),
    "pattern.mtx": (b"%%MatrixMarket matrix coordinate pattern general\n9 7 1\n1 1\n", "no real numbers"),
    "twice.mtx": (b"%%MatrixMarket matrix coordinate real general\n9 7 2\n1 1 1.0\n1 1 2.0\n", "entries twice"),
    "recursion.npy": (npy_header((9, 7), "[" * 3000), "not a readable .npy"),
    "token.npy": (npy_header((9, 7)).replace(b"(9, 7)", b"(9, 7\x00"), "not a readable .npy"),
    "longheader.npz": (zipped(arr=npy_header((9, 7), "(" * 9000)), "not a readable .npz"),
    "underscore.csv": (b"1.5,2\n1_0,4\n", "'1_0' in line 2, column 1, is not a number; .* pass --index"),
    "digits.csv": ("1.5,2\n3,٣\n".encode(), "'٣' in line 2, column 2"),
    "points.csv": (b"1,5;2,5\n2.5;3,5\n" * 9, "'2.5' in line 2"),
    "thousands.tsv": (b"1,234\t2,345\n" * 9, "may be a decimal or thousands"),
    "short.csv": (b"1,2,4\n4,5\n", "line 2 has 2 cells, line 1 has 3"),
    "late.csv": (b"1.5,2,\n" * 1500 + b"1.5,2,7\n", "line 1501 has a cell after the separator .* '7'"),
    "again.csv": (b"user,item,rating\n" + b"a,b,1\na,c,2\nd,b,1\n" * 2, "two values at 'a', 'b'"),
    "nameless.csv": (b"user,item,rating\n" + b"a,b,1\na,c,2\nd,,1\n", "line 4 names no row"),
    "toolong.csv": ("i,j,value\n" + "".join(f"a{k},b{k},1\n" for k in range(5001)), "too large .5001×5001"),
    "words.csv": (b"a,b\n1,2\nx,3\n", "'x' in line 3, column 1, is not a number"),
    "ragged.csv": (b"1,2\n3,4,5\n", "line 2 has 3 cells, line 1 has 2"),
    "prose.csv": (b"It was the best of times\n", "no numbers"),
    "column.csv": (b"1\n" * 30, "at least 2×2"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_says_what_is_wrong_in_one_line(tmp_path, name):
    content, message = BAD[name]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 400


def test_what_is_no_file_says_so(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "absent.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        load(tmp_path / "folder.npy")


def test_options_of_tables_are_refused_elsewhere(tmp_path):
    with pytest.raises(DataError, match="is no table of text"):
        load(write(tmp_path / "a.npy", npy(FULL)), long=True)


def test_pickles_are_never_loaded(tmp_path):
    trace = tmp_path / "trace"
    bomb = np.full((3, 3), None, dtype=object)
    bomb[:] = Bomb(trace)
    contents = {
        "object.npy": npy(bomb),
        "raw.npy": pickle.dumps(Bomb(trace)),
        "object.npz": zipped(arr=npy(bomb)),
        "raw.npz": pickle.dumps(Bomb(trace)),
        "member.npz": zipped(arr=pickle.dumps(Bomb(trace))),
        "beside.npz": zipped(arr=npy(FULL), other=npy(bomb)),
        "sparse.npz": csr_npz(data=bomb.ravel()),
        "format.npz": csr_npz(format=bomb),
    }
    for name, content in contents.items():
        path = write(tmp_path / name, content)
        if name == "beside.npz":
            np.testing.assert_array_equal(load(path).matrix, FULL)
        else:
            with pytest.raises(DataError):
                load(path)
        assert not trace.exists(), name
    pickle.loads(contents["raw.npy"])
    assert trace.exists(), "the bomb was meant to work"
