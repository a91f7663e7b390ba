"""The engine: Florence-2 with continuous batching, exact in fp32 against transformers' `generate`.

The life of a prompt:

1. `engine.py`: `Engine.submit` checks a `Request` (`request.py`), creates its `Sequence` and returns a `Handle`.
2. `scheduler.py`: the sequence waits. Interactive requests go before jobs, and clients take turns.
3. `worker.py`, `loop.py`: one thread per worker runs the `EngineLoop`, which admits sequences as far as KV cache slots
   and the encoding budget allow, decodes one token for all, and preempts sequences when memory runs out.
4. `runner.py`: `ModelRunner` encodes new images (`model/`, with a feature cache) and prompts, then adds the sequences
   to the batch.
5. `decoding/`: `decoder.py` generates the next token of all sequences. `kv_cache.py` holds their keys and values,
   `token_selection.py` turns logits into candidates, `search.py` picks from them (greedy or beams), `constraint.py`
   restricts them, `cuda_graphs.py` replays steps on a GPU.
6. `sequence.py`: `Sequence.process_output` parses new tokens and streams annotations.
7. `handle.py`: the caller streams, waits for the `Result`, or cancels.

`config.py` declares all options. `checkpoints/` loads models, `adapters/` LoRA adapters. `config.py`, `errors.py` and
`request.py` import no torch.
"""
