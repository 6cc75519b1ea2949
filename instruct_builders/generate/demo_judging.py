"""What the scripted server says when it is asked to judge: scores drawn by seed, and a judge's usual faults."""

from __future__ import annotations

import json
import random
import re

FAULTY = 0.1  # share of replies without a usable verdict


def judge_row(draw: random.Random, told: str) -> str:
    """A verdict in the form that the system message shows, now and then one that must not count.

    Args:
        draw (`random.Random`): Seeded by the server and the messages.
        told (`str`): The system message, with mark, criteria and form.
    """
    form = re.findall(r'^\{"mark": .*\}$', told, re.MULTILINE)
    if not form:
        return "There is nothing to judge."
    mark, *criteria = re.findall(r'"mark": "(\w+)"|"([^"]+)": \{"reason"', form[-1])
    verdict = {"mark": mark[0]}
    for _, name in criteria:
        score = draw.randint(1, 10)
        verdict[name] = {"reason": f"Scripted: {name} drawn as {score} of 10.", "score": score}
    if draw.random() < FAULTY:
        name = criteria[0][1]
        faults = [
            "I would give it a seven.",  # nothing to read
            json.dumps({**verdict, "mark": "0" * 16}),  # as a row could have written it
            json.dumps({**verdict, name: {"reason": "Beyond the scale.", "score": 11}}),
            json.dumps({key: value for key, value in verdict.items() if key != name}),
        ]
        return draw.choice(faults)
    return f"Let me look at the row.\n{json.dumps(verdict)}"
