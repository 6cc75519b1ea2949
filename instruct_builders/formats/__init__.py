"""Native columns <-> records, whole Arrow tables at a time, lossless both ways.

    >>> convert(Dataset.from_list([{"instruction": "Say hi.", "input": "", "output": "Hi."}]), "alpaca", "messages")[0]
    {'messages': [{'role': 'user', 'content': 'Say hi.'}, {'role': 'assistant', 'content': 'Hi.'}], 'context': ''}

Reading a format and writing it back gives the same rows. What a format says beyond a record, such as roles spelled
otherwise, goes through the column `meta`. A row that a format can't hold is a `RowError` with its row and field.
"""

from instruct_builders.formats.conversion import convert
from instruct_builders.formats.native import FORMATS, check_format, detect, native_schema
from instruct_builders.formats.tables import from_record, to_record
from instruct_builders.formats.turns import CONTEXT_SEPARATOR

__all__ = [
    "CONTEXT_SEPARATOR",
    "FORMATS",
    "check_format",
    "convert",
    "detect",
    "from_record",
    "native_schema",
    "to_record",
]
