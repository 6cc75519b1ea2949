"""Supervised fine-tuning with TRL: one YAML is one run.

    accelerate launch recipes/sft.py --config recipes/alpaca/sft_lora.yaml [--key value ...]

Every key of `SftArguments` (sft_arguments.py) and of TRL's `SFTConfig` is a YAML key and a flag. The result is in
`<output_dir>/final`, with `merge: true` also in `<output_dir>/merged`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import arguments
import terminal

with terminal.extras_named():
    from sft_arguments import SftArguments
    from transformers import set_seed
    from trl import SFTConfig

    from trainers import adapters, callbacks, config, conversations, models, preflight, release, run_facts, templates
    from trainers.sft import InstructTrainer


def read_arguments(argv: list[str] | None = None) -> tuple[SftArguments, SFTConfig]:
    return arguments.parse((SftArguments, SFTConfig), argv)


def main(argv: list[str] | None = None) -> None:
    args, training = read_arguments(argv)
    push = config.check(args, training)
    terminal.show_log()
    logging.getLogger("trainers").setLevel(logging.INFO if training.process_index == 0 else logging.ERROR)
    decided = conversations.settle_evaluation(args, training)
    for line in decided if training.process_index == 0 else []:
        print(line)
    set_seed(training.seed)
    tokenizer, template, added = models.load_tokenizer(args)
    adapters.check_targets(args, preflight.load_config(args))
    with training.main_process_first(desc="labels"):
        train, test, data, counts = conversations.prepare(args, tokenizer, template, training.max_length)
    model, revision = models.load_model(args, tokenizer, training.use_cpu, templates.stops(template, tokenizer))
    trainer = InstructTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        peft_config=models.lora_config(args, added, revision, model.config.get_text_config().tie_word_embeddings),
        allow_changed=args.allow_changed,
    )
    if args.sample_prompts:
        prompts = callbacks.first_prompts(test, tokenizer, args.sample_prompts)
        trainer.add_callback(callbacks.SampleGenerations(tokenizer, prompts))
    first = trainer.is_world_process_zero()
    if first:
        found = preflight.report(args, training, examples=0, world_size=training.world_size, memory=False)["short"]
        print(f"{found}\n{trainer.model.num_parameters(only_trainable=True):,} parameters are trained")
    loss = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint).training_loss
    loss = {"train": loss} | ({"held out": trainer.evaluate()["eval_loss"]} if test else {})
    release.save(trainer, final := Path(training.output_dir, "final"))
    if not first:
        return
    print("mean loss: " + ", ".join(f"{key} {value:.4f}" for key, value in loss.items()))
    known = {"base_revision": revision, "data": data, "counts": counts, "preflight": found, "loss": loss}
    facts = run_facts.facts(args, trainer, argv=argv, **known)
    release.describe(final, facts, training.hub_model_id)
    print(f"saved {final}")
    merged = final.with_name("merged")
    if args.merge:
        difference = release.merge_adapter(final, merged)
        whole = facts | {"adapter": False, "merged_difference": difference}
        release.describe(merged, whole, args.hub_merged_model_id)
        print(f"saved {merged}")
    private = training.hub_private_repo is not False  # private unless public is asked for in so many words
    for directory, repo_id in ((final, training.hub_model_id), (merged, args.hub_merged_model_id)):
        if push and repo_id:
            print(f"published {release.push(directory, repo_id, private).url}")


if __name__ == "__main__":
    arguments.run(main)
