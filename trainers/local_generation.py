"""A model in this process as the engine's transport: for a user with a GPU and no server.

    engine = Engine(model=name, journal="run.sqlite", transport=LocalModel(model, tokenizer), max_concurrency=32)

Questions that wait at the same time and share their token limit and stop texts are generated as one batch.
Temperature, top_p and seed are each question's own, and what is drawn for it does not depend on what else is in the
batch: a run that was interrupted gives the same answers. (The rounding of a batch can differ in the last digit, which
float32 hardly ever shows, and bfloat16 now and then.)
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
OWN = {"messages", "temperature", "top_p", "seed", "tools"}  # may differ within a batch


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
                kind = _shared(self.waiting[0][0])
                batch = [pair for pair in self.waiting if _shared(pair[0]) == kind][: self.max_batch]
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
        """Replies to requests with the same token limit and stop texts.

        An answer ends where the model's context does; a prompt that leaves no room has an empty answer that was cut.
        """
        first, tokenizer = requests[0], self.tokenizer
        prompts = [
            tokenizer.apply_chat_template(
                one["messages"], tools=one.get("tools"), add_generation_prompt=True, tokenize=False
            )
            for one in requests
        ]
        rows = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        limit = first.get("max_completion_tokens") or first.get("max_tokens") or MOST_TOKENS
        stops = [first["stop"]] if isinstance(first.get("stop"), str) else list(first.get("stop") or [])
        limits = [min(limit, max(self._context() - len(row), 0)) for row in rows]
        fitting = [place for place, room in enumerate(limits) if room]
        made = self._made(
            [rows[place] for place in fitting], [requests[place] for place in fitting], max(limits), stops
        )
        said = dict(zip(fitting, made, strict=True))
        return [self._reply(said.get(place, [])[: limits[place]], len(row), stops) for place, row in enumerate(rows)]

    def _made(self, rows: list[list[int]], requests: list[dict], limit: int, stops: list[str]) -> list[list[int]]:
        """The new tokens of each row, generated as one batch."""
        if not rows:
            return []
        tokenizer = self.tokenizer
        width, pad = max(map(len, rows)), tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        # Padded on the left by hand: the side is a setting of the tokenizer that belongs to its owner.
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        extra = {"stop_strings": stops, "tokenizer": tokenizer} if stops else {}
        ends = sorted(self._ends())
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=limit,
            pad_token_id=pad,
            eos_token_id=ends or None,
            do_sample=False,  # OwnSampling draws
            logits_processor=transformers.LogitsProcessorList([OwnSampling(requests, self.model.device)]),
            **extra,
        )
        return [row[width:].tolist() for row in out]

    def _reply(self, ids: list[int], prompt: int, stops: list[str]) -> Reply:
        ends = self._ends()
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        said = ids if end is None else ids[:end]
        text = self.tokenizer.decode(said, skip_special_tokens=True)
        places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
        finish = "stop" if end is not None or places else "length"
        text = text[: min(places)] if places else text
        used = len(said) + (end is not None)
        reply = {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": used, "total_tokens": prompt + used},
        }
        return Reply(200, {}, json.dumps(reply).encode("ascii"))

    def _ends(self) -> set[int]:
        """Tokens that end an answer: the model's, else the tokenizer's."""
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or [self.tokenizer.eos_token_id])
        return ends - {None}

    def _context(self) -> int:
        """Positions that the model has; without a bound where its config tells none."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31

    async def aclose(self) -> None:
        """Ends the thread; the model stays."""
        self.pool.shutdown(wait=True)


class OwnSampling(transformers.LogitsProcessor):
    """Draws for each row of a batch with its own temperature, top_p and generator, under greedy decoding.

    The largest of log-probability plus Gumbel noise is a draw from the distribution (the Gumbel-max trick), so the
    noise alone makes the choice random, and a row without noise is greedy.
    """

    def __init__(self, requests: list[dict], device: torch.device):
        self.rows = []
        for request in requests:
            seed = request.get("seed")
            if seed is None:
                seed = int(torch.randint(2**31, ()))
            generator = torch.Generator(device).manual_seed(seed)
            self.rows.append((request.get("temperature", 1.0), request.get("top_p", 1.0), generator))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = scores.float()
        for row, (temperature, top_p, generator) in enumerate(self.rows):
            if temperature <= GREEDY:
                continue
            logits = drawn[row] / temperature
            if top_p < 1:
                ordered, places = logits.sort(descending=True)
                before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
                logits[places[before >= top_p]] = -torch.inf  # the token that reaches the share stays
            drawn[row] = logits - torch.empty_like(logits).exponential_(generator=generator).log()
        return drawn


def _shared(request: dict) -> str:
    """What requests of one batch have in common."""
    return json.dumps({name: value for name, value in request.items() if name not in OWN}, sort_keys=True)


def _error(status: int, message: str) -> Reply:
    return Reply(status, {}, json.dumps({"error": {"message": message}}).encode())
