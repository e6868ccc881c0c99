"""Flags of score_attributes.py explain, and what is wrong with them together.
Entry points: add_explain_arguments, check_explain; EXPLAIN_RANGES.
"""

from scoring.attribute_flags import refuse, refuse_idle

EXPLAIN_RANGES = {"trial": (1, None), "wav_scale": (1e-6, 1e9), "entry_level": (1e-12, 1), "seed": (0, None)}


def add_explain_arguments(parser):
    """Add the flags of `explain`."""
    pair = parser.add_argument_group("one comparison")
    pair.add_argument("--model", default="", metavar="FILE.npz", help="one of the models that `fit` wrote")
    pair.add_argument("--codes", default="", metavar="FILE.npz", help="codes of train_attributes.py --binarize")
    pair.add_argument("--enrol", default="", metavar="ID[,ID]", help="recordings of one side, as --codes names them")
    pair.add_argument("--test", default="", metavar="ID[,ID]", help="recordings of the other side")
    pair.add_argument("--test_list", default="", help="comparisons, of which --trial is explained instead")
    pair.add_argument("--trial", type=int, default=1, help="number of the comparison in --test_list, from 1")
    pair.add_argument("--sep", default="\\t", help="separator of a table of trials (default: tab)")
    pair.add_argument("--calibration", default="", metavar="FILE.json", help="calibration of this model by `test`")
    pair.add_argument("--dev_trials", default="", help="comparisons of known truth, among whose LLRs this one is shown")
    pair.add_argument("--dev_codes", default="", metavar="FILE.npz", help="their codes (default: --codes)")
    parser.add_bool("--allow_other_encoder", help="compare codes of another encoder or network than the model's")
    wave = parser.add_argument_group("two recordings: --enrol and --test are then audio files")
    wave.add_argument("--initial_model", default="", help="speaker network whose embeddings the encoder takes")
    wave.add_argument("--encoder", default="", metavar="FILE", help="encoder of embeddings into attributes")
    wave.add_argument(
        "--wav_scale", type=float, default=None, help="factor on waves of a published network (default: the model's)"
    )
    wave.add_argument("--device", default="", help="cuda, cuda:1 or cpu (default: cuda where available, else cpu)")
    cards = parser.add_argument_group("cards of attributes")
    cards.add_argument("--cards", default="", help="`all`, or numbers of attributes as in 3,17,40")
    cards.add_argument("--speakers", default="", help="CSV (speaker, any others), to set the attributes against")
    cards.add_argument("--entry_level", type=float, default=0.01, help="p-value below which a measure enters")
    cards.add_argument("--seed", type=int, default=10, help="seed of the draws of balanced recordings")
    told = parser.add_argument_group("audio and output")
    told.add_argument(
        "--list",
        default="",
        help="recordings: CSV (id, audio, speaker, ...) or `speaker file`; the population of --cards, else where the "
        "audio of ids lies and who speaks in --dev_trials without labels",
    )
    told.add_argument("--audio_path", default="", help="prefix of recordings, to play and to measure them")
    told.add_argument("--save_path", default="exps/explain", help="folder for the table (.csv) and the page (.html)")


def check_explain(args):
    """Refuse flags of `explain` that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    recordings, sides = args.initial_model or args.encoder, args.enrol or args.test
    compares = recordings or sides or args.test_list or args.model
    refuse(
        (not (compares or args.cards), "nothing to explain: --enrol and --test, --test_list with --trial, or --cards"),
        (args.cards and (compares or args.calibration or args.dev_trials),
         "--cards describes a population: leave out what is of one comparison"),
        (args.cards and not (args.codes and args.list), "--cards needs --codes and --list, the population"),
        (recordings and args.list and not args.dev_trials, "--enrol and --test are audio files here: leave --list out"),
        (args.speakers and not args.cards, "--speakers is for --cards"),
        (compares and not args.model, "--model is required: a model that `fit` wrote"),
        (args.test_list and (sides or recordings), "give either --test_list or --enrol and --test"),
        (compares and not args.test_list and not (args.enrol and args.test), "--enrol and --test are needed together"),
        (recordings and not (args.initial_model and args.encoder), "--initial_model and --encoder need each other"),
        (recordings and args.codes, "--initial_model and --encoder make the codes: leave --codes out"),
        (recordings and args.audio_path, "--enrol and --test are audio files here: leave --audio_path out"),
        (compares and not recordings and not args.codes, "--codes is required (or --initial_model and --encoder)"),
        (args.trial > 1 and not args.test_list, "--trial needs --test_list"),
        (args.dev_codes and not args.dev_trials, "--dev_codes needs --dev_trials"),
        (args.dev_trials and recordings and not args.dev_codes, "--dev_trials needs --dev_codes here"),
        (args.wav_scale is not None and not recordings, "--wav_scale needs --initial_model"),
        (args.device and not recordings, "--device is for --initial_model"),
    )  # fmt: skip
    refuse_idle(
        args.given,
        ("entry_level", args.cards, "--cards"),
        ("seed", args.cards, "--cards"),
        ("allow_other_encoder", compares, "one comparison"),
        ("list", args.cards or args.audio_path or args.dev_trials, "--cards, --audio_path or --dev_trials"),
        ("sep", args.test_list or args.dev_trials, "--test_list or --dev_trials"),
    )
