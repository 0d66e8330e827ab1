"""Every kind of source gives the same rows; what is not there is named with what is."""

from __future__ import annotations

import gzip
import os
import re
import zipfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pme_lightning.data import hub
from pme_lightning.data.cache import slices
from pme_lightning.data.csv_files import CsvOptions
from pme_lightning.data.parts import ALL
from pme_lightning.data.sources import find_part, find_parts
from pme_lightning.errors import BadInput

FRAME = pl.DataFrame({"label": [0, 1, 1], "code": ["007", "7", None], "text": ["a,b", 'say "x"', "é"]})
CSV = 'label,code,text\n0,007,"a,b"\n1,7,"say ""x"""\n1,,é\n'
AS_TEXT = FRAME.with_columns(pl.col("label").cast(pl.String))


def rows(path: Path | str, csv: CsvOptions | None = None, **options: str) -> pl.DataFrame:
    return find_part(str(path), **options).frame(csv or CsvOptions()).collect()  # type: ignore[arg-type]


def test_csv_cells_stay_text_and_empty_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    assert rows(tmp_path / "a.csv").equals(AS_TEXT)
    part = find_part(str(tmp_path / "a.csv"))
    assert part.types(CsvOptions()) == {"label": pl.Int64, "code": pl.Int64, "text": pl.String}


def test_csv_quoted_empty_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('label,a\n0,""\n1,null\n0,\n')
    assert rows(tmp_path / "a.csv")["a"].to_list() == [None, "null", None]


def test_csv_without_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV.split("\n", 1)[1])
    names = ("label", "code", "text")
    assert rows(tmp_path / "a.csv", CsvOptions(header=False, column_names=names)).equals(AS_TEXT)
    assert rows(tmp_path / "a.csv", CsvOptions(header=False)).columns == ["column_1", "column_2", "column_3"]
    with pytest.raises(BadInput, match=r"data.column_names has 2 names, but '.*a.csv' has 3 columns"):
        rows(tmp_path / "a.csv", CsvOptions(header=False, column_names=("a", "b")))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_csv_column_names_are_there_once(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"

    def write(text: str) -> None:
        file.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())

    write('\n"label",u,label\n1,a,0\n')
    with pytest.raises(BadInput, match=r"column name 'label' is there 2 times in '.*a.csv"):
        rows(file)
    assert rows(file, CsvOptions(column_names=("label", "u", "copy"))).rows() == [("1", "a", "0")]
    with pytest.raises(BadInput, match=r"column name 'u' is there 2 times in data.column_names"):
        rows(file, CsvOptions(column_names=("label", "u", "u")))
    # Names that only look like what the engine makes of a second column.
    write("label,u,u_duplicated_0\n1,a,0\n")
    assert rows(file).columns == ["label", "u", "u_duplicated_0"]


def test_parquet_column_names_are_there_once(tmp_path: Path) -> None:
    table = pa.table([pa.array([1]), pa.array([2]), pa.array([0])], names=["label", "u", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"a.parquet' cannot be read: .*'label' has more than one occurrence"):
        rows(tmp_path / "a.parquet")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_blank_lines_are_no_rows(tmp_path: Path, newline: str) -> None:
    lines = CSV.splitlines()
    (tmp_path / "a.csv").write_bytes(newline.join(["", *lines[:2], "", "", *lines[2:], "", ""]).encode())
    part = find_part(str(tmp_path / "a.csv"))
    assert rows(tmp_path / "a.csv").equals(AS_TEXT)
    assert part.frame(CsvOptions()).select(pl.len()).collect().item() == 3
    assert part.frame(CsvOptions()).select("code").collect()["code"].to_list() == ["007", "7", None]


@pytest.mark.parametrize("header", [True, False])
def test_csv_with_carriage_returns_alone(tmp_path: Path, header: bool) -> None:
    (tmp_path / "a.csv").write_bytes(CSV.replace("\n", "\r").encode())
    with pytest.raises(BadInput, match=r"the lines of '.*a.csv' end in a carriage return alone"):
        rows(tmp_path / "a.csv", CsvOptions(header=header, column_names=None if header else ("label", "code", "text")))


def test_csv_compressed(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wt", encoding="utf-8") as file:
        file.write(CSV)
    assert rows(tmp_path / "a.csv.gz").equals(AS_TEXT)


@pytest.mark.parametrize(
    ("name", "separator", "written"),
    [("a.tsv", None, "\t"), ("a.txt", None, "\t"), ("a.csv", ";", ";"), ("a.csv", "\\t", "\t"), ("a.csv", "tab", "\t")],
)
def test_separators(tmp_path: Path, name: str, separator: str | None, written: str) -> None:
    FRAME.write_csv(tmp_path / name, separator=written)
    assert rows(tmp_path / name, CsvOptions(separator=separator)).equals(AS_TEXT)


def test_separator_must_be_one_character(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    with pytest.raises(BadInput, match=r"data.separator must be one character, not '::'"):
        rows(tmp_path / "a.csv", CsvOptions(separator="::"))


def test_ragged_csv_is_one_line_of_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,a\n0,1\n1,2,3,4\n")
    frame = find_part(str(tmp_path / "a.csv")).frame(CsvOptions())
    with pytest.raises(BadInput, match="the train split cannot be read: ") as error:
        list(slices(frame, ["label", "a"], "the train split"))
    assert "\n" not in str(error.value)


def test_parquet_file_and_wrong_content(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet").equals(FRAME)
    (tmp_path / "b.parquet").write_text("no parquet at all")
    with pytest.raises(BadInput, match=r"b.parquet' cannot be read: ") as error:
        rows(tmp_path / "b.parquet")
    assert "\n" not in str(error.value)


def test_format_overrides_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.data").write_text(CSV)
    assert rows(tmp_path / "a.data", format="csv").equals(AS_TEXT)
    with pytest.raises(BadInput, match=r"the format of '.*a.data' is unknown"):
        rows(tmp_path / "a.data")
    with pytest.raises(BadInput, match=r"data.format=paquet is unknown: did you mean 'parquet'\?"):
        rows(tmp_path / "a.data", format="paquet")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.parquet", "valid.parquet", "test.parquet"], {"train", "valid", "test"}),
        (["train.parquet", "validation.parquet", "test.parquet", "notes.parquet"], {"train", "valid", "test"}),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "val.parquet"], {"train", "valid"}),
        (["train/0.parquet", "train/1.parquet", "dev/0.parquet", "test/0.parquet"], {"train", "valid", "test"}),
        (["part-0.parquet", "part-1.parquet", ".hidden.parquet", "_tmp.parquet"], {ALL}),
        (["inner/train.parquet", "inner/test.parquet"], {"train", "test"}),
    ],
)
def test_folders(tmp_path: Path, names: list[str], splits: set[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        FRAME.write_parquet(tmp_path / name)
    parts = find_parts(str(tmp_path))
    assert set(parts) == splits
    shards = sum(name.startswith(("train", "part")) for name in names)
    assert len(parts.get("train", parts.get(ALL)).files) == max(shards, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("names", [["today.parquet", "01/a.parquet"], ["01/a.parquet", "02/a.parquet"]])
def test_rows_in_folders_of_a_folder_are_not_left_out(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        FRAME.write_parquet(tmp_path / name)
    with pytest.raises(
        BadInput, match=r"has files in folders of its own, such as '01/a.parquet'.*data.path='(.*)';"
    ) as told:
        find_parts(str(tmp_path))
    pattern = re.search(r"data.path='(.*)';", str(told.value))
    assert len(find_parts(pattern[1])[ALL].files) == 2  # type: ignore[index]


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    for k in range(3):
        pl.DataFrame({"label": [k % 2], "a": [k]}).write_parquet(tmp_path / f"part-{k}.parquet")
    assert rows(tmp_path)["a"].to_list() == [0, 1, 2]
    assert rows(f"{tmp_path}/part-[12].parquet")["a"].to_list() == [1, 2]
    listed = find_parts([str(tmp_path / "part-2.parquet"), str(tmp_path / "part-0.parquet")])
    assert listed[ALL].frame(CsvOptions()).collect()["a"].to_list() == [2, 0]


def test_two_formats_for_one_split(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "train.parquet")
    (tmp_path / "train.csv").write_text(CSV)
    with pytest.raises(BadInput, match="files of several formats"):
        find_parts(str(tmp_path))
    assert find_parts(str(tmp_path), "csv")["train"].files == (tmp_path / "train.csv",)


def test_missing_files_name_the_nearest(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "clicks.parquet")
    with pytest.raises(BadInput, match=r"clikcs.parquet' does not exist: in '.*', did you mean 'clicks.parquet'\?"):
        find_parts(str(tmp_path / "clikcs.parquet"))
    with pytest.raises(BadInput, match=r"nowhere/a/train.csv' does not exist"):
        find_parts(str(tmp_path / "nowhere" / "a" / "train.csv"))
    with pytest.raises(BadInput, match="no file matches"):
        find_parts(str(tmp_path / "*.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no Parquet or CSV file"):
        find_parts(str(tmp_path / "empty"))


def test_what_is_there_and_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'/dev/null' is a device or a pipe, not a file"):
        find_parts("/dev/null")
    with pytest.raises(BadInput, match="is a folder, not a file"):
        find_parts([str(tmp_path)])
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(BadInput, match=r"does not exist: '.*' holds only hidden files"):
        find_parts(str(tmp_path / "a.csv"))


def test_a_file_is_no_hugging_face_data_set(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(CSV)
    with pytest.raises(BadInput, match=r"x.csv' is a file: data.format=hf takes .* read with data.format=auto"):
        find_parts(str(tmp_path / "x.csv"), "hf")


@pytest.mark.parametrize(
    "path", ["./reczoo/Frappe_x1", "../a", "~/nothing_of_that_name", "a/b/c", "a.csv", "x/y.parquet"]
)
def test_what_looks_local_is_never_looked_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find", lambda *_: pytest.fail("looked up on the hub"))
    with pytest.raises(BadInput, match="does not exist"):
        find_parts(path)


def test_what_exists_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find", lambda *_: pytest.fail("looked up on the hub"))
    (tmp_path / "reczoo" / "Frappe_x1").mkdir(parents=True)
    FRAME.write_parquet(tmp_path / "reczoo" / "Frappe_x1" / "train.parquet")
    monkeypatch.chdir(tmp_path)
    assert set(find_parts("reczoo/Frappe_x1")) == {"train"}


def test_zip_archives_are_unpacked_once_per_content(tmp_path: Path) -> None:
    archive, cache = tmp_path / "X_x1.zip", tmp_path / "cache"
    for inner in ("", "X_x1/"):
        with zipfile.ZipFile(archive, "w") as opened:
            for split in ("train", "valid", "test"):
                opened.writestr(f"{inner}{split}.csv", f"label,a\n0,{split}\n")
        parts = find_parts(str(archive), cache_dir=cache)
        assert {split: part.frame(CsvOptions()).collect()["a"].to_list() for split, part in parts.items()} == {
            split: [split] for split in ("train", "valid", "test")
        }
    assert len(list(cache.iterdir())) == 2
    find_parts(str(archive), cache_dir=cache)
    assert len(list(cache.iterdir())) == 2
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"X_x1.zip' cannot be read"):
        find_parts(str(archive), cache_dir=cache)
    assert len(list(cache.iterdir())) == 2


def test_stamp_follows_every_change(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    FRAME.write_parquet(file)
    before, times = find_part(str(file)).stamp(), file.stat()
    assert find_part(str(file)).stamp() == before
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    # Same size, and the time of last write set back: only the inode's own time tells.
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert find_part(str(file)).stamp() != before


@pytest.mark.parametrize("compressed", [False, True])
def test_csv_names_with_quotes(tmp_path: Path, compressed: bool) -> None:
    text = 'label,"the ""user""",it""em\n1,a,b\n0,c,d\n'
    (tmp_path / "a.csv").write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    frame = rows(tmp_path / "a.csv")
    assert frame.columns == ["label", 'the "user"', 'it""em']
    assert frame.rows() == [("1", "a", "b"), ("0", "c", "d")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_csv_with_names_that_are_not_utf_8(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_text("label,usér\n1,a\n", encoding=encoding)
    with pytest.raises(BadInput, match=r"the first line of '.*a.csv' is not UTF-8 text: write the file as UTF-8"):
        rows(tmp_path / "a.csv")


@pytest.mark.parametrize(("given", "written"), [("parquet", "csv"), ("csv", "parquet")])
def test_a_file_of_the_other_format(tmp_path: Path, given: str, written: str) -> None:
    file = tmp_path / f"a.{written}"
    getattr(FRAME, f"write_{written}")(file)
    message = rf"a.{written}' is \w+, and data.format={given} takes \w+: say data.format=auto, or {written}"
    with pytest.raises(BadInput, match=message):
        rows(file, format=given)
    with pytest.raises(BadInput, match=message):
        find_part(str(file), given).types(CsvOptions())  # type: ignore[arg-type]
    assert rows(file, format="auto").columns == rows(file, format=written).columns == FRAME.columns
    # What the content says wins over the name.
    getattr(FRAME, f"write_{given}")(file)
    assert rows(file, format=given).columns == FRAME.columns
