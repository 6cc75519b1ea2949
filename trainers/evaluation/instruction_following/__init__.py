"""Instruction following with constraints that a program can check: no judge, no network.

The kinds and ids are those of IFEval (https://arxiv.org/abs/2311.07911), so that its own rows can be scored as they
are; the 130 prompts that ship here are written for this project. One file per kind of constraint, `checkers.py` has
the table of them, `prompts.py` reads prompts, `scoring.py` makes the figures.

A checker takes an answer and the constraint's arguments, and says `True`, `False`, or `None` where it can't tell: that
is counted, and no one's success. Rules are the published ones, with these differences, all of them written where they
are made: sentences and words in capitals are found without nltk (`lengths.py`, `letter_case.py`), words also in
Chinese and in scripts with combining marks (`lengths.py`, `keywords.py`), a line's end of Windows
is one (`checkers.py`), languages by script and lingua instead of langdetect (`languages.py`), and an argument
that is missing is an error where the published code draws one at random.
"""

from .checkers import CHECKERS, check, variants
from .prompts import BUNDLED, load
from .scoring import evaluate, score

__all__ = ["BUNDLED", "CHECKERS", "check", "evaluate", "load", "score", "variants"]
