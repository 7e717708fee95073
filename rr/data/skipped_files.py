"""Account for a source's unused files, and report all unreadable files in one error."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal, get_args

from rr.data import raw
from rr.data.exclude import split_digest
from rr.data.folder_listing import REMEDIES, DamagedFile, SkippedFile, file_suffix
from rr.data.image_decoding import UnreadableImageError
from rr.data.image_summary import ImageFacts, find_image_facts
from rr.data.printable_names import display_name, normalize_unicode
from rr.errors import UserError
from rr.runtime.formatting import format_count
from rr.runtime.ordered_map import DECODING_THREADS, map_ordered

UnreadablePolicy = Literal["raise", "skip"]  # what to do with a file that cannot be read
EXCLUDED = "listed in the exclude file"  # a reason why a file is not used
_MAX_LISTED = 10


class SkippedFiles:
    """Counts the unused files by reason and suffix, and collects those that cannot be read.

    Args:
        on_unreadable: what to do with files that cannot be read: "raise" to list them in one error at the end, or
            "skip" to print and count them.
        hint: end of the error message, with advice. "{them}" becomes "it" if there is only one file.
        excluded: lines of a list of images that are not used (see `rr.data.exclude`).
        on_readable: function to call with information about each image that could be decoded.
    """

    def __init__(
        self,
        on_unreadable: UnreadablePolicy,
        hint: str,
        excluded: Collection[str] = (),
        on_readable: Callable[[ImageFacts], None] = lambda _: None,
    ) -> None:
        if on_unreadable not in get_args(UnreadablePolicy):
            raise ValueError(f'on_unreadable must be "raise" or "skip", got {on_unreadable!r}')
        self._on_unreadable = on_unreadable
        self._hint = hint
        self._excluded = dict(split_digest(normalize_unicode(line)) for line in excluded)
        self._on_readable = on_readable
        self.unknown_excluded = set(self._excluded)  # excluded names that have not been found in the source so far
        self._counts: Counter[tuple[str, str]] = Counter()
        self._problems: list[str] = []  # the first ten
        self._num_problems = 0

    @property
    def excluded_names(self) -> Collection[str]:
        """The names in the list of excluded images, in the composed form of Unicode (NFC)."""
        return self._excluded.keys()

    @property
    def will_raise(self) -> bool:
        """Whether `raise_if_unreadable` will raise an error."""
        return self._num_problems > 0

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of unused files by reason and suffix, in alphabetical order."""
        counts: dict[str, dict[str, int]] = {}
        for (reason, suffix), count in sorted(self._counts.items()):
            counts.setdefault(reason, {})[suffix] = count
        return counts

    def is_excluded(self, name: str, suffix: str | None = None, data: bytes | None = None) -> bool:
        """Return whether an image is in the list of excluded images, and count it if so.

        Raises:
            UserError: if the SHA-256 in the list differs from that of the encoded image `data`.
        """
        text = normalize_unicode(display_name(name))
        if text not in self._excluded:
            return False
        digest = self._excluded[text]
        if data is not None and not hashlib.sha256(data).hexdigest().startswith(digest):
            raise UserError(
                f"exclude: {text} has changed since the exclude list was written (its SHA-256 no longer starts with "
                f"{digest}): remove `exclude` from this dataset's source in params.yaml, run rr fetch and rr check, "
                "and set `exclude` to the list that rr check writes"
            )
        if text in self.unknown_excluded:
            self.unknown_excluded.remove(text)
            self._counts[EXCLUDED, display_name(file_suffix(name)) if suffix is None else suffix] += 1
        return True

    def count(self, file: SkippedFile) -> None:
        """Count a file that is not used."""
        self._counts[file.reason, display_name(file_suffix(file.name))] += 1

    def add_damaged(self, file: DamagedFile, suffix: str | None = None) -> None:
        """Report a file that cannot be read. It is counted under `suffix`, which defaults to the suffix of its name."""
        text = f"{display_name(file.name)}: {file.problem}"
        if self._on_unreadable == "skip":
            print(f"skipped {text}", file=sys.stderr)
            self._counts[file.reason, display_name(file_suffix(file.name)) if suffix is None else suffix] += 1
            return
        self._num_problems += 1
        if len(self._problems) < _MAX_LISTED:
            self._problems.append(text)

    def report(self, result: ImageFacts | DamagedFile, suffix: str | None = None) -> bool:
        """Report what `inspect_image` returned, and return whether the image is readable."""
        if isinstance(result, DamagedFile):
            self.add_damaged(result, suffix)
            return False
        self._on_readable(result)
        return True

    def iter_readable(
        self, images: Iterable[raw.EncodedImage], suffix: str | None = None
    ) -> Iterator[raw.EncodedImage]:
        """Yield the images that can be decoded, and report the others. Several threads decode images.

        If `raise_if_unreadable` will raise an error, the remaining images are checked but not yielded.
        """

        def inspect(image: raw.EncodedImage) -> tuple[raw.EncodedImage, ImageFacts | DamagedFile]:
            return image, inspect_image(image.name, image.data)

        for image, result in map_ordered(inspect, images, DECODING_THREADS):
            if self.report(result, suffix) and not self.will_raise:
                yield image

    def raise_if_unreadable(self) -> None:
        """Raise UserError if files cannot be read, unless they are skipped. The message lists the first ten."""
        if self._num_problems == 1:
            raise UserError(f"{self._problems[0]}: {self._hint.replace('{them}', 'it')}")
        if self._num_problems:
            rest = self._num_problems - len(self._problems)
            lines = [f"  {problem}" for problem in self._problems] + ([f"  and {rest:,} more"] if rest else [])
            header, hint = f"{self._num_problems:,} images cannot be read:", self._hint.replace("{them}", "them")
            raise UserError("\n".join([header, *lines, hint]))


def inspect_image(name: str, data: bytes) -> ImageFacts | DamagedFile:
    """Return facts about an encoded image, or the reason why it cannot be decoded."""
    try:
        return find_image_facts(data)
    except UnreadableImageError as error:
        return DamagedFile(name, error.reason, f"not a readable image ({error})")


def format_skipped(counts: dict[str, dict[str, int]]) -> list[str]:
    """Return one line per reason, with the number of files and the five most frequent suffixes."""
    lines = []
    for reason, by_suffix in counts.items():
        frequent = sorted(by_suffix.items(), key=lambda item: (-item[1], item[0]))
        suffixes = [f"{suffix or 'no suffix'} {count:,}" for suffix, count in frequent[:5]]
        suffixes += ["…"] if len(frequent) > 5 else []
        remedy = f"; {REMEDIES[reason]}" if reason in REMEDIES else ""
        count = format_count(sum(by_suffix.values()), "files")
        lines.append(f"skipped {count}: {reason} ({', '.join(suffixes)}){remedy}")
    return lines
