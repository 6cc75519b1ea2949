"""Which license a mixture is published under: the strictest of its parts, by the Hub's license identifiers.

The order, from free to strict: public domain, permissive, attribution, share-alike or copyleft, custom terms (`other`,
open-weights licenses), `unknown`, no derivatives, non-commercial, non-commercial share-alike, non-commercial without
derivatives. Within one group the order is only a fixed choice. The answer is a label for the card and no legal advice:
rows keep their own `license`, and two share-alike licenses can demand things that no single label can satisfy.

Identifiers: https://huggingface.co/docs/hub/repositories-licenses
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# From free to strict; inside a line too.
_ORDER: dict[str, str] = {
    "public domain": "cc0-1.0 pddl unlicense",
    "permissive": "wtfpl zlib isc mit ncsa postgresql bsl-1.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsd "
    "afl-3.0 ecl-2.0 apache-2.0 ms-pl artistic-2.0 cdla-permissive-2.0 cdla-permissive-1.0 openmdw-1.0 ofl-1.1",
    "attribution": "etalab-2.0 odc-by cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0",
    "share-alike": "lppl-1.3c mpl-2.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 lgpl-lr lgpl lgpl-2.1 lgpl-3.0 gfdl odbl "
    "cdla-sharing-1.0 cc-by-sa-3.0 cc-by-sa-4.0 osl-3.0 gpl gpl-2.0 gpl-3.0 agpl-3.0",
    "custom terms": "cc openrail openrail++ bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m "
    "bigscience-bloom-rail-1.0 deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma "
    "grok2-community c-uda other",
    "unknown": "unknown",
    "no derivatives": "cc-by-nd-4.0",
    "non-commercial": "h-research intel-research apple-ascl apple-amlr fair-noncommercial-research-license "
    "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0",
    "non-commercial share-alike": "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0",
    "non-commercial without derivatives": "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0",
}
_RANK = {name: rank for rank, name in enumerate(" ".join(_ORDER.values()).split())}
_GROUP = {name: group for group, names in _ORDER.items() for name in names.split()}


def normalise(license: str | None) -> str:
    """The Hub identifier for a license as a source wrote it.

    Args:
        license (`str` or `None`): A Hub or SPDX identifier in any case, with blanks for dashes or with `-only` or
            `-or-later` at its end; `None` or an empty string where the source says nothing.

    Returns:
        `str`: A Hub identifier; `unknown` where nothing was said, `other` for what the Hub has no identifier for.
    """
    if license is None or not license.strip():
        return "unknown"
    name = re.sub(r"[\s_]+", "-", license.strip().lower())
    name = re.sub(r"-(only|or-later)$", "", name)
    return name if name in _RANK else "other"


def strictest(licenses: Iterable[str | None]) -> str:
    """The strictest of some licenses: commutative, associative, and never freer than any of them.

    Args:
        licenses (`Iterable[str | None]`): As in [`normalise`]; `unknown` is stricter than every free license, but says
            less than a non-commercial one, so that a mixture that holds one is always marked non-commercial.

    Returns:
        `str`: A Hub identifier, one of those given; `unknown` where none is given.
    """
    return max(map(normalise, licenses), key=_RANK.__getitem__, default="unknown")


def is_non_commercial(license: str | None) -> bool:
    """Whether a license forbids commercial use. False for `unknown` and `other`: they may, nothing here can tell."""
    return _GROUP[normalise(license)].startswith("non-commercial")
