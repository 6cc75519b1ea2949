"""What `Flan` can be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from instruct_builders.builder_config import InstructConfig
from instruct_builders.errors import ConfigError, did_you_mean

COLLECTIONS = ("tasks", "niv2", "p3", "cot", "flan")
SHORTHANDS = ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")
CHOICES = {
    "collection": COLLECTIONS,
    "option_style": ("random", "plain"),
    "option_target": ("label", "text"),
    "assignment": ("round_robin", "random"),
}
MAX_SHOTS = 64
FEW_SHOT = (1, 5)  # what fs_opt and fs_noopt mean where shots is not given


# What the account repeats: all fields below but what counts tokens, which has no name that says what it is.
SETTINGS = (
    *("tasks", "collection", "shots", "options", "option_style", "option_target", "cot", "inverted"),
    *("templates_per_row", "assignment", "separator", "answer_separator", "max_input_chars", "max_input_tokens"),
    *("explanations", "negatives", "test_size", "seed"),
)


@dataclass
class FlanConfig(InstructConfig):
    """Fields of [`InstructConfig`], and:

    Args:
        tasks (`str` or `list[str]`, *optional*):
            Names of shipped tasks, and paths, folders or globs of your own task files. Defaults to all that ship.
        collection (`str`, *optional*, defaults to `"tasks"`):
            What is read: `"tasks"`, or files of an existing collection named by `data_files`: `"niv2"`, `"p3"`,
            `"cot"` or the rendered `"flan"`.
        setting (`str`, *optional*):
            Shorthand for shots and options: `zs_opt`, `zs_noopt`, `fs_opt` or `fs_noopt`.
        shots (`int` or `list`, *optional*, defaults to 0):
            Exemplars in a prompt: a number, or `[fewest, most]` to draw from per row. `fs_*` without it: 1 to 5.
        options (`bool` or `float`, *optional*, defaults to `True`):
            Whether options are printed, or the share of the rows in which they are.
        option_style (`str`, *optional*, defaults to `"random"`):
            `"random"` draws header, marker and closing line per row; `"plain"` is one style, without labels.
        option_target (`str`, *optional*, defaults to `"label"`):
            The target where options are printed with labels: the `"label"`, or the option's `"text"` all the same.
            Without labels, without options, and in inverted templates it is the text. Options among which the
            answer's text stands twice are printed without labels.
        cot (`bool` or `float`, *optional*, defaults to `False`):
            Whether tasks with a chain of thought ask for it, or the share of their rows that do.
        inverted (`float`, *optional*):
            The share of the other rows with an inverted template. Defaults to the templates as they come.
        templates_per_row (`int` or `"all"`, *optional*, defaults to 1):
            Different templates that each row is rendered with, at most all of its task's.
        assignment (`str`, *optional*, defaults to `"round_robin"`):
            Template by row number, as FLAN does, or `"random"`.
        separator (`str`, *optional*, defaults to two line breaks):
            Between exemplars; `"random"` draws one per row from a set.
        answer_separator (`str`, *optional*):
            Between an exemplar's input and answer; its text, such as `"\\nAnswer: "`, also ends the prompt. Defaults
            to a line break; `"random"` draws one per row from a set.
        max_input_chars (`int`, *optional*):
            Longest prompt. Exemplars are taken off the end until it fits; a row that does not fit without any is
            rejected as `over_budget`, which `max_bad_fraction` does not count.
        max_input_tokens (`int`, *optional*):
            The same in tokens of `count_tokens`, counted per exemplar and added up.
        count_tokens (`Callable[[list[str]], Sequence[int]]`, *optional*): Texts to their numbers of tokens.
        explanations (`bool`, *optional*, defaults to `False`): Whether niv2's exemplars come with their explanations.
        negatives (`int`, *optional*, defaults to 0): How many negative examples niv2's definitions are followed by.
        test_size (`float` or `int`, *optional*, defaults to 0):
            Share or number of questions that are held out per task as `test`, where the task has no such split, or
            trains on a file of a task that has none. All answers and chains of a question stay together, and so do
            the rows that tasks make of one source row.
            A share draws each question on its own, so it is met about, and by at least one; a number is at most
            half of a task.
        seed (`int`, *optional*, defaults to 42): Of everything drawn.
    """

    tasks: str | Sequence[str] | None = None
    collection: str = "tasks"
    setting: str | None = None
    shots: int | Sequence[int] = 0
    options: bool | float = True
    option_style: str = "random"
    option_target: str = "label"
    cot: bool | float = False
    inverted: float | None = None
    templates_per_row: int | str = 1
    assignment: str = "round_robin"
    separator: str = "\n\n"
    answer_separator: str | None = None
    max_input_chars: int | None = None
    max_input_tokens: int | None = None
    count_tokens: Callable[[list[str]], Sequence[int]] | None = None
    explanations: bool = False
    negatives: int = 0
    test_size: float | int = 0
    seed: int = 42

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in CHOICES.items():
            _choice(name, getattr(self, name), allowed)
        if self.setting is not None:
            _choice("setting", self.setting, SHORTHANDS)
            self._apply_setting()
        low, high = self.shot_range
        if not 0 <= low <= high <= MAX_SHOTS:
            raise ConfigError(f"shots={self.shots!r}: a number from 0 to {MAX_SHOTS} or [fewest, most] is allowed.")
        for name in ("options", "cot", "inverted"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (bool, int, float)) or not 0 <= value <= 1):
                raise ConfigError(f"{name}={value!r}: true, false or a share between 0 and 1 is allowed.")
        if self.templates_per_row != "all" and not _whole(self.templates_per_row, 1):
            raise ConfigError(f"templates_per_row={self.templates_per_row!r}: 1 or more, or 'all', is allowed.")
        for name, least in (("max_input_chars", 1), ("max_input_tokens", 1), ("negatives", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not _whole(value, least):
                raise ConfigError(f"{name}={value!r}: a whole number of {least} or more is allowed.")
        if (self.max_input_tokens is None) != (self.count_tokens is None):
            raise ConfigError("max_input_tokens and count_tokens go together: a number, and what counts.")
        if self.max_input_chars is not None and self.max_input_tokens is not None:
            raise ConfigError("max_input_chars and max_input_tokens: give one of them.")
        fits = 0 <= self.test_size < 1 if isinstance(self.test_size, float) else _whole(self.test_size, 0)
        if not fits:
            raise ConfigError(f"test_size={self.test_size!r}: a share below 1 or a whole number is allowed.")
        self._check_collection()

    def _apply_setting(self) -> None:
        few, shown = self.setting.startswith("fs"), self.setting.endswith("_opt")
        if not few and self.shot_range != (0, 0):
            raise ConfigError(f"setting={self.setting!r} is without shots, but shots={self.shots!r}.")
        if shown and self.options is not True:
            raise ConfigError(f"setting={self.setting!r} prints options, but options={self.options!r}.")
        if few and self.shot_range == (0, 0):
            self.shots = FEW_SHOT
        self.options = shown

    def _check_collection(self) -> None:
        if self.columns:
            raise ConfigError("columns: a task's file says how its columns map; change it there.")
        if self.collection != "tasks" and self.tasks is not None:
            raise ConfigError(
                f"tasks={self.tasks!r} goes with collection='tasks'; {self.collection} reads data_files."
            )
        if self.collection != "niv2" and (self.explanations or self.negatives):
            raise ConfigError(f"explanations and negatives are niv2's, and collection={self.collection!r}.")
        if self.collection == "flan" and self.shot_range != (0, 0):
            raise ConfigError("shots: rows of the rendered FLAN collection have theirs in their text; leave it out.")

    @property
    def shot_range(self) -> tuple[int, int]:
        """Fewest and most exemplars."""
        if _whole(self.shots, 0):
            return int(self.shots), int(self.shots)
        if isinstance(self.shots, Sequence) and len(self.shots) == 2 and all(_whole(value, 0) for value in self.shots):
            return tuple(self.shots)
        raise ConfigError(f"shots={self.shots!r}: a number from 0 to {MAX_SHOTS} or [fewest, most] is allowed.")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: allowed are {', '.join(allowed)}.{did_you_mean(str(value), allowed)}")
