"""The answer to one instant query that asks for values and their ages at once, and which series of it is meant."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

MARK = "__hyops_age__"
SERIES_MAX = 100_000


@dataclass(frozen=True)
class Found:
    """One series: its value, and how old its sample was when the server looked."""

    value: float
    age_s: float


Key = tuple[tuple[str, str], ...]


def both(query: str) -> str:
    """One query for the values and, told apart by a label, for the age of each."""
    return f'({query}) or label_replace(time() - timestamp({query}), "{MARK}", "1", "", "")'


@dataclass
class Answer:
    """All series of an answer; `find` picks one."""

    values: list[tuple[dict[str, str], str]]
    ages: dict[Key, str]
    _by: dict[tuple[str, ...], dict[Key, list[int]]] = field(default_factory=dict)

    @property
    def ages_of_none(self) -> bool:
        """Whether some sample was taken in the very millisecond of the query, as it is for all that is computed."""
        return any(text == "0" for text in self.ages.values())

    def find(self, select: Key | None) -> Found | str | None:
        """The one series with these labels (None: the only one); None when there is none; why, when it is unusable."""
        if select is None:
            found = list(range(len(self.values)))
        else:
            labels = tuple(label for label, _ in select)
            if labels not in self._by:
                self._by[labels] = self._sorted_by(labels)
            found = self._by[labels].get(select, [])
        if not found:
            return None
        if len(found) > 1:
            return f"{len(found)} series instead of one"
        metric, text = self.values[found[0]]
        age = self.ages.get(_key(metric))
        if age is None:
            return "the sample has no age"
        value, age_s = _number(text), _number(age)
        if isinstance(value, str) or isinstance(age_s, str):
            return value if isinstance(value, str) else f"age of the sample: {age_s}"
        return Found(value, age_s)

    def _sorted_by(self, labels: tuple[str, ...]) -> dict[Key, list[int]]:
        found: dict[Key, list[int]] = {}
        for number, (metric, _) in enumerate(self.values):
            if all(label in metric for label in labels):
                found.setdefault(tuple((label, metric[label]) for label in labels), []).append(number)
        return found


def parsed(body: bytes) -> Answer | str:
    """The series of an answer; why it is unusable as a whole."""
    try:
        answer: Any = json.loads(body)
        if answer["status"] != "success":
            return f"status {str(answer['status'])[:80]}"
        if answer.get("warnings"):  # a store did not answer (Thanos): neither presence nor absence can be trusted
            return f"incomplete: {str(answer['warnings'])[:200]}"
        data = answer["data"]
        if data["resultType"] != "vector":
            return f"result type {str(data['resultType'])[:80]}"
        if len(data["result"]) > SERIES_MAX:
            return f"{len(data['result'])} series"
        values: list[tuple[dict[str, str], str]] = []
        ages: dict[Key, str] = {}
        for series in data["result"]:
            metric, text = series["metric"], series["value"][1]
            if not isinstance(text, str):
                return "the value is not a number in quotes"
            if metric.get(MARK) is None:
                values.append((metric, text))
                continue
            key = _key(metric)
            if key in ages:
                return "two ages of one series"
            ages[key] = text
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError) as exc:
        return f"not an answer of the query API: {type(exc).__name__}"
    return Answer(values, ages)


def _key(metric: dict[str, str]) -> Key:
    """What a series and its age have in common."""
    return tuple(sorted((label, text) for label, text in metric.items() if label not in (MARK, "__name__")))


def _number(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return "not a number"
    return value if math.isfinite(value) else f"{text} is not a number to compare"
