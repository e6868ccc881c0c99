"""Command lines and YAML configs: defaults < flags < --config FILE < --set key=value.
Entry point: parse(parser, argv, extend); no torch is imported here, so that --help is quick.
"""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

# What describes this one invocation and not the experiment: never stored in args.yaml.
NOT_STORED = (
    *("config", "set", "eval", "resume", "initial_model", "save_path"),
    *("port", "device", "distributed", "nproc", "silence_seconds", "given", "crop_samples", "dry_run", "check_configs"),
)

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")

NESTED = "nested mappings and lists are not allowed, use flat flag names"
MOST_CONFIG_BYTES = 2**20  # a config has a few kilobytes; a list or a checkpoint given by mistake is told at once


def parse_bool(text: object) -> bool:
    """Read True/False, 1/0 or yes/no in any case; anything else is an argparse error."""
    word = str(text).strip().lower()
    if word in TRUE + FALSE:
        return word in TRUE
    raise argparse.ArgumentTypeError(f"{short(text)} is neither True/1/yes nor False/0/no")


def add_bool(parser, *names: str, default: bool = False, help: str = ""):
    """Add a boolean flag that takes `--x`, `--x True` and `--x False` alike."""
    parser.add_argument(
        *names,
        type=parse_bool,
        nargs="?",
        const=True,
        default=default,
        metavar="BOOL",
        help=f"{help} (default: {default})",
    )


def mapping(value: object) -> dict:
    """Read a flag that takes names with values: a mapping, `a=1,b=[2, 3]`, or the text of one in YAML or JSON."""
    if isinstance(value, dict):
        return value
    text = str(value).strip()
    if not text.startswith("{") and "=" in text:
        # a comma parts two names unless it stands in a list
        pairs = [part.partition("=") for part in re.split(r",(?=\s*\w+\s*=)", text)]
        text = "{" + ", ".join(f"{name.strip()}: {item.strip()}" for name, _, item in pairs) + "}"
    try:
        node = yaml.SafeLoader(text).get_single_node()
        problem = _not_flat(node, False)
        found = None if problem else yaml.safe_load(text)
    except Exception as error:  # as in read_config
        problem = " ".join(str(error).split())[:200]
    if problem:
        raise argparse.ArgumentTypeError(f"{short(value)}: write names with values, e.g. a=1,b=[2,3] ({problem})")
    return found or {}


def nearest(name: str, names: Sequence[str]) -> str:
    """Return ", nearest: <name>" for the closest of `names` in any case, or an empty string."""
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name[:80].lower(), list(by_lower), n=1, cutoff=0.6)
    return f", nearest: {by_lower[close[0]]}" if close else ""


def short(value: object) -> str:
    """Return `value` as Python writes it, cut to 80 characters, for an error line."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"a {type(value).__name__} too large to write"
    return text if len(text) <= 80 else text[:77] + "..."


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, but not where the help text or an empty default already says enough."""

    def _get_help_string(self, action):
        if "default:" in (action.help or "") or action.default in (None, "", [], argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the page of usage."""

    add_bool = add_bool  # for the add_arguments(parser) of networks, which import nothing of the engine

    def error(self, message):
        self.exit(2, f"error: {' '.join(message.split())} (--help lists all flags)\n")


def make_parser(description: str) -> Parser:
    """Return a parser with --config and --set, which every script has."""
    codes = "Exit codes: 0 done, 2 wrong input, 75 stopped by a signal with everything saved, 130 interrupted."
    parser = Parser(description=description, epilog=codes, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "--config", default=None, metavar="FILE", help="YAML file of flag names; its values override the command line"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value of flags and --config; repeatable",
    )
    return parser


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    extend: Callable[[argparse.ArgumentParser, argparse.Namespace], None] | None = None,
) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parse flags, then the config, then --set; return the values and where each changed one came from.

    Args:
        extend: called as extend(parser, first_values) once the names of classes are known, to add their flags.

    Returns:
        the namespace, and a dictionary {destination: "flag" | "config" | "set"} of everything given explicitly.
    """
    argv = [underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    if extend is not None:
        words = argv
        asks_help = any(word in ("-h", "--help") for word in words)
        first, _ = parser.parse_known_args([word for word in words if word not in ("-h", "--help")])
        _overlay(parser, first, {}, strict=False)
        try:
            extend(parser, first)
        except ValueError:
            if not asks_help:  # help must come even before a network is chosen
                raise
    unset = object()
    positional = _positional(parser)
    known = argparse.Namespace(**{a.dest: unset for a in _options(parser) if a.dest != "set"})
    args, unknown = parser.parse_known_args(argv, known)
    if unknown:
        # compared without the dashes, which all have in common
        flags = [s.lstrip("-") for a in _options(parser) for s in a.option_strings]
        near = nearest(unknown[0].split("=")[0].lstrip("-"), flags).replace(": ", ": --")
        parser.error(f"unknown argument {unknown[0]}{near}")
    given = {action.dest: "flag" for action in positional if getattr(args, action.dest) not in (None, [])}
    for action in _options(parser):
        if getattr(args, action.dest) is unset:
            # argparse would have converted a default given as text; ours are given as values.
            setattr(args, action.dest, action.default)
        elif action.dest not in ("set", "config"):
            given[action.dest] = "flag"
            value = getattr(args, action.dest)
            for number in value if isinstance(value, list) else [value]:
                _check_finite(number, f"{action.option_strings[0]} {number}", number)
    _overlay(parser, args, given, strict=True)
    return args, given


def underscored(word: str) -> str:
    """Return a flag with the dashes in its name as underscores: `--batch-size` is `--batch_size`."""
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") and len(name) > 2 else word


def _positional(parser):
    return [a for a in parser._actions if not a.option_strings]


def _options(parser):
    return [a for a in parser._actions if a.option_strings and a.dest != "help"]


def _overlay(parser, args, given, strict):
    """Lay --config and --set over `args` in place, noting the sources in `given`."""
    names = {s.lstrip("-"): a for a in _options(parser) for s in a.option_strings}
    names.update({a.dest: a for a in [*_options(parser), *_positional(parser)]})
    for reserved in ("config", "set"):
        names.pop(reserved, None)
    layers = []
    if args.config:
        layers.append(("config", args.config, read_config(args.config)))
    if args.set:
        layers.append(("set", "--set", dict(_split_setting(s) for s in args.set)))
    for source, origin, values in layers:
        for key, value in values.items():
            action = names.get(key.replace("-", "_") if isinstance(key, str) else key)
            if action is None:
                if strict:
                    raise ValueError(f"{origin}: unknown key {short(key)}{nearest(str(key), list(names))}")
                continue
            converted = convert(action, value, f"{origin}: {key}")
            if strict and given.get(action.dest) == "flag" and converted != getattr(args, action.dest):
                secret = action.dest == "password"
                print(
                    f"{origin} changes --{action.dest}"
                    + ("" if secret else f" from {getattr(args, action.dest)!r} to {converted!r}")
                )
            setattr(args, action.dest, converted)
            given[action.dest] = source


def _split_setting(text):
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {short(text)}: write it as key=value")
    return key.strip().lstrip("-"), value.strip()


def read_config(path: str | Path) -> dict:
    """Read a YAML mapping of names to values, lists of values or flat mappings; an empty file is an empty mapping.

    Raises:
        ValueError: the file is no YAML, no mapping, nested deeper, too large, or has a key twice.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"--config {path}: a folder, not a YAML file")
    if not path.is_file():
        raise FileNotFoundError(f"--config {path}: no such file")
    if path.stat().st_size > MOST_CONFIG_BYTES:
        raise ValueError(f"--config {path}: {path.stat().st_size} bytes are too many for a config")
    data = path.read_bytes()
    try:
        loader = yaml.SafeLoader(data.decode("utf-8-sig"))
        node = loader.get_single_node()
        problem = _not_flat(node)
        # What is nested is not constructed: aliases in aliases would fill the memory.
        values = None if problem or node is None else loader.construct_document(node)
    except Exception as error:  # constructors of dates, numbers, ... raise whatever Python raises on a wrong text
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not valid YAML: {reason[:300] or type(error).__name__}") from None
    if problem:
        raise ValueError(f"{path}: {problem}")
    return values or {}


def _not_flat(node, may_nest: bool = True) -> str:
    """Return what keeps a YAML node from being a mapping of names to values or lists of values, or nothing.

    may_nest: a value may also be a mapping of this kind, the options of a class.
    """
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return ""
    if node.tag != "tag:yaml.org,2002:map":
        return f"a config is a mapping of flag names to values, not a {node.id}"
    seen = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            return "a key is a flag name, not a list or mapping"
        if may_nest and isinstance(value, yaml.MappingNode):
            problem = _not_flat(value, False)
        else:
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            problem = "" if all(isinstance(item, yaml.ScalarNode) for item in items) else NESTED
        if problem:
            return f"{short(key.value)}: {problem}"
        if key.value in seen:
            return f"{short(key.value)}: given twice, line {key.start_mark.line + 1}"
        seen.add(key.value)
    return ""


def convert(action, value, where: str):
    """Convert a YAML or --set value with the flag's own type, or raise ValueError naming `where`."""
    if value is None:
        if action.default is None:
            return None
        raise ValueError(f"{where}: a value is needed")
    if isinstance(value, dict) and action.type is not mapping:
        raise ValueError(f"{where}: {NESTED}")
    many = action.nargs in ("+", "*") or isinstance(action.nargs, int)
    if many:
        items = value if isinstance(value, list) else str(value).split()
        return [_convert_one(action, item, where) for item in items]
    if isinstance(value, list):
        raise ValueError(f"{where}: one value is needed, not a list")
    return _convert_one(action, value, where)


def _convert_one(action, value, where):
    kind = action.type or str
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind in (int, float) and isinstance(value, bool):
        raise ValueError(f"{where}: {short(value)} is no number")
    try:
        converted = kind(value if kind is mapping or kind is str and isinstance(value, str) else str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        own = isinstance(error, argparse.ArgumentTypeError)
        message = str(error) if own else f"{short(value)} is no {kind.__name__}"
        raise ValueError(f"{where}: {message}") from None
    _check_finite(converted, where, value)
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"{where}: {short(value)} is none of {', '.join(map(str, action.choices))}")
    return converted


def _check_finite(value, where, given):
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {short(given)} is not a finite number")


def check_ranges(args: argparse.Namespace, ranges: dict[str, tuple]):
    """Check the numbers of `args` against {name: (least, most)}, either of which may be None.

    Raises:
        ValueError: one lies outside; the message names its flag.
    """
    for name, (least, most) in ranges.items():
        value = getattr(args, name, None)
        if value is None or ((least is None or value >= least) and (most is None or value <= most)):
            continue
        words = ([f"at least {least}"] if least is not None else []) + ([f"at most {most}"] if most is not None else [])
        raise ValueError(f"--{name} {value}: must be {' and '.join(words)}")


def stored_args(args: argparse.Namespace) -> dict:
    """Return the values that describe the experiment: plain YAML types, without what belongs to one invocation."""
    return {k: v for k, v in sorted(vars(args).items()) if k not in NOT_STORED}


def write_args(path: str | Path, args: argparse.Namespace, notes: dict[str, str]):
    """Write the resolved values as YAML that --config accepts, with `notes` (revision, versions) as comments on top."""
    header = "".join(f"# {k}: {v}\n" for k, v in notes.items())
    Path(path).write_text(header + yaml.safe_dump(stored_args(args), sort_keys=True), encoding="utf-8")
