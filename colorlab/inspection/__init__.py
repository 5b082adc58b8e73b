"""Inspection: any internal of any past step, by repeating its one network call, and queries that make it an exhibit.

| module | what it does |
| --- | --- |
| `replay` | repeats the call of a step with read-only hooks and gives its verdict |
| `shelf` | keeps replays within a byte budget |
| `attention` | reduces attention from queries and keys in chunks |
| `places` | words, pixels and regions in the units of an attention matrix |
| `queries` | attention of words, pixels and regions |
| `views` | guidance field, trajectory, features |
| `study` | what takes many calls: cost first, progress, cancel |
| `studies` | the menu `run.study` |
"""
