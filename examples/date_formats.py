"""Dates as people write them in many languages, from Babel's locale data, each with its ISO 8601 form.

Each text has one answer, so that a model can be held to it:

- "3/4/2021" is a day in April in Britain and one in March in America. Of the formats with the month as a number, only
  those that begin with the day, or with a year of four digits, are taken. That leaves out the American one.
- Years of two digits mean 1969 to 2068, as they do to POSIX's strptime, and all dates lie in those years.
"""

import re
import unicodedata
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
from babel import Locale
from babel.dates import format_date
from numpy.typing import NDArray

LOCALES = (
    *("en", "en_GB", "de", "fr", "es", "it", "nl", "pt", "sv", "da", "fi", "pl", "cs", "hu", "ro", "tr"),
    *("el", "ru", "uk", "ja", "ko"),
)
STYLES = ("full", "long", "medium", "short")
SKELETONS = ("yMd", "yMEd", "yMMMd", "yMMMEd", "yMMMMd", "yMMMMEd", "yM", "yMMM", "yMMMM")
FIRST, LAST = date(1969, 1, 1), date(2068, 12, 31)
BARE_SHARE = 0.25  # of the texts with the month as a word, written without commas and full stops


@dataclass(frozen=True)
class DateFormat:
    """A way to write a day or a month: a pattern of Unicode's CLDR in a locale, such as "d. MMMM y" in "de"."""

    locale: str
    pattern: str

    @property
    def language(self) -> str:
        """The language of the locale, without the territory."""
        return self.locale.partition("_")[0]

    @cached_property
    def _fields(self) -> str:
        """The letters of day, month and year in their order, without the pattern's own words, which it quotes."""
        return re.sub("[^dMLy]", "", re.sub("'[^']*'", "", self.pattern))

    @cached_property
    def has_day(self) -> bool:
        """Whether it tells the day, not only the month."""
        return "d" in self._fields

    @cached_property
    def in_words(self) -> bool:
        """Whether the month is a word."""
        return "MMM" in self._fields or "LLL" in self._fields

    @cached_property
    def has_one_reading(self) -> bool:
        """Whether the order of its numbers is beyond doubt."""
        return self.in_words or not self.has_day or self._fields.startswith(("d", "yM"))

    def write(self, day: date) -> str:
        """The date in this format."""
        return normalise(format_date(day, self.pattern, locale=self.locale))

    def answer(self, day: date) -> str:
        """The ISO 8601 form of what this format tells of the date."""
        return day.isoformat() if self.has_day else day.isoformat()[: len("yyyy-mm")]


@dataclass(frozen=True)
class Pair:
    """A date as somebody wrote it, its ISO 8601 form, and the language."""

    text: str
    answer: str
    language: str


@dataclass(frozen=True)
class Dates:
    """What can be written about: days, and months, each as its first day."""

    days: list[date]
    months: list[date]


def normalise(text: str) -> str:
    """Without what means nothing here: capitals, kinds of space, and Unicode's several codes of one character."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def bare(text: str) -> str:
    """Without commas and full stops, as people in a hurry type."""
    return normalise(re.sub("[.,]", " ", text))


def date_formats() -> list[DateFormat]:
    """The formats with one reading of all languages, each once a language."""
    found: dict[tuple[str, str], DateFormat] = {}
    for name in LOCALES:
        styles, skeletons = Locale.parse(name).date_formats, Locale.parse(name).datetime_skeletons
        patterns = [styles[style] for style in STYLES] + [skeletons[s] for s in SKELETONS if s in skeletons]
        for pattern in patterns:
            candidate = DateFormat(name, pattern.pattern)
            if candidate.has_one_reading:
                found.setdefault((candidate.language, candidate.pattern), candidate)
    return list(found.values())


def split_dates(rng: np.random.Generator, held_out_share: float) -> tuple[Dates, Dates]:
    """All dates, in two parts: for training and held out."""
    days = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    months = [day for day in days if day.day == 1]
    held_out_days, held_out_months = (rng.random(len(kind)) < held_out_share for kind in (days, months))
    return (
        Dates(_where(~held_out_days, days), _where(~held_out_months, months)),
        Dates(_where(held_out_days, days), _where(held_out_months, months)),
    )


def _where(chosen: NDArray[np.bool_], dates: list[date]) -> list[date]:
    return [dates[i] for i in np.flatnonzero(chosen)]


def write_pairs(rng: np.random.Generator, dates: Dates, count: int) -> list[Pair]:
    """So many pairs, each of a random format and a random date."""
    formats = date_formats()
    draws = zip(rng.integers(len(formats), size=count), rng.random(count), rng.random(count) < BARE_SHARE, strict=True)
    pairs = []
    for number, where, in_a_hurry in draws:
        chosen = formats[number]
        choice = dates.days if chosen.has_day else dates.months
        day = choice[int(where * len(choice))]
        text = chosen.write(day)
        text = bare(text) if in_a_hurry and chosen.in_words else text
        pairs.append(Pair(text, chosen.answer(day), chosen.language))
    return pairs
