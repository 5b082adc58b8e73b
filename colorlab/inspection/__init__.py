"""Inspection: any internal of any past step, by repeating its one network call, and queries that make it an exhibit.

| module | what it does |
| --- | --- |
| `replay` | repeats the call of a step with read-only hooks and gives its verdict |
| `shelf` | keeps replays within a byte budget |
| `attention` | reduces attention from queries and keys in chunks |
| `places` | words, pixels and regions in the units of an attention matrix |
| `questions` | what is asked about attention, as weights of keys and queries |
| `baselines` | what a map would show by chance |
| `queries` | attention of words, tokens, pixels and regions |
| `views` | guidance field, clean prediction, trajectory, features |
| `chroma` | chroma of clean latents, by the model's decoder or a linear one |
| `settling` | from which step on a color is decided |
| `study` | what takes many calls: cost first, progress, cancel |
| `studies` | the menu `run.study` |
"""
