"""recipes/sft.py under FSDP2 without a GPU: `accelerate launch fsdp_on_cpu.py RUNS.json`.

Accelerate shards only where it takes its processes for GPUs, whatever device they have. That one answer is given here;
the rest is its own. Several runs in one group of processes spare the imports of each. A run is `flags`, and optionally
`forget`, a checkpoint to delete first, and `state_dict_type`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))


def main() -> None:
    import sft

    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    given = os.environ["FSDP_STATE_DICT_TYPE"]
    for run in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if "forget" in run and torch.distributed.get_rank() == 0:
            shutil.rmtree(run["forget"])
        torch.distributed.barrier()
        os.environ["FSDP_STATE_DICT_TYPE"] = run.get("state_dict_type", given)
        sft.main(run["flags"])
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
