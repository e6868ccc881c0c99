"""Downloads from a local server that drops connections, lies and refuses; part lists and published lists."""

import os
import shutil

import numpy as np
import pytest
from server import (
    announce_less,
    announce_more,
    drop,
    drop_at_once,
    guarded,
    ignore_range,
    md5,
    other_range,
    serving,
    status,
    web_page,
    whole,
)

from corpora import parts, voxceleb
from corpora.download import Access, fetch, shown

BODY = np.random.default_rng(0).bytes(300_000)
ACCESS = Access("--url_prefix", retries=2, wait_seconds=0.001, timeout_seconds=20)


def get(server, path, name="file", body=BODY, **changes):
    """Fetch a file to its end, the MD5 of `body` being wanted; return the last report of progress."""
    *_, last = [None, *fetch(f"{server.url}/{name}", path, md5(body), ACCESS._replace(**changes))]
    return last


# ---------------------------------------------------------------- downloads


def test_a_file_is_fetched_once_and_then_only_checked(serve, tmp_path):
    server, path = serve({"file": BODY}), tmp_path / "made" / "file"
    assert get(server, path)[1] == len(BODY)
    get(server, path)
    assert path.read_bytes() == BODY and len(server.seen) == 1 and os.listdir(path.parent) == ["file"]


def test_dropped_connections_are_resumed_where_they_broke(serve, tmp_path):
    server = serve({"file": BODY}, file=[drop, drop_at_once, drop, whole])
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert [seen[1] for seen in server.seen] == [None, "bytes=100000-", "bytes=100000-", "bytes=200000-"]


def test_retries_count_anew_after_each_byte_gained(serve, tmp_path):
    server = serve({"file": BODY}, file=[drop, drop_at_once] * 2 + [whole])
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_what_came_is_kept_for_the_next_run(serve, tmp_path):
    server = serve({"file": BODY}, file=[drop, drop_at_once, drop_at_once, drop_at_once, whole])
    with pytest.raises(OSError, match=r"given up after 2 retries.*the 100000 bytes that came are kept"):
        get(server, tmp_path / "file")
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY and server.seen[-1][1] == "bytes=100000-"


@pytest.mark.parametrize("trick", [ignore_range, other_range, status(503), status(429)])
def test_a_resumed_download_survives_odd_answers(serve, tmp_path, trick):
    server = serve({"file": BODY}, file=[drop, trick, whole])
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("left", [BODY, BODY + b"more", b"x" * 1000])
def test_a_part_that_is_whole_or_too_long_or_of_another_file_is_sorted_out(serve, tmp_path, left):
    server = serve({"file": BODY})
    (tmp_path / "file.part").write_bytes(left)
    if left.startswith(b"x"):
        with pytest.raises(ValueError, match="it was deleted: run again"):
            get(server, tmp_path / "file")
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_length_that_is_a_lie_is_an_error(serve, tmp_path):
    with pytest.raises(OSError, match="wrong length: 300000 bytes came, 301000 were announced"):
        get(serve({"file": BODY}, file=[announce_more, drop_at_once, announce_more]), tmp_path / "file", retries=0)
    with pytest.raises(ValueError, match=f"MD5 {md5(BODY[:-1000])}, the list says {md5(BODY)}"):
        get(serve({"file": BODY}, file=[announce_less]), tmp_path / "other")


def test_a_wrong_sum_deletes_what_came_but_never_a_file_that_was_there(serve, tmp_path):
    server, path = serve({"file": b"corrupt"}), tmp_path / "file"
    with pytest.raises(ValueError, match=f"{md5(b'corrupt')}, the list says {md5(BODY)}; it was deleted"):
        get(server, path)
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"file: its MD5 is {md5(b'mine')}, the list says {md5(BODY)}: delete it"):
        get(server, path)
    assert path.read_bytes() == b"mine" and len(server.seen) == 1


def test_credentials_are_given_where_asked_for_and_to_no_other_host(serve, tmp_path):
    server, thief = serve({"file": BODY}, file=[guarded]), serve({"file": BODY}, file=[guarded])
    server.tricks["/moved"] = [status(302, Location=f"{server.url}/file")]
    server.tricks["/away"] = [status(302, Location=f"{thief.url}/file")]
    for name in ("file", "moved"):
        get(server, tmp_path / name, name, user="me", password="secret")
    for changes in ({}, {"user": "me", "password": "wrong"}):
        with pytest.raises(
            OSError, match="401 Unauthorized: it wants other credentials: --user and --password"
        ) as error:
            get(server, tmp_path / "refused", **changes)
        assert "wrong" not in str(error.value)
    with pytest.raises(OSError, match="401"):
        get(server, tmp_path / "away", "away", user="me", password="secret")
    assert [seen[2] for seen in thief.seen] == [None]


@pytest.mark.parametrize(
    "code, words", [(403, "--access_key"), (404, "files move; give their new place as --url_prefix")]
)
def test_refusals_name_url_and_flag_and_are_not_tried_again(serve, tmp_path, code, words):
    server = serve({}, file=[status(code)])
    with pytest.raises(OSError) as error:
        get(server, tmp_path / "file", key="hush")
    assert f"{server.url}/file?key=...: the server answered {code}" in str(error.value) and words in str(error.value)
    assert f"put a copy at {tmp_path / 'file'}" in str(error.value) and len(server.seen) == 1
    assert server.seen[0][0] == "/file?key=hush"


def test_a_web_page_is_no_file(serve, tmp_path):
    with pytest.raises(ValueError, match="answered with a web page"):
        get(serve({"file": BODY}, file=[web_page]), tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_no_network_is_one_clear_line(tmp_path):
    with serving({}) as server:
        pass
    with pytest.raises(OSError, match=r"no answer \(.*refused.*given up after 2 retries\): check the network"):
        get(server, tmp_path / "file")
    with pytest.raises(ValueError, match="must begin with http"):
        list(fetch("ftp://host/file", tmp_path / "file", "", ACCESS))


def test_too_little_space_is_told_before_and_a_full_disk_when_it_happens(serve, tmp_path, monkeypatch):
    server = serve({"file": BODY})
    (tmp_path / "file.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="file.part: the disk is full; what is finished is kept"):
        get(server, tmp_path / "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(OSError, match=r"the rest of other needs 0.00 GB, 0.00 GB are free: make room"):
        get(server, tmp_path / "other")


def test_urls(tmp_path):
    part = parts.Part("a", "a", "")
    assert parts.url_of(part, "http://h/x") == parts.url_of(part, "http://h/x/") == "http://h/x/a"
    assert parts.url_of(part, "http://h/get?file={name}") == "http://h/get?file=a"
    assert parts.url_of(part._replace(source="https://o/b/a"), "http://h") == "https://o/b/a"
    assert shown("http://me:pw@h/get?file=a&key=hush&x=1") == "http://h/get?file=a&key=...&x=1"


# ---------------------------------------------------------------- part lists and published lists


def test_the_shipped_lists_are_complete():
    found = {a.name: a for a in parts.voxceleb_archives("", "*")}
    counts = {"vox1_dev_wav.zip": 4, "vox2_dev_aac.zip": 8, "vox1_test_wav.zip": 1, "vox2_test_aac.zip": 1}
    assert {name: len(archive.parts) for name, archive in found.items()} == counts
    assert [part.name[-2:] for part in found["vox2_dev_aac.zip"].parts] == [f"a{c}" for c in "abcdefgh"]
    assert [archive.name for archive in parts.augment_archives("")] == ["rirs_noises.zip", "musan.tar.gz"]
    assert [item.lines for item in parts.chosen_lists("", "O,veri_test2, list_test_hard.txt")] == [37720, 37611, 552536]
    assert len(parts.chosen_lists("", "all")) == 7
    with pytest.raises(ValueError, match=r"'Q': there are all, O \(veri_test.txt\), O-clean"):
        parts.chosen_lists("", "Q")
    with pytest.raises(ValueError, match="--archives vox3: fits none of vox1_dev_wav.zip"):
        parts.voxceleb_archives("", "vox3")


@pytest.mark.parametrize("line", ["a", "a b", f"a {md5(b'')} c", f"a/.. {md5(b'')}", f"/ {md5(b'')}"])
def test_a_malformed_part_list_names_the_line(tmp_path, line):
    (tmp_path / "list").write_text(f"# comment\n\n{line}\n")
    with pytest.raises(ValueError, match="list, line 3: "):
        parts.read_archives(tmp_path / "list")


def test_published_lists_are_checked_by_their_lines_and_one_of_the_user_is_kept(serve, tmp_path):
    server = serve({"veri_test.txt": b"1 a b\n0 a c\n"})
    item = parts.List("O", parts.Part("veri_test.txt", "veri_test.txt", ""), 2)
    for _ in range(2):
        list(voxceleb.fetch_list(item, tmp_path, server.url, ACCESS))
    assert len(server.seen) == 1 and os.listdir(tmp_path) == ["veri_test.txt"]
    with pytest.raises(ValueError, match="holds 2 lines, O has 3: move it away"):
        list(voxceleb.fetch_list(item._replace(lines=3), tmp_path, server.url, ACCESS))
    with pytest.raises(ValueError, match="veri_test.txt.new: holds 2 lines, O has 3: look at it"):
        list(voxceleb.fetch_list(item._replace(lines=3), tmp_path / "else", server.url, ACCESS))
    assert (tmp_path / "veri_test.txt").is_file() and not (tmp_path / "else" / "veri_test.txt").exists()
