"""Likelihood ratios from binary voice attributes: fit models to a population, test them on trials, explain comparisons.

    python score_attributes.py fit --codes TRAIN.npz --list TRAIN_LIST --out models
    python score_attributes.py test --model models --codes TEST.npz --test_list TRIALS --save_path exps/llr
    python score_attributes.py explain ...

Each command has its own --help.
"""

import sys

from engine.args import make_parser, parse
from engine.log import run_main


def command_parser(name: str):
    """Return the parser of a command, with a description from COMMANDS."""
    parser = make_parser(COMMANDS[name][0])
    parser.prog = f"{parser.prog} {name}"
    return parser


# ---------------------------------------------------------------- fit


def make_fit_flags():
    """Return the parser of `fit`."""
    return command_parser("fit")


def fit(args):
    """Fit models to a reference population and write them."""
    raise ValueError("fit: not there yet")


# ---------------------------------------------------------------- test


def make_test_flags():
    """Return the parser of `test`."""
    return command_parser("test")


def test(args):
    """Score lists of comparisons, calibrate, fuse, report."""
    raise ValueError("test: not there yet")


# ---------------------------------------------------------------- explain


def make_explain_flags():
    """Return the parser of `explain`."""
    return command_parser("explain")


def explain(args):
    """Explain comparisons, or the attributes themselves."""
    raise ValueError("explain: not there yet")


# ---------------------------------------------------------------- which command

COMMANDS = {
    "fit": ("Fit likelihood-ratio models to the codes of a reference population.", make_fit_flags, fit),
    "test": ("Score comparisons of codes, calibrate the scores, report error rates.", make_test_flags, test),
    "explain": ("Explain comparisons, or describe the attributes of a population.", make_explain_flags, explain),
}


def main(argv=None):
    """Run the command that the first word names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(f"{__doc__}\ncommands:")
        for name, (purpose, _, _) in COMMANDS.items():
            print(f"  {name:8} {purpose}")
        if not words:
            raise ValueError(f"a command is needed: {', '.join(COMMANDS)}")
        return
    if words[0] not in COMMANDS:
        raise ValueError(f"unknown command {words[0][:40]!r}: one of {', '.join(COMMANDS)}")
    _, make_flags, run = COMMANDS[words[0]]
    args, _ = parse(make_flags(), words[1:])
    return run(args)


if __name__ == "__main__":
    run_main(main)
