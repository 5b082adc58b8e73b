"""How far to trust the map of a word that is not in the prompt: words that are there, asked for as if they were not.

    python benchmarks/off_prompt.py [MODEL] [--scenes 8] [--step 8]

Each word of a scene's caption has a map. It is compared with the map of the same word encoded at its own place, in the
template (as `run.attention` does it for absent words), alone, and with the map of another word of the prompt.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch

import colorlab
from colorlab.inspection.attention import attention_reduce
from colorlab.inspection.places import resize_map, template_tokens, word_tokens
from colorlab.inspection.replay import Moment, moment_of, replay_step, run_sites
from colorlab.networks.attention import key_projection
from colorlab.networks.passes import submodule
from colorlab.networks.probe import Reading
from colorlab.training.scenes import TEST_SEEDS, caption, make_scene

NUM_STEPS = 20


def map_of(moment: Moment, readings: Sequence[Reading], tokens: torch.Tensor | Sequence[int]) -> np.ndarray:
    """Return the attention to tokens (n, D) whose keys are appended, or to those at some positions, flat."""
    parts = []
    for reading in readings:
        q, k = reading.get("q")[0], reading.get("k")[0]
        if isinstance(tokens, torch.Tensor):
            projection, _, _ = key_projection(submodule(moment.network, reading.site.module))
            extra = projection(tokens).unflatten(-1, (reading.site.heads, -1)).transpose(0, 1)
            weights = torch.cat([torch.zeros(k.shape[1]), torch.ones(len(tokens))])
            k = torch.cat([k, extra.to(k)], dim=1)
        else:
            weights = torch.zeros(k.shape[1])
            weights[list(tokens)] = 1
        column = attention_reduce(q, k, weights[:, None], scale=reading.scale).get("columns")[..., 0].mean(dim=0)
        parts.append(resize_map(column.unflatten(0, reading.site.grid), (16, 16), keep_sum=False))
    return torch.stack(parts).mean(dim=0).flatten().numpy()


@torch.no_grad()
def measure(model: str, num_scenes: int, step: int) -> dict[str, list[float]]:
    """Return the correlations of all words, by what their maps are compared with."""
    colorizer = colorlab.load(model)
    found: dict[str, list[float]] = {"its own place": [], "the template": [], "alone": [], "another word": []}
    for seed in TEST_SEEDS[:num_scenes]:
        scene = make_scene(seed)
        text = caption(scene, "complete", seed=0)
        run = colorizer.start(scene.image, prompt=text, num_inference_steps=NUM_STEPS, seed=0)
        while run.step_index <= step:
            run.step()
        moment, method = moment_of(run, step), run.method
        sites = [site for site in run_sites(run) if site.kind == "attn2"]
        readings = list(replay_step(moment, sites, wanted_passes=["cond"]).readings.values())
        words = list(dict.fromkeys(word for thing in scene.instances for word in (thing.color, thing.kind)))
        places = {word: list(word_tokens(method, text, word)) for word in words}
        encoded = method.encode_prompt(text).tokens[0]
        for word, following in zip(words, [*words[1:], words[0]], strict=True):
            own = map_of(moment, readings, places[word])
            others = {
                "its own place": map_of(moment, readings, encoded[places[word]]),
                "the template": map_of(moment, readings, template_tokens(method, text, word)),
                "alone": map_of(moment, readings, template_tokens(method, "", word)),
                "another word": map_of(moment, readings, places[following]),
            }
            for name, other in others.items():
                found[name].append(float(np.corrcoef(own, other)[0, 1]))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="mini/lcad")
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--step", type=int, default=8)
    options = parser.parse_args(arguments)
    found = measure(options.model, options.scenes, options.step)
    number = len(found["alone"])
    print(f"{options.model}: {number} words of {options.scenes} captions, step {options.step} of {NUM_STEPS}\n")
    print("| map of the word, compared with | lowest | 10 % below | median |\n| --- | --- | --- | --- |")
    for name, values in found.items():
        low, tenth, median = np.percentile(values, (0, 10, 50))
        print(f"| {name} | {low:.3f} | {tenth:.2f} | {median:.3f} |")


if __name__ == "__main__":
    main()
