"""Recordings that could not be read while training: counted, listed in bad_files.txt, and too many of them end the run.
Entry points: BadFiles(path, recordings, percent).note(found), noted(batches, bad_files).
"""

from pathlib import Path


class BadFiles:
    """The unreadable recordings one process has met.

    Args:
        path: where they are listed, one `name<tab>reason` a line; processes of one run may share the file.
        recordings: those of the list that fall to this process.
        percent: share of them that is borne.
        say: called with a line at the 1st, 2nd, 4th, 8th, ... unreadable recording.
    """

    def __init__(self, path: str | Path, recordings: float, percent: float, say=print):
        self.path, self.recordings, self.percent, self.say, self.known = Path(path), recordings, percent, say, {}

    def note(self, found: list[tuple[str, str]]):
        """Take in (name, reason) pairs.

        Raises:
            RuntimeError: more than the bearable share is unreadable.
        """
        new = {name: reason for name, reason in found if name not in self.known}
        if not new:
            return
        before = len(self.known)
        self.known |= new
        listed = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(f"{name}\t{reason}\n" for name, reason in new.items() if f"{name}\t" not in listed)
        share = 100 * len(self.known) / self.recordings
        if share > self.percent:
            raise RuntimeError(
                f"{len(self.known)} of {self.recordings:.0f} recordings ({share:.2f} %) cannot be read, more than "
                f"--max_bad_files {self.percent:g} %: they are listed in {self.path}, e.g. {next(iter(new.values()))}"
            )
        if len(self.known).bit_length() > before.bit_length():
            self.say(
                f"warning: {len(self.known)} recordings cannot be read and are replaced by others of their speaker, "
                f"e.g. {next(iter(new.values()))}; listed in {self.path}"
            )


def noted(batches, bad_files: BadFiles | None):
    """Yield batches without their entry "bad", the (name, reason) pairs of what could not be read, once it is noted.

    Raises:
        ValueError: something could not be read and there is no `bad_files` to bear it.
    """
    for batch in batches:
        bad = batch.pop("bad")
        if bad and bad_files is None:
            raise ValueError(bad[0][1])
        if bad:
            bad_files.note(bad)
        yield batch
