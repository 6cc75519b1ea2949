"""The YAML reader of this repository: no code, and no key given twice."""

from __future__ import annotations

import yaml


class UniqueKeys(yaml.SafeLoader):
    """YAML without code, in which a key that is given twice is an error: the last one would win without a word.

    For `yaml.load(text, Loader=UniqueKeys)`; the error is a [`yaml.YAMLError`] that names the key and its line.
    """

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", mark)
        return super().construct_mapping(node, deep)
