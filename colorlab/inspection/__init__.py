"""Inspection: any internal of any past step, by repeating its one network call, and queries that make it an exhibit.

| module | what it does |
| --- | --- |
| `replay` | repeats the call of a step with read-only hooks and gives its verdict |
| `shelf` | keeps replays within a byte budget |
| `attention` | reduces attention from queries and keys in chunks |
| `moments` | what replays and queries need to know of a past step, of a run or of a recording |
| `places` | words, pixels and regions in the units of an attention matrix |
| `queries` | attention of words, pixels and regions |
| `image_tokens` | attention to the pictures of an IP-Adapter |
| `views` | guidance field, trajectory, features |
| `recording` | a call of a foreign diffusers pipeline, which answers the same questions |
| `recorder`, `recorded`, `kept`, `pipelines` | how it listens, how it repeats a step, what it keeps, what it knows |
"""
