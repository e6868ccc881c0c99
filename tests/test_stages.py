"""dataprep.py --download --extract --convert --augment from beginning to end, on corpora of a few files."""

import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from server import guarded, md5

import dataprep
from corpora import parts, voxceleb
from corpora.progress import in_parallel
from engine.args import parse

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def tone(path, rate, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
    soundfile.write(path, np.stack([wave, wave], 1) if path.suffix == ".flac" else wave, rate, subtype="PCM_16")
    return path


def pack(path, members):
    """Write {name in the archive: file} as zip or tar.gz; return its bytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, source in members.items():
                file.write(source, name)
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, source in members.items():
                file.add(source, name)
    return path.read_bytes()


@pytest.fixture
def corpora(serve, tmp_path):
    """Two servers with all corpora in small, the one of VoxCeleb guarded; the part lists; flags that lead there."""
    made = tmp_path / "made"
    wav, broken = tone(made / "a.wav", 16000, 1.0), made / "broken.m4a"
    broken.write_bytes(b"no sound")
    encode = ["ffmpeg", "-v", "error", "-i", tone(made / "a.flac", 24000, 1.0), "-c:a", "aac", made / "a.m4a"]
    subprocess.run(encode, check=True)
    aac = made / "a.m4a"
    large = "RIRS_NOISES/simulated_rirs/largeroom/Room001/Room001-00001.wav"
    whole = {
        "vox1_dev_wav.zip": {"wav/id10001/-video/00001.wav": wav},
        "vox1_test_wav.zip": {"wav/id10270/video/00001.wav": wav},
        "vox2_dev_aac.zip": {"dev/aac/id00012/-video/00001.m4a": aac, "dev/aac/id00012/-video/00002.m4a": broken},
        "vox2_test_aac.zip": {"aac/id00017/video/00001.m4a": aac},
        "rirs_noises.zip": {large: wav, large.replace("large", "small"): wav},
        "musan.tar.gz": {"musan/noise/free/n-1.wav": tone(made / "n.wav", 16000, 8.0), "musan/README": broken},
    }
    bodies = {name: pack(made / name, members) for name, members in whole.items()}
    files, joins = {name: bodies[name] for name in ("vox1_test_wav.zip", "vox2_test_aac.zip")}, []
    for name in ("vox1_dev_wav", "vox2_dev_aac"):
        body = bodies[name + ".zip"]
        files |= {f"{name}_partaa": body[:700], f"{name}_partab": body[700:]}
        joins.append(f"{name}_part* {name}.zip {md5(body)}\n")
    open_files = {name: bodies[name] for name in ("rirs_noises.zip", "musan.tar.gz")}
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "files.txt").write_text("".join(joins))
    for name, own in (("fileparts.txt", files), ("augment.txt", open_files)):
        (lists / name).write_text("".join(f"{part} {md5(body)}\n" for part, body in own.items()))
    voices = serve(files, **{name: [guarded] for name in files})
    flags = f"--parts_path {lists} --url_prefix {voices.url} --openslr_prefix {serve(open_files).url} --workers 2"
    return voices, flags.split()


def run_script(folder, command, flags):
    """Run a command in `folder` as a user does."""
    words = [sys.executable, str(ROOT / "dataprep.py"), *command.split()[2:], *flags]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command in this process, which is quicker, and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(command, flags):
        monkeypatch.setattr(sys, "argv", [*command.split()[1:], *flags])
        dataprep.main()
        printed = capsys.readouterr()
        assert not printed.err
        return printed.out

    return run


COMMANDS = [
    "python ./dataprep.py --save_path data --download --user me --password secret",
    "python ./dataprep.py --save_path data --extract",
    "python ./dataprep.py --save_path data --convert",
    "python ./dataprep.py --save_path data --augment",
]
MADE = [
    "RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav",
    "musan/noise/free/n-1.wav",
    "musan_split/noise/free/n-1/00000.wav",
    "musan_split/noise/free/n-1/00003.wav",
    "voxceleb1/id10001/-video/00001.wav",
    "voxceleb1/id10270/video/00001.wav",
    "voxceleb2/id00012/-video/00001.wav",
    "voxceleb2/id00017/video/00001.wav",
]


def sound_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.wav"))


@needs_ffmpeg
def test_the_four_commands_run_as_written_and_again(corpora, tmp_path, run_here):
    server, flags = corpora
    for command in COMMANDS:
        # as a user does where processes are started, else without the seconds of an import
        printed = run_script(tmp_path, command, flags) if "--convert" in command else run_here(command, flags)
        if "--convert" in command:
            assert "2 files converted, 0 were there, 1 failed: see data/convert_failures.txt" in printed
    data = tmp_path / "data"
    assert sound_files(data) == MADE
    converted = soundfile.info(data / "voxceleb2/id00017/video/00001.wav")
    assert (converted.samplerate, converted.channels, converted.subtype) == (16000, 1, "PCM_16")
    assert abs(converted.duration - 1) < 0.1
    assert "id00012/-video/00002.m4a: " in (data / "convert_failures.txt").read_text()
    assert not [path for path in data.rglob("*") if path.suffix in (".tmp", ".part") or "_part" in path.name]
    # The archives may go; what is finished is neither fetched nor unpacked again, whoever asks.
    for archive in (*data.glob("*.zip"), *data.glob("*.gz")):
        archive.unlink()
    times, requests = {path: path.stat().st_mtime_ns for path in data.rglob("*.wav")}, len(server.seen)
    assert "0 files converted, 2 were there, 1 failed" in run_here(
        f"{COMMANDS[0]} --extract --convert --augment", flags
    )
    assert len(server.seen) == requests and times == {path: path.stat().st_mtime_ns for path in data.rglob("*.wav")}


@needs_ffmpeg
def test_all_at_once_in_order_from_own_copies_and_with_the_password_in_the_environment(
    corpora, tmp_path, run_here, monkeypatch
):
    server, flags = corpora
    (tmp_path / "data").mkdir()
    shutil.copy(tmp_path / "made" / "vox1_test_wav.zip", tmp_path / "data")
    monkeypatch.setenv("VOXLAB_PASSWORD", "secret")
    command = COMMANDS[0].replace(" --password secret", "") + " --convert --extract --augment"
    printed = run_here(command, flags)
    assert sound_files(tmp_path / "data") == MADE and "secret" not in printed
    assert "/vox1_test_wav.zip" not in [path for path, *_ in server.seen]
    steps = ("musan.tar.gz: MD5", "musan_split", "vox1_dev_wav_partaa: MD5", "vox1_dev_wav.zip: unpacked", "converted")
    assert [printed.index(step) for step in steps] == sorted(printed.index(step) for step in steps)


@needs_ffmpeg
def test_wrong_input_is_told_before_anything_is_done(corpora, tmp_path, run_here, monkeypatch):
    _, flags = corpora
    only = " --archives vox1_test_wav.zip"
    for command, words in (
        (COMMANDS[0].replace("secret", "wrong") + only, "the server answered 401"),
        (COMMANDS[0].replace(" --password secret", ""), "--user me: give --password too"),
        (COMMANDS[0] + " --retries -1", "--retries -1: must not be negative"),
        (COMMANDS[1] + only, "vox1_test_wav.zip is not there"),
        (COMMANDS[2], "data/voxceleb2: no such folder: run --extract first"),
    ):
        with pytest.raises((ValueError, OSError), match=words):
            run_here(command, flags)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install ffmpeg"):
        run_here(COMMANDS[2], flags)


@needs_ffmpeg
def test_conversion_fails_where_nothing_could_be_converted_and_stops_at_a_full_disk(tmp_path):
    video = tmp_path / "voxceleb2" / "id1" / "video"
    video.mkdir(parents=True)
    (video / "1.m4a").write_bytes(b"no sound")
    made, there, failures = voxceleb.convert(str(video.parent))
    assert (made, there) == (0, 0) and len(failures) == 1 and not list(video.glob("*.wav*"))
    with pytest.raises(RuntimeError, match="0 files converted, 0 were there, 1 failed; the first: .*1.m4a: "):
        voxceleb.report(tmp_path, made, there, failures)
    assert voxceleb.report(tmp_path, 1, 0, []) == "1 files converted, 0 were there, 0 failed"
    assert not (tmp_path / "convert_failures.txt").exists()
    shutil.copy(tone(tmp_path / "a.wav", 16000, 20.0), video / "1.m4a")
    (video / "1.wav.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="1.wav: the disk is full"):
        voxceleb.convert(str(video.parent))


def nap(seconds):
    if not seconds:
        raise ValueError("no nap")
    time.sleep(seconds)


def test_a_job_that_fails_ends_the_others_at_once():
    begun = time.monotonic()
    with pytest.raises(ValueError, match="no nap"):
        list(in_parallel(nap, [0, *[60] * 5], 2, "naps", "nap"))
    assert time.monotonic() - begun < 50


def test_data_preparation_does_not_import_torch():
    code = "import sys, types; sys.modules['engine.distributed'] = m = types.ModuleType('m'); m.leave = sys.exit; "
    code += "import dataprep; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_commands_of_the_page_parse_and_its_tables_agree_with_the_lists():
    page = (ROOT / "docs" / "data.md").read_text()
    commands = [
        line for line in page.replace("\\\n", " ").splitlines() if line.startswith("python ") and "dataprep.py " in line
    ]
    assert len(commands) >= 8
    for command in commands:
        parse(dataprep.make_flags(), shlex.split(command)[2:])
    for item in parts.chosen_lists("", "all"):
        assert f"| `{item.name}` | `{item.part.name}` | {item.lines:,} |" in page
