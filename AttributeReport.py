"""Reports of attributes that need audio or networks beside scores: one comparison explained, cards of attributes.
Entry points: explain_codes, explain_recordings, make_cards; score_attributes.py explain calls them.
"""

import argparse
import hashlib
import io
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

import AttributeNet
import SpeakerNet
from audio import lists, metadata
from audio.acoustic_table import read_acoustics, write_acoustics
from audio.acoustics import MEASURES, measure
from audio.crops import wrap
from audio.io import SAMPLE_RATE, AudioFile, read_audio
from engine import distributed, foreign, wespeaker
from engine.log import make_folder
from scoring import attribute_cards, calibration, sides
from scoring.card_page import cards_page
from scoring.codes import Codes, read_codes
from scoring.embeddings import write_text
from scoring.explanation import check_calibration, explain_comparison, ratio_text, verbal, write_explanation
from scoring.explanation_page import Development, Recording, comparison_page
from scoring.likelihood import AttributeModel, fingerprint, read_model, score_pairs
from scoring.subgroups import read_speakers
from scoring.summary import write_rows

LEAST_SAMPLES = SAMPLE_RATE // 2  # a shorter recording is repeated up to this, as extract_embeddings.py does
PLAYED_SECONDS = 60  # of a recording go into a page: 2 MB at most


# ---------------------------------------------------------------- one comparison


def model_of(path: str) -> AttributeModel:
    """Return the model of a file."""
    if Path(path).is_dir():
        raise ValueError(f"--model {path}: a folder; name one of its models, e.g. {Path(path) / 'dna.npz'}")
    return read_model(path)


def explain_codes(args):
    """Explain a comparison of recordings whose codes are in a table."""
    model, codes = model_of(args.model), read_codes(args.codes)
    if args.test_list:
        listed = metadata.read_comparisons(args.test_list, args.sep)
        if args.trial > len(listed.enrolment):
            raise ValueError(f"--trial {args.trial}: {args.test_list} has {len(listed.enrolment)} comparisons")
        cells = listed.enrolment[args.trial - 1], listed.test[args.trial - 1]
    else:
        cells = ids_of(args.enrol, "--enrol"), ids_of(args.test, "--test")
    known = metadata.read_metadata(args.list) if args.list else None
    path_of = {name: audio for name, audio in zip(known.ids, known.audio) if audio} if known else {}
    played = tuple(
        [recording(lists.join(args.audio_path, path_of.get(name, name)), name, args.audio_path) for name in cell]
        for cell in cells
    )
    absent = "--audio_path is not given" if not args.audio_path else "the file cannot be read below --audio_path"
    report_comparison(args, model, codes, cells, played, absent)


def explain_recordings(args):
    """Embed, binarise and compare two recordings, or two groups of them."""
    model = model_of(args.model)
    cells = ids_of(args.enrol, "--enrol"), ids_of(args.test, "--test")
    device = distributed.device_of(argparse.Namespace(device=args.device, gpu_id=0))
    scale = model.meta.get("embeddings", {}).get("wav_scale") if args.wav_scale is None else args.wav_scale
    net = SpeakerNet.load(args.initial_model, device, scale)
    encoder, _ = foreign.read_network(args.encoder, AttributeNet.TASK)
    names = list(dict.fromkeys(name for cell in cells for name in cell))
    vectors = embed(net, names, device)
    AttributeNet.check_dimension(encoder, vectors, args.encoder, args.initial_model)
    bits = AttributeNet.encode(encoder.to(device), vectors, device)
    made_by = {
        "checkpoint": Path(args.initial_model).name, "sha256": hash_of(*wespeaker.files_of(args.initial_model)),
        "wav_scale": float(net.wav_scale),
    }  # fmt: skip
    meta = {"encoder": Path(args.encoder).name, "encoder_sha256": hash_of(args.encoder), "embeddings": made_by}
    codes = Codes(np.array([name.encode() for name in names]), bits, np.zeros(len(names)), meta, "these recordings")
    short = [Path(name).name for name in names]
    shown = dict(zip(names, short if len(set(short)) == len(names) else names))
    played = tuple([recording(name, shown[name], "given") for name in cell] for cell in cells)
    report_comparison(args, model, codes, cells, played, "the file cannot be read")


@torch.inference_mode()
def embed(net, paths: list[str], device) -> np.ndarray:
    """Return the embeddings (files, dim) of whole recordings."""
    least = max(LEAST_SAMPLES, getattr(net.__S__, "LEAST_SAMPLES", 0))
    waves = [torch.from_numpy(wrap(read_audio(path), least)) for path in paths]
    return np.concatenate([net(wave[None].to(device)).float().cpu().numpy() for wave in waves])


def report_comparison(args, model: AttributeModel, codes: Codes, cells, played, absent: str):
    """Write explanation.csv and explanation.html of one comparison, and print the result."""
    sides.check_codes(model.meta, args.model, len(model.used), codes, args.allow_other_encoder)
    fitted = calibration.read_calibration(args.calibration) if args.calibration else None
    if fitted is not None:
        check_calibration(fitted)
        check_inputs(fitted, model, args.calibration)
    both = [sides.code_side(codes, [cell]) for cell in cells]
    explained = explain_comparison(model, *both, fitted)
    development = development_of(args, model, fitted) if args.dev_trials else None
    folder = Path(args.save_path)
    make_folder(folder)
    write_explanation(folder / "explanation.csv", explained)
    about = {
        "model": f"{Path(args.model).name}: {model.describe()}",
        "population list": f"{model.meta.get('list', 'unknown')} (sha256 {model.meta.get('list_hash', 'unknown')})",
        "codes": codes.describe(),
        "calibration": fitted.describe() if fitted is not None else "none",
        "written by": "score_attributes.py explain",
    }
    page = comparison_page(explained, played, about, fitted, development, absent)
    write_text(folder / "explanation.html", page)
    state = "calibrated" if fitted is not None else "not calibrated"
    print(f"{','.join(cells[0])} against {','.join(cells[1])}: LLR {explained.final:+.4f} ({state})")
    if fitted is not None:
        print(f"likelihood ratio {ratio_text(explained.final)}: {verbal(explained.final)}")
    else:
        print("without --calibration no words can be given for it")
    for name, share in explained.shares()[:5]:
        print(f"  attribute {name}: {share:+.3f}")
    print(f"written: {folder}/explanation.csv, explanation.html")


def check_inputs(fitted: calibration.Calibration, model: AttributeModel, path: str):
    """Refuse the calibration of another model.

    Raises:
        ValueError: it calibrates scores of another kind, or of this kind by another fit.
    """
    if fitted.inputs[0] != model.kind:
        raise ValueError(f"{path}: a calibration of {fitted.inputs[0]}, the model is {model.kind}")
    own = fingerprint(model)
    if fitted.fitted_on.get("model", own) != own:
        raise ValueError(f"{path}: a calibration of another model of kind {model.kind}: give the one `test` made of it")


def development_of(args, model: AttributeModel, fitted) -> Development:
    """Return the ratios of --dev_trials, calibrated where the comparison is."""
    listed = metadata.read_comparisons(args.dev_trials, args.sep)
    if listed.labels is None and args.list:
        known = metadata.read_metadata(args.list)
        listed.label(dict(zip(known.ids, known.require_speakers())))
    if listed.labels is None:
        raise ValueError(f"--dev_trials {args.dev_trials}: has no labels; give its speakers by --list")
    if not 0 < listed.labels.sum() < len(listed.labels):
        raise ValueError(f"--dev_trials {args.dev_trials}: comparisons of both kinds are needed")
    codes = read_codes(args.dev_codes or args.codes)
    sides.check_codes(model.meta, args.model, len(model.used), codes, args.allow_other_encoder)
    cells = sides.cells_of(listed.enrolment, listed.test)
    both = [sides.code_side(codes, side) for side in (cells.enrolment, cells.test)]
    llrs = score_pairs(model, *both, cells.pairs)
    return Development(llrs if fitted is None else fitted.apply(llrs), listed.labels, Path(args.dev_trials).name)


def ids_of(text: str, flag: str) -> tuple[str, ...]:
    """Return the ids of one side, separated by commas."""
    found = tuple(name.strip() for name in text.split(","))
    if "" in found or len(set(found)) < len(found):
        raise ValueError(f"{flag} {text}: recordings separated by commas, each once")
    return found


def recording(path: str, name: str, wanted: str) -> Recording:
    """Return a recording to play, FLAC at 16 kHz, or none where `wanted` is empty or it cannot be read."""
    if not wanted:
        return Recording(name)
    try:
        with AudioFile(path) as audio:
            cut = audio.samples > PLAYED_SECONDS * SAMPLE_RATE
            wave = audio.read(0, PLAYED_SECONDS * SAMPLE_RATE)
    except ValueError as error:
        print(f"warning: not played: {error}")
        return Recording(name)
    data = io.BytesIO()
    soundfile.write(data, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    shown = f"{name} (first {PLAYED_SECONDS} s)" if cut else name
    return Recording(shown, data.getvalue(), "audio/flac")


def hash_of(*paths) -> str:
    """Return the first 12 digits of the SHA-256 sum of files."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()[:12]


# ---------------------------------------------------------------- cards


def make_cards(args):
    """Write cards.csv and cards.html of attributes of a population."""
    codes, listed = read_codes(args.codes), metadata.read_metadata(args.list)
    speaker_of = listed.require_speakers()
    codes = codes.take(listed.ids)
    chosen = attributes_of(args.cards, codes.bits.shape[1])
    speakers, labels = np.unique(speaker_of, return_inverse=True)
    if len(speakers) < 2:
        raise ValueError(f"{args.list}: one speaker; cards need two or more")
    texts = columns_of(args.speakers, listed)
    folder = Path(args.save_path)
    make_folder(folder)
    numbers = acoustics_of(args, listed, folder) if args.audio_path else {}
    measures = attribute_cards.make_measures(numbers, texts)
    described = attribute_cards.describe_population(codes.bits, labels, speakers.tolist(), measures)
    cards = [
        attribute_cards.associate(i, codes.bits, labels, measures, args.entry_level, args.seed)
        for i in tqdm(chosen, desc="cards", unit="attribute", disable=None)
    ]
    chance = attribute_cards.chance_of(cards, measures, args.entry_level)
    rows = [attribute_cards.card_row(card, described, measures) for card in cards]
    write_rows(folder / "cards.csv", rows, tuple(rows[0]), ())
    about = {
        "codes": codes.describe(), "recordings": listed.describe(), "speakers": args.speakers or "no table",
        "acoustic measures": "audio below --audio_path" if args.audio_path else "none: --audio_path is not given",
        "entry level": f"{args.entry_level:g}", "written by": "score_attributes.py explain --cards",
    }  # fmt: skip
    page = cards_page(cards, described, measures, chance, MEASURES, about, args.entry_level)
    write_text(folder / "cards.html", page)
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(name)} {name}" for name in ("shared", "private", "dead", "constant"))
    print(f"{len(cards)} attributes ({counts}), {len(measures.names)} measures")
    if chance.tests:
        print(
            f"{chance.found} entries in {chance.attributes_found} attributes; about {chance.expected:.0f} of "
            f"{chance.tests} tests by chance, {chance.control} with the speakers exchanged"
        )
    print(f"written: {folder}/cards.csv, cards.html")


def attributes_of(text: str, count: int) -> list[int]:
    """Return the attributes of `all` or `3,17,40`.

    Raises:
        ValueError: not numbers, one twice, or not among `count`.
    """
    if text == "all":
        return list(range(count))
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--cards {text}: `all`, or numbers as in 3,17,40") from None
    wrong = [i for i in found if not 0 <= i < count or found.count(i) > 1]
    if wrong:
        raise ValueError(f"--cards {text}: {wrong[0]} is not one of 0 to {count - 1}, or stands there twice")
    return found


def columns_of(path: str, listed: metadata.Metadata) -> dict[str, list[str]]:
    """Return {column: text of every recording} of the list and of a table of speakers.

    Raises:
        ValueError: a speaker of the list is not in the table, or a column is in both.
    """
    if not path:
        return dict(listed.columns)
    speakers = read_speakers(path)
    missing = [name for name in listed.speakers if name not in speakers]
    if missing:
        raise ValueError(f"--speakers {path}: no line for {missing[0]}, a speaker of {listed.name}")
    columns = [name for name in next(iter(speakers.values())) if name not in ("speaker", "voxceleb_id")]
    both = [name for name in columns if name in listed.columns]
    if both:
        raise ValueError(f"--speakers {path}: its column {both[0]} is in {listed.name} too; remove it from one")
    return listed.columns | {c: [(speakers[name][c] or "").strip() for name in listed.speakers] for c in columns}


def acoustics_of(args, listed: metadata.Metadata, folder: Path) -> dict[str, np.ndarray]:
    """Return {measure: (recordings,)}, from acoustics.csv of the folder where that has them all, else measured.

    Raises:
        ValueError: no recording can be read.
    """
    path = folder / "acoustics.csv"
    found = read_acoustics(path, listed.ids)
    if found is not None:
        print(f"{path} holds the measures of all {len(listed.ids)} recordings; remove it to measure anew")
        return dict(zip(MEASURES, found.T))
    rows, bad = [], []
    for name, audio in zip(tqdm(listed.ids, desc="acoustics", unit="file", disable=None), listed.audio):
        try:
            rows.append(list(measure(read_audio(lists.join(args.audio_path, audio or name))).values()))
        except ValueError as error:
            bad.append(str(error))
            rows.append([np.nan] * len(MEASURES))
    if len(bad) == len(rows):
        raise ValueError(f"--audio_path {args.audio_path}: none of {len(rows)} recordings can be read, e.g. {bad[0]}")
    if bad:
        print(f"warning: {len(bad)} of {len(rows)} recordings cannot be read and count as unknown: {bad[0]}")
    values = np.array(rows)
    write_acoustics(path, listed.ids, values)
    return dict(zip(MEASURES, values.T))
