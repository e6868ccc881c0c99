"""What a user can get wrong with compare_curves.py, case by case, as in wrong_cases.py."""

from wrong_inputs import Case, file


def curves(*flags, content='{"step": 1, "loss": 0.5, "q0": 0.25}\n', name="metrics.jsonl"):
    """Return a maker of the flags for one run, whose record is `content`."""
    made = file(name, content)
    return lambda place: [made(place), "--out", place.folder / "curves.png", *flags]


CASES = {
    "compare_curves.py": [
        Case("a run that is not there", lambda place: [place.folder / "gone"], "gone: no such run"),
        Case(
            "a folder that is no run", lambda place: [place.folder],
            "no metrics.jsonl and no train_log.txt in this folder",
        ),
        Case("records that are none", curves(content="[1]\n"), "metrics.jsonl, line 1: not a JSON object"),
        Case(
            "a log that is none", curves(content="hello\n", name="train_log.txt"),
            "no line as `step 12: loss=0.93286`",
        ),
        Case("a scalar that is not there", curves("--fields", "los"), "no scalar is called los; there are: loss, q0"),
        Case("no regular expression", curves("--fields", "q["), "--fields q[: no regular expression"),
        Case("limits the wrong way round", curves("--min_y", 1, "--max_y", 0), "--min_y 1 must lie below --max_y 0"),
        Case("another format", curves("--set", "out=curves.pdf"), "--out curves.pdf: the picture is a .png"),
    ]
}  # fmt: skip
