"""Fine-tunes an encoder-decoder such as FLAN-T5, reports what that would do, or asks a model: one YAML is one run.

    accelerate launch recipes/flan_t5.py --config recipes/flan/flan_t5_lora.yaml [--key value ...]
    python recipes/flan_t5.py --config recipes/flan/flan_t5_lora.yaml --check
    python recipes/flan_t5.py --predict "Translate to German: How old are you?"

Every key of `Seq2SeqArguments` and of transformers' `Seq2SeqTrainingArguments` is a YAML key and a flag. The result is
in `<output_dir>/final`, with `merge: true` also in `<output_dir>/merged`. `--check` ends with exit code 1 where
something would go wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

import arguments
import terminal

with terminal.extras_named():
    import torch
    from transformers import Seq2SeqTrainingArguments, set_seed

    from instruct_builders.errors import InstructError
    from trainers import release, seq2seq_data, seq2seq_models, seq2seq_predict, seq2seq_preflight
    from trainers import seq2seq_release as released
    from trainers.seq2seq import Seq2SeqInstructTrainer
    from trainers.seq2seq_models import Seq2SeqArguments


def read_arguments(argv: list[str] | None = None) -> tuple[Seq2SeqArguments, Seq2SeqTrainingArguments]:
    argv = list(sys.argv[1:] if argv is None else argv)
    given = arguments.given(argv)
    elsewhere = not torch.cuda.is_available() and "use_cpu" not in given
    if elsewhere and given & {"check", "predict"}:
        argv.append("--use_cpu")  # without it, bf16 is refused on a machine without GPU
    args, training = arguments.parse((Seq2SeqArguments, Seq2SeqTrainingArguments), argv)
    if elsewhere and args.check and training.bf16:  # no error: the check is often made elsewhere than the run
        print("no GPU here: on this machine the run needs --use_cpu")
    return args, training


def main(argv: list[str] | None = None) -> int:
    args, training = read_arguments(argv)
    if args.predict is not None:
        return seq2seq_predict.run(args, training, show=print, note=lambda line: print(line, file=sys.stderr))
    if not args.check:
        return train(args, training, argv)
    try:
        found = seq2seq_preflight.begin(args, training).found
    except InstructError as error:  # what training would stop with
        print(f"error: {error}")
        return 1
    errors = sum(entry["severity"] == "error" for entry in found["problems"])
    print(found["short"])
    print(f"errors: {errors}; mend them before you train" if errors else "this run can start")
    return int(errors > 0)


def train(args: Seq2SeqArguments, training: Seq2SeqTrainingArguments, argv: list[str] | None) -> int:
    set_seed(training.seed)
    push, tokenizer, loaded, found = seq2seq_preflight.begin(args, training)
    if training.process_index == 0:
        print(found["short"])
    seq2seq_data.settle(loaded)
    rows, test = seq2seq_data.split(loaded, args)
    model, revision = seq2seq_models.load_model(args, tokenizer, training.use_cpu)
    trainer = Seq2SeqInstructTrainer(
        model,
        training,
        rows,
        test,
        processing_class=tokenizer,
        held=seq2seq_data.references(test, loaded.test, args.metric) if test else None,
        max_target_length=args.max_target_length,
        peft_config=seq2seq_models.lora_config(args, revision),
        allow_changed=args.allow_changed,
    )
    loss = {"train": trainer.train(resume_from_checkpoint=training.resume_from_checkpoint).training_loss}
    scores = trainer.evaluate() if test else {}
    loss |= {"held out": scores["eval_loss"]} if test else {}
    final, merged = Path(training.output_dir, "final"), Path(training.output_dir, "merged")
    released.save(trainer, final)
    if not trainer.is_world_process_zero():
        return 0
    print("mean loss: " + ", ".join(f"{key} {value:.4f}" for key, value in loss.items()))
    known = {"base_revision": revision, "data": loaded.data, "preflight": found["short"], "loss": loss}
    facts = released.facts(args, trainer, scores=scores, argv=argv, **known)
    print("".join(f"{key}: {value:.1f}\n" for key, value in facts["scores"].items()), end="")
    release.describe(final, facts, training.hub_model_id)
    print(f"saved {final}")
    if args.merge:
        difference = released.merge_adapter(final, merged)
        print(f"largest difference of merged logits: {difference:.1e} of the largest logit")
        whole = facts | {"adapter": False, "merged_difference": difference}
        release.describe(merged, whole, args.hub_merged_model_id)
        print(f"saved {merged}")
    for directory, repo_id in ((final, training.hub_model_id), (merged, args.hub_merged_model_id)):
        if push and repo_id:
            private = training.hub_private_repo is not False  # private unless public is asked for in so many words
            print(f"published {release.push(directory, repo_id, private).url}")
    return 0


if __name__ == "__main__":
    arguments.run(main)
