"""What a user can get wrong with sweep.py, case by case, as in wrong_cases.py."""

from wrong_inputs import Case, at, file, folder

from engine import sweep_folder

MODEL = "model: ResNetSE34L\ntrainfunc: softmax\nlr: 0.1\n"
config = file("c.yaml", MODEL)


def grid(*words, config=config):
    """Return a maker of the flags of a sweep of a config; functions among the words are called with the place."""

    def flags(place):
        made = [word(place) if callable(word) else word for word in words]
        return ["--out", place.folder / "out", *(["--config", config(place)] if config else []), *made]

    return flags


def sweep_file(text):
    """Return the flags of a sweep file, whose configs stand beside it."""
    return grid("--sweep", lambda place: (config(place), file("s.yaml", text)(place))[1], config=None)


def planned(text):
    """Return a maker of --out with a plan in it."""

    def make(place):
        (place.folder / "out").mkdir()
        (place.folder / "out" / sweep_folder.PLAN).write_text(text)
        return "lr=1"

    return make


CASES = {
    "sweep.py": [
        Case("nothing to run", grid(config=None), "nothing to run: give --config or --sweep"),
        Case("no such config", grid("--set", "lr=1", config=at("gone.yaml")), "gone.yaml: no such file"),
        Case("`--set` without values", grid("--set", "lr"), "--set 'lr': write it as key=value1,value2"),
        Case("an empty value among them", grid("--set", "lr=1,,2"), "write it as key=value1,value2"),
        Case(
            "a key that the trainer does not have", grid("--set", "lrr=1,2"), "run 000_lrr1: unknown key 'lrr', nearest"
        ),
        Case("a value of the wrong kind", grid("--set", "lr=1,fast"), "run 001_lrfast: lr: 'fast' is no float"),
        Case("a network that does not exist", grid("--set", "model=ResNetSE34L,Resnet"), "--model Resnet: not found"),
        Case("a key given twice", grid("--set", "lr=1", "--set", "lr=2"), "--set lr is given twice"),
        Case("a value given twice", grid("--set", "lr=1,1"), "000_lr1 and 001_lr1 are the same run"),
        Case("the folder of a run", grid("--set", "save_path=a,b"), "save_path cannot be swept"),
        Case("no run at once", grid("--array_parallelism", 0), "--array_parallelism 0: must be at least 1"),
        Case("no such trainer", grid("--script", "gone.py"), "--script gone.py: no such file"),
        Case(
            "more runs than anybody has time for", grid("--set", f"seed={','.join(map(str, range(1001)))}"), "more than"
        ),
        Case("a folder with something else for a plan", grid("--set", planned("{}")), "not the plan of a sweep"),
        Case(
            "`--resume never` in a folder with a sweep",
            grid("--resume", "never", "--set", planned('{"text": "", "runs": []}')),
            "already holds a sweep; choose another",
        ),
        Case("no such sweep file", grid("--sweep", "gone.yaml", config=None), "--sweep gone.yaml: no such file"),
        Case("a sweep file that is no YAML", sweep_file("set: [1\n"), "s.yaml: not valid YAML"),
        Case("a list for a sweep file", sweep_file("- lr\n"), "s.yaml: a sweep file is a mapping of text, tag"),
        Case("an unknown part", sweep_file("sets: {lr: 1}\n"), "s.yaml: unknown part 'sets', nearest: set"),
        Case(
            "a key twice in a sweep file", sweep_file("set:\n  lr: 1\n  lr: 2\n"), "s.yaml: 'lr': given twice, line 3"
        ),
        Case("a set without a value", sweep_file("configs: c.yaml\nset: {lr: []}\n"), "s.yaml: set: lr: no value"),
        Case("values that are mappings", sweep_file("set: {lr: [{a: 1}]}\n"), "s.yaml: set: 'lr': a text, a number"),
        Case("rows that are no mappings", sweep_file("rows: [1, 2]\n"), "s.yaml: rows: a list of mappings"),
        Case(
            "a key in rows and set",
            sweep_file("configs: [c.yaml]\nrows: [{lr: 1}]\nset: {lr: [1, 2]}\n"),
            "lr is given in two of set, rows and with",
        ),
        Case(
            "an unknown option", sweep_file("options: {cpu: 1}\n"), "s.yaml: options: unknown flag cpu, nearest: cpus"
        ),
        Case("an option of the wrong kind", sweep_file("options: {cpus: few}\n"), "options: cpus: 'few' is no int"),
        Case("collecting where no sweep is", lambda place: ["--collect", place.folder], "no sweep there"),
        Case("a task that is none", lambda place: ["--task", folder("t")(place)], "no run there (run.yaml is missing)"),
        Case(
            "an order that does not exist", grid("--launcher", "cloud"), "argument --launcher: invalid choice: 'cloud'"
        ),
    ]
}
