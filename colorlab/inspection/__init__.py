"""Inspection: any internal of any past step, by repeating its one network call, and queries that make it an exhibit.

| module | what it does |
| --- | --- |
| `replay` | repeats the call of a step with read-only hooks and gives its verdict |
| `shelf` | keeps replays within a byte budget |
| `attention` | reduces attention from queries and keys in chunks |
| `moments` | what replays and queries need to know of a past step, of a run or of a recording |
| `places` | words, pixels and regions in the units of an attention matrix |
| `questions` | what is asked about attention, as weights of keys and queries |
| `baselines` | what a map would show by chance |
| `queries` | attention of words, tokens, pixels and regions |
| `views` | guidance field, clean prediction, trajectory, features |
| `chroma` | chroma of clean latents, by the model's decoder or a linear one |
| `settling` | from which step on a color is decided |
| `edits` | interventions that a branch carries; `colorlab.edits` |
| `effects` | what the edits of a branch change at a step |
| `sources`, `shares`, `provenance` | to what a color is due, by taking words, strokes, patches or text edits away |
| `study` | what takes many calls: cost first, progress, cancel |
| `studies` | the menu `run.study` |
| `image_tokens` | attention to the pictures of an IP-Adapter |
| `recording` | a call of a foreign diffusers pipeline, which answers the same questions |
| `recorder`, `recorded`, `kept`, `pipelines` | how it listens, how it repeats a step, what it keeps, what it knows |
"""
