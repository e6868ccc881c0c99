"""Flags of score_attributes.py fit and test, and what is wrong with them together.
Entry points: add_fit_arguments, check_fit; add_test_arguments, check_test; refuse, refuse_idle; two tables of RANGES.
"""

from scoring import drop_in, likelihood, metrics

RATIOS = likelihood.SINGLE_ONLY
FIT_RANGES = {
    "drop_in": (1e-6, 1 - 1e-6), "iterations": (1, None), "typicality_threshold": (0, 1), "min_typicality": (0, 1),
    "max_typicality": (0, 1), "max_drop_out": (0, 1), "eps": (1e-300, 1),
}  # fmt: skip
TEST_RANGES = {"calibration_strength": (1e-12, None), "fusion_strength": (1e-12, None), "bootstrap": (0, None)}


def add_fit_arguments(parser):
    """Add the flags of `fit`."""
    given = parser.add_argument_group("input and output")
    given.add_argument("--codes", default="", metavar="FILE.npz", help="codes of the reference population")
    given.add_argument("--list", default="", help="its recordings and speakers: CSV (id, speaker) or `speaker file`")
    given.add_argument("--out", default="exps/attributes", help="folder for the models and the table of attributes")
    given.add_argument("--models", nargs="+", choices=likelihood.KINDS, default=list(likelihood.KINDS), help="to fit")
    parser.add_bool("--allow_single", help="fit although every speaker has one recording: drop-out is then 0")
    parser.add_argument("--sep", default="\\t", help="separator of a table of trials (default: tab)")
    dropped = parser.add_argument_group("typicality, drop-out, drop-in (dna, speech)")
    dropped.add_argument("--drop_in", type=float, default=0.12, help="probability of an activation by chance")
    parser.add_bool("--tune_drop_in", help="choose --drop_in on development trials instead")
    dropped.add_argument("--tune_by", choices=drop_in.CRITERIA, default="cllr", help="Cllr as it is, or calibrated")
    dropped.add_argument("--dev_codes", default="", metavar="FILE.npz", help="codes of the development trials")
    dropped.add_argument("--dev_trials", default="", help="lines `label file file`, or a table enrollment, test")
    dropped.add_argument("--dev_list", default="", help="speakers of the development recordings, for a table of trials")
    dropped.add_argument("--typicality", default="", help="published values instead of fitted: lines `BA7 : 0.65`")
    dropped.add_argument("--drop_out", default="", help="published drop-out, of the same form")
    chosen = parser.add_argument_group("attributes that count")
    chosen.add_argument("--typicality_threshold", type=float, default=1e-4, help="least typicality of dna and speech")
    chosen.add_argument("--min_typicality", type=float, default=0.0, help="all models: least share of speaker pairs")
    chosen.add_argument("--max_typicality", type=float, default=1.0, help="all models: largest share of speaker pairs")
    chosen.add_argument("--max_drop_out", type=float, default=1.0, help="all models: largest drop-out")
    fitted = parser.add_argument_group("maxllr and beta")
    fitted.add_argument("--iterations", type=int, default=100, help="of EM (maxllr) and of the fixed point (beta)")
    fitted.add_argument("--f", type=float, default=0.5, help="maxllr starts from: share of speakers who own it")
    fitted.add_argument("--p", type=float, default=0.9, help="maxllr starts from: its rate in an owner's recordings")
    fitted.add_argument("--q", type=float, default=0.1, help="maxllr starts from: its rate in those of others")
    fitted.add_argument("--eps", type=float, default=1e-8, help="beta: added to counts and variances at the start")


def check_fit(args):
    """Refuse flags of `fit` that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    ratios = set(args.models) & set(RATIOS)
    dev = args.dev_codes or args.dev_trials or args.dev_list
    refuse(
        (not args.codes, "--codes is required: codes of the population by train_attributes.py --binarize"),
        (not args.list, "--list is required: the recordings of the population and their speakers"),
        (bool(args.typicality) != bool(args.drop_out), "--typicality and --drop_out need each other"),
        (args.typicality and not ratios, "--typicality and --drop_out are for the models dna and speech"),
        (args.tune_drop_in and not ratios, "--tune_drop_in is for the models dna and speech"),
        (
            args.tune_drop_in and not (args.dev_codes and args.dev_trials),
            "--tune_drop_in needs --dev_codes and --dev_trials",
        ),
        (dev and not args.tune_drop_in, "--dev_codes, --dev_trials and --dev_list are for --tune_drop_in"),
        (args.tune_by != "cllr" and not args.tune_drop_in, "--tune_by is for --tune_drop_in"),
        (not 0 < args.q < args.p < 1 or not 0 < args.f < 1, "--f, --p, --q: 0 < f < 1 and 0 < q < p < 1 are needed"),
    )
    owners, rates = "maxllr" in args.models, "beta" in args.models
    refuse_idle(
        args.given,
        ("drop_in", ratios and not args.tune_drop_in, "the models dna and speech without --tune_drop_in"),
        ("typicality_threshold", ratios, "the models dna and speech"),
        ("iterations", owners or rates, "the models maxllr and beta"),
        *((name, owners, "the model maxllr") for name in "fpq"),
        ("eps", rates, "the model beta"),
        ("sep", args.dev_trials, "--dev_trials"),
    )


def add_test_arguments(parser):
    """Add the flags of `test`."""
    given = parser.add_argument_group("input and output")
    given.add_argument("--model", nargs="*", default=[], help="folder that `fit` wrote, or model files (.npz)")
    given.add_argument("--codes", default="", metavar="FILE.npz", help="codes of the test side, and of enrolment")
    given.add_argument("--enrol_codes", default="", metavar="FILE.npz", help="codes of the enrolment side, if others")
    given.add_argument("--test_list", nargs="*", default=[], help="`label file file`, or a table enrollment, test")
    given.add_argument("--list", nargs="*", default=[], help="speakers of the recordings, for tables without labels")
    given.add_argument("--sep", default="\\t", help="separator of tables of trials (default: tab)")
    given.add_argument("--save_path", default="exps/llr", help="folder for scores, metrics.json, tables and plots")
    given.add_argument("--embeddings", default="", metavar="FILE.npz", help="adds a row: cosine of these embeddings")
    parser.add_bool("--allow_other_encoder", help="use codes that another encoder made than the models'")
    fitted = parser.add_argument_group("calibration and fusion, on trials of another population")
    fitted.add_argument("--calibration_codes", default="", metavar="FILE.npz", help="their codes")
    fitted.add_argument("--calibration_list", default="", help="the trials, in one of the forms of --test_list")
    fitted.add_argument("--calibration_embeddings", default="", metavar="FILE.npz", help="their --embeddings")
    fitted.add_argument(
        "--calibration_strength",
        type=float,
        default=None,
        help="inverse strength C of a regularisation (default: none)",
    )
    parser.add_bool("--allow_same_list", help="calibrate on a list that is tested too: its Cllr then flatters")
    fitted.add_argument(
        "--fusion", nargs="*", choices=likelihood.KINDS[:-1], default=[], help="fuse the attributes of these models"
    )
    fitted.add_argument(
        "--fusion_strength", type=float, default=None,
        help="inverse strength C of the L1 penalty (default: by cross-validation over speakers)",
    )  # fmt: skip
    told = parser.add_argument_group("report")
    told.add_argument("--eer_method", choices=metrics.EER_METHODS, default="nearest", help="how the EER is read off")
    told.add_argument("--bootstrap", type=int, default=1000, help="draws of speakers for 95 %% intervals (0: none)")
    told.add_argument("--seed", type=int, default=10, help="seed of the bootstrap and of cross-validation")


def check_test(args):
    """Refuse flags of `test` that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    both = args.calibration_codes and args.calibration_list
    refuse(
        (not args.model, "--model is required: a folder that `score_attributes.py fit` wrote"),
        (not args.codes, "--codes is required: a table by train_attributes.py --binarize"),
        (not args.test_list, "--test_list is required"),
        (
            bool(args.calibration_codes) != bool(args.calibration_list),
            "--calibration_codes and --calibration_list need each other",
        ),
        (args.calibration_embeddings and not (both and args.embeddings),
         "--calibration_embeddings needs --embeddings and --calibration_list"),
        (args.calibration_strength is not None and not both, "--calibration_strength needs --calibration_list"),
        (args.fusion and not both, "--fusion needs --calibration_codes and --calibration_list to be fitted on"),
        (args.fusion_strength is not None and not args.fusion, "--fusion_strength needs --fusion"),
        (args.allow_same_list and not both, "--allow_same_list is for --calibration_list"),
    )  # fmt: skip


def refuse(*wrong: tuple):
    """Raise ValueError of the message of the first (holds, message) that holds."""
    for holds, message in wrong:
        if holds:
            raise ValueError(message)


def refuse_idle(given: dict[str, str], *flags: tuple):
    """Refuse flags that would do nothing, (name, whether it does something, what it is for), unless a config has them.

    Args:
        given: where each flag was given, of engine.args.parse.
    """
    told = {name for name, source in given.items() if source != "config"}
    refuse(*((name in told and not useful, f"--{name} is for {what}") for name, useful, what in flags))
