"""A model in this process as the engine's transport: for a user with a GPU and no server.

    engine = Engine(model=name, journal="run.sqlite", transport=LocalModel(model, tokenizer), max_concurrency=32)

Questions that wait at the same time and share their sampling settings are generated as one batch.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import torch
import transformers

from instruct_builders.errors import ConfigError
from instruct_builders.generate.statuses import Reply

MOST_TOKENS = 512  # where a request sets no limit
GREEDY = 1e-4  # temperatures below this are greedy decoding
KNOWN = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed", "tools"}


class LocalModel:
    """Answers chat requests with `model.generate`.

    Args:
        model ([`~transformers.PreTrainedModel`]): On the device it shall run on.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): With a chat template.
        max_batch (`int`, *optional*, defaults to 16): Most questions generated at once.

    Raises:
        ConfigError: If the tokenizer has no chat template.
    """

    name = "the model in this process"

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase,
        max_batch: int = 16,
    ):
        if not tokenizer.chat_template:
            raise ConfigError(
                "the tokenizer has no chat template: set one, such as trainers/chat_templates/chatml.jinja."
            )
        self.model, self.tokenizer, self.max_batch = model.eval(), tokenizer, max_batch
        self.waiting: list[tuple[dict, asyncio.Future]] = []
        self.worker: asyncio.Task | None = None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="generate")

    async def __call__(self, body: bytes, name: str) -> Reply:
        request = json.loads(body)
        if unknown := sorted(set(request) - KNOWN):
            return _error(400, f"parameters {unknown} are not known to a local model; {sorted(KNOWN)} are")
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
        if self.worker is None:
            self.worker = asyncio.get_running_loop().create_task(self._work())
        return await future

    async def _work(self) -> None:
        """Generates batch after batch until nobody waits."""
        try:
            while self.waiting:
                await asyncio.sleep(0)  # those who ask in the same turn of the loop belong together
                kind = _sampling(self.waiting[0][0])
                batch = [pair for pair in self.waiting if _sampling(pair[0]) == kind][: self.max_batch]
                taken = {id(future) for _, future in batch}
                self.waiting = [pair for pair in self.waiting if id(pair[1]) not in taken]
                requests = [request for request, _ in batch]
                try:
                    replies = await asyncio.get_running_loop().run_in_executor(self.pool, self.generate, requests)
                except Exception as error:
                    # One line to the engine, which stops the run: it would fail the same way again.
                    replies = [_error(400, f"{type(error).__name__}: {error}")] * len(batch)
                for (_, future), reply in zip(batch, replies, strict=True):
                    if not future.done():
                        future.set_result(reply)
        finally:
            self.worker = None

    @torch.inference_mode()
    def generate(self, requests: list[dict]) -> list[Reply]:
        """Replies to requests with the same sampling settings."""
        first, tokenizer = requests[0], self.tokenizer
        prompts = [
            tokenizer.apply_chat_template(
                one["messages"], tools=one.get("tools"), add_generation_prompt=True, tokenize=False
            )
            for one in requests
        ]
        rows = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        width, pad = max(map(len, rows)), tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        # Padded on the left by hand: the side is a setting of the tokenizer that belongs to its owner.
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        limit = first.get("max_completion_tokens") or first.get("max_tokens") or MOST_TOKENS
        temperature = first.get("temperature", 1.0)
        sampling = {"do_sample": False}
        if temperature > GREEDY:
            # top_k 0: the default of 50 is no part of the protocol.
            sampling = {"do_sample": True, "temperature": temperature, "top_p": first.get("top_p", 1.0), "top_k": 0}
        if first.get("seed") is not None:
            torch.manual_seed(first["seed"])
        stops = [first["stop"]] if isinstance(first.get("stop"), str) else list(first.get("stop") or [])
        extra = {"stop_strings": stops, "tokenizer": tokenizer} if stops else {}
        out = self.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=limit, pad_token_id=pad, **sampling, **extra
        )
        return [
            self._reply(row[width:].tolist(), len(prompt), limit, stops) for row, prompt in zip(out, rows, strict=True)
        ]

    def _reply(self, ids: list[int], prompt: int, limit: int, stops: list[str]) -> Reply:
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or [self.tokenizer.eos_token_id])
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        said = ids if end is None else ids[:end]
        text = self.tokenizer.decode(said, skip_special_tokens=True)
        places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
        finish = "stop" if end is not None or places else "length"
        text = text[: min(places)] if places else text
        used = min(len(said) + (end is not None), limit)
        reply = {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": used, "total_tokens": prompt + used},
        }
        return Reply(200, {}, json.dumps(reply).encode("ascii"))

    async def aclose(self) -> None:
        """Ends the thread; the model stays."""
        self.pool.shutdown(wait=True)


def _sampling(request: dict) -> str:
    """What requests of one batch share: all but the messages."""
    return json.dumps({name: value for name, value in request.items() if name != "messages"}, sort_keys=True)


def _error(status: int, message: str) -> Reply:
    return Reply(status, {}, json.dumps({"error": {"message": message}}).encode())
