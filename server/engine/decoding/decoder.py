"""Continuous decoding: requests enter and leave at any step, each in a slot of its own.

Requests of one kind (how many beams, whether they draft) share a pool of slots; a step takes all pools through the
decoder at once, since its matrix products do not care whose rows they multiply.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from server.engine.decoding.constraint import Automaton, State
from server.engine.decoding.cuda_graphs import Graphs
from server.engine.decoding.kv_cache import Slots, Span
from server.engine.decoding.search import Search
from server.engine.decoding.token_selection import NONE, Chooser
from server.engine.drafts import draft
from server.engine.linear import Share
from server.engine.model import Florence2

Kind = tuple[int, int]
"""Beams, and tokens drafted a step."""


@dataclass(eq=False)
class Member:
    """A request in the decoder. `drafts`: how many tokens of its prompt a step may guess (greedy only)."""

    search: Search
    prompt: Sequence[int]
    adapter: str | None = None
    automaton: Automaton | None = None
    drafts: int = 0

    def __post_init__(self) -> None:
        self.states: list[State] = [self.automaton.start] * self.search.width if self.automaton else []
        self.said: list[int] = []  # of the first beam; what drafts are looked up by

    @property
    def kind(self) -> Kind:
        return self.search.width, self.drafts

    def advance(self, parents: Sequence[int]) -> None:
        """Follows a step that the search has taken."""
        self.said.append(self.search.tokens[0])
        if self.automaton:
            steps = zip(parents, self.search.tokens, strict=True)
            self.states = [self.automaton.next(self.states[parent], token) for parent, token in steps]


class Pool:
    """The members of one kind and their slots, in the same order."""

    def __init__(self, model: Florence2, kind: Kind, count: int, ngram: int) -> None:
        self.width, self.drafts = kind
        self.slots: Slots = model.slots(self.width, count, spare=self.drafts)
        self.members: list[Member] = []
        # What each beam has said, the start token first, for the n-gram ban.
        shape = (count, self.width, self.slots.positions + 1) if ngram else (0, 0, 0)
        self.said = torch.full(shape, NONE, device=model.device)

    def leave(self, member: Member) -> None:
        slot = self.members.index(member)
        moved = self.slots.leave(slot)
        if len(self.said):
            self.said[slot] = self.said[moved]
        last = self.members.pop()
        if last is not member:
            self.members[slot] = last


class Decoder:
    """Takes members in with their encoder states, and all of them a token further at each step."""

    def __init__(self, model: Florence2, chooser: Chooser, capacity: int) -> None:
        """`capacity`: slots a pool has, and so the most members at once."""
        self.model, self.chooser, self.capacity = model, chooser, capacity
        self.graphs = Graphs(model) if model.device.type == "cuda" else None
        self._pools: dict[Kind, Pool] = {}
        self.steps = 0

    def __len__(self) -> int:
        return sum(len(pool.members) for pool in self._pools.values())

    @torch.inference_mode()
    def enter(self, members: Sequence[Member], states: Tensor, lengths: Sequence[int]) -> None:
        """Takes in members of one kind: `states` [members, tokens, d], the first `lengths` of which count.

        Prefill: the start token and the one that is forced after it go through the decoder together.
        """
        kind = members[0].kind
        if kind not in self._pools:
            self._pools[kind] = Pool(self.model, kind, self.capacity, self.chooser.ngram)
        pool = self._pools[kind]
        first = pool.slots.enter(lengths)
        pool.members += members  # from here on `leave` undoes it, whatever fails below
        config = members[0].search.config
        prefix = [config.decoder_start_token_id]
        if config.forced_bos_token_id is not None:
            prefix.append(config.forced_bos_token_id)
        span = pool.slots.span(first, [list(range(len(prefix)))] * len(members))
        shares = shares_of((m.adapter for m in members), states.device)
        self.model.text.decoder.read(states, span, shares)
        logits = self._say([(span, prefix * len(members))], [m.adapter for m in members for _ in prefix], states.device)
        if len(pool.said):
            pool.said[first : pool.slots.used] = NONE
            pool.said[first : pool.slots.used, :, 0] = prefix[0]
        for column in logits.view(len(members), len(prefix), -1).unbind(1):
            # What is not done yet: a request for a single token ends with the first column.
            places = [first + i for i, m in enumerate(members) if not m.search.done]
            if places:
                own = column[torch.tensor(places, device=column.device) - first]
                self._take(pool, places, own.repeat_interleave(pool.width, 0))

    @torch.inference_mode()
    def step(self) -> None:
        """Each member says one token, or as many as its draft guessed and one more."""
        pools = [pool for pool in self._pools.values() if pool.members]
        parts: list[tuple[Span, list[int]]] = []
        adapters: list[str | None] = []
        drafted: list[list[list[int]]] = []
        for pool in pools:
            guesses = [draft(m.prompt, m.said, pool.drafts) if pool.drafts else [] for m in pool.members]
            drafted.append(guesses)
            positions, tokens = [], list[int]()
            for member, guess in zip(pool.members, guesses, strict=True):
                at, filler = member.search.length, [member.search.tokens[0]] * (pool.drafts - len(guess))
                positions.append([at] * pool.width if not pool.drafts else list(range(at, at + pool.drafts + 1)))
                tokens += [*member.search.tokens, *guess, *filler]
                adapters += [member.adapter] * len(positions[-1])
            parts.append((pool.slots.span(0, positions), tokens))
        if self.graphs and not any(adapters):
            logits = torch.cat([self.graphs.say(span, tokens) for span, tokens in parts])
        else:
            logits = self._say(parts, adapters, self.model.device)
        self.steps += 1
        for pool, guesses, own in zip(pools, drafted, logits.split([span.rows for span, _ in parts]), strict=True):
            if not pool.drafts:
                self._take(pool, list(range(len(pool.members))), own)
                continue
            columns = own.view(len(pool.members), pool.drafts + 1, -1)
            going = list(range(len(pool.members)))
            for i in range(pool.drafts + 1):
                self._take(pool, going, columns[torch.tensor(going, device=own.device), i])
                going = [g for g in going if guesses[g][i : i + 1] == pool.members[g].search.tokens]
                going = [g for g in going if not pool.members[g].search.done]
                if not going:
                    break

    @torch.inference_mode()
    def leave(self, member: Member) -> None:
        """Frees the member's slot; to be called for those that are done too. One that has none is no error."""
        if (pool := self._pools.get(member.kind)) and member in pool.members:
            pool.leave(member)

    def _say(
        self, parts: Sequence[tuple[Span, list[int]]], adapters: Sequence[str | None], device: torch.device
    ) -> Tensor:
        """One pass of the decoder → logits [rows, V] in fp32."""
        tokens = torch.tensor([t for _, own in parts for t in own], device=device)
        positions = torch.cat([span.places.flatten() for span, _ in parts])
        return self.model.say(tokens, positions, [span for span, _ in parts], shares_of(adapters, device))

    def _take(self, pool: Pool, places: Sequence[int], logits: Tensor) -> None:
        """The members at `places` take a step; `logits` [places · width, V]."""
        members = [pool.members[i] for i in places]
        searches = [m.search for m in members]
        lengths = [s.length + 1 for s in searches]
        index = torch.tensor(places, device=logits.device)
        said = pool.said[index, :, : max(lengths)].flatten(0, 1) if len(pool.said) else pool.said
        found = self.chooser.candidates(searches, logits, said, lengths, _allowed(members, logits))
        parents = [search.advance(own) for search, own in zip(searches, found, strict=True)]
        for member, own in zip(members, parents, strict=True):
            member.advance(own)
        if any(own != list(range(pool.width)) for own in parents):
            order = torch.tensor(parents, device=logits.device)
            pool.slots.reorder(index, order)
            if len(pool.said):
                pool.said[index] = pool.said[index].gather(1, order[:, :, None].expand(-1, -1, pool.said.shape[2]))
        if len(pool.said):
            tokens = torch.tensor([s.tokens for s in searches], device=logits.device)
            pool.said[index, :, torch.tensor(lengths, device=logits.device)] = tokens


def shares_of(adapters: Iterable[str | None], device: torch.device) -> list[Share]:
    """Which rows each adapter answers for."""
    rows: dict[str, list[int]] = {}
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            rows.setdefault(adapter, []).append(row)
    return [Share(adapter, torch.tensor(own, device=device)) for adapter, own in rows.items()]


def _allowed(members: Sequence[Member], logits: Tensor) -> Tensor | None:
    """[rows, V], true where the row's constraint lets a token come; None when no member is constrained."""
    if not any(m.automaton for m in members):
        return None
    every = torch.ones(logits.shape[1], dtype=torch.bool)
    rows: list[Tensor] = []
    for member in members:
        if member.automaton:
            rows += [member.automaton.allowed(state) for state in member.states]
        else:
            rows += [every] * member.search.width
    return torch.stack(rows).to(logits.device)
