"""What ColorizeDiffusion's networks receive: sketch, exemplar and its text edits, encoded once for each picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from colorlab.conditioning import Conditioning, Manipulation
from colorlab.errors import RangeError
from colorlab.images import resize_image, to_uint8
from colorlab.mechanisms.attention_injection import AttentionInjection
from colorlab.mechanisms.exemplar_attention import ExemplarAttention
from colorlab.mechanisms.exemplar_start import ExemplarStart
from colorlab.mechanisms.global_manipulation import GlobalManipulation, TextEdit
from colorlab.mechanisms.line_guidance import LineGuidance
from colorlab.mechanisms.position_weights import PositionWeights
from colorlab.mechanisms.published_sketches import pad_exemplar, place_sketch
from colorlab.mechanisms.sketch_injection import SketchInjection
from colorlab.methods.base import Method, Prepared, gray_image
from colorlab.methods.hints import exemplar_notes, exemplar_picture
from colorlab.methods.text import EncodedText, encode_text_vector
from colorlab.networks.image_tokens import projected_tokens
from colorlab.networks.sketch_encoder import NO_SKETCH, sketch_pixels
from colorlab.settings import Settings
from colorlab.sketches import fit_sketch, is_blank, is_inverted, is_photograph, sketch_of

__all__ = ["EVERYTHING", "NO_ANCHOR", "ColorizeDiffusionInputs", "PreparedColorizeDiffusion"]

EVERYTHING = "everything"
"""Control text of an edit that acts on the whole exemplar, as an empty one does."""

NO_ANCHOR = "none"
"""Anchor text of an edit that takes nothing away, as an empty one does."""


@dataclass(frozen=True, eq=False)
class PreparedColorizeDiffusion(Prepared):
    """Everything ColorizeDiffusion's networks receive; N patches, K text edits.

    Args:
        sketch: (1, 1, H, W), [0, 1], black lines on white, at working size.
        hints: of the sketch, finest first, strengths applied.
        blank_hints: the same of blank paper, which stands for "no sketch".
        exemplar_tokens: (1, 1 + N, D), class token first; zeros without an exemplar.
        edited_tokens: as `exemplar_tokens`, after the text edits.
        context: what cross-attention receives, (1, N, D).
        similarities: of each local edit, (1, N, 1).
        weights: of each local edit, (1, N, 1).
        projections: of each global edit, (K, 2, 2), on target and anchor, before and after; empty for local ones.
        timesteps: (steps,), of the run.
        exemplar_latents: (1, C, h, w), scaled; None where nothing needs them.
        exemplar_hints: of the exemplar taken for a sketch, strengths applied; empty where nothing needs them.
        token_projections: of each local edit, (1, N, 2, 2), of the patches on target and anchor, before and after it.
        exemplar_view: (1, 3, S, S) uint8, the exemplar as squeezed as CLIP sees it, at working size, for showing maps
            of its patches; white without an exemplar.
        taps: of the sketch's lines for the decoder, finest first; empty where the model has no line encoder.
    """

    sketch: torch.Tensor
    hints: tuple[torch.Tensor, ...]
    blank_hints: tuple[torch.Tensor, ...]
    exemplar_tokens: torch.Tensor
    edited_tokens: torch.Tensor
    context: torch.Tensor
    similarities: tuple[torch.Tensor, ...]
    weights: tuple[torch.Tensor, ...]
    projections: torch.Tensor
    timesteps: torch.Tensor
    exemplar_latents: torch.Tensor | None = None
    exemplar_hints: tuple[torch.Tensor, ...] = ()
    token_projections: tuple[torch.Tensor, ...] = ()
    exemplar_view: torch.Tensor | None = None
    taps: tuple[torch.Tensor, ...] = ()


class ColorizeDiffusionInputs(Method):
    """The part of ColorizeDiffusion that runs once for each picture; `ColorizeDiffusion` adds the steps."""

    injection = SketchInjection()
    attention = ExemplarAttention()
    start = ExemplarStart()
    lending = AttentionInjection()
    position_weights = PositionWeights()
    global_manipulation = GlobalManipulation()
    lines = LineGuidance()

    def check(self, conditioning: Conditioning, settings: Settings) -> tuple[str, ...]:
        """Check as every method does, and that there is something to draw from.

        Raises:
            RangeError: there is neither a sketch nor a gray picture, or the sketch is blank.
        """
        if conditioning.sketch is None and conditioning.gray is None:
            raise RangeError(
                f"{self.name} needs a sketch, or a gray picture to draw one from, but the conditioning has neither; "
                "pass sketch=... or gray=..."
            )
        if conditioning.sketch is not None and is_blank(conditioning.sketch):
            raise RangeError(
                "The sketch is blank; give a drawing with black lines on white, or leave it out and give gray=..."
            )
        return super().check(conditioning, settings)

    def prepare(self, conditioning: Conditioning, settings: Settings) -> PreparedColorizeDiffusion:
        """Encode sketch, exemplar and texts, each only if it is new."""
        notes = list(self.check(conditioning, settings))
        size = self.size_for(conditioning, settings)
        drawing, hints, blank = self.encode_sketch(conditioning, size, settings)
        notes += self.sketch_notes(conditioning, drawing)
        tokens = self.encode_exemplar(conditioning, settings)
        edits, told = self.encode_edits(conditioning, tokens, settings)
        edited, done, projections = self.edit_tokens(tokens, edits, settings)
        if conditioning.exemplar is not None:
            notes += exemplar_notes(exemplar_picture(conditioning))
        elif conditioning.manipulations:
            notes.append("There is no exemplar, so that its text edits have nothing to edit; pass exemplar=...")
        return PreparedColorizeDiffusion(
            latent_shape=(self.vae.config.latent_channels, *hints[0].shape[-2:]),
            notes=tuple(dict.fromkeys((*notes, *told))),
            sketch=drawing,
            hints=self.injection.scale(hints, settings),
            blank_hints=self.injection.scale(blank, settings),
            exemplar_tokens=tokens,
            edited_tokens=edited,
            context=self.project(edited, conditioning),
            similarities=tuple(edit.similarity for edit in done),
            weights=tuple(edit.weights for edit in done),
            projections=projections,
            timesteps=self.timesteps(settings),
            exemplar_latents=self.encode_latents(conditioning, size, settings),
            exemplar_hints=self.exemplar_hints(conditioning, size, settings),
            token_projections=tuple(edit.projections for edit in done),
            exemplar_view=self.exemplar_view(conditioning, settings),
            taps=self.encode_lines(drawing, conditioning, settings),
        )

    def size_for(self, conditioning: Conditioning, settings: Settings) -> tuple[int, int]:
        """Return the working (height, width); as published it is square, with paper around the sketch."""
        return self.working_size(None if settings.as_published else conditioning.size)

    def read_sketch(self, conditioning: Conditioning) -> torch.Tensor:
        """Return the sketch (1, 1, H, W) at its own size: the user's, else the lines of the gray picture."""
        if conditioning.sketch is None:
            return sketch_of(gray_image(conditioning))
        return torch.tensor(conditioning.sketch)[None, None]

    def sketch_notes(self, conditioning: Conditioning, drawing: torch.Tensor) -> tuple[str, ...]:
        """Return a sentence for the user about a sketch that looks like its own negative, or one drawn of nothing.

        Args:
            conditioning: what the user gave.
            drawing: (1, 1, H, W), [0, 1], the sketch at working size.
        """
        if conditioning.sketch is None and is_blank(drawing[0, 0].numpy()):
            return ("The gray picture has no edges to draw, so that its sketch is blank; give sketch=..., too.",)
        if conditioning.sketch is not None and is_photograph(conditioning.sketch):
            return (
                "The sketch looks like a photograph: most of it is neither black nor white, where black lines on white "
                "are expected; if it is one, give it as gray=..., and its lines are drawn (on the command line without "
                "--from-sketch).",
            )
        if conditioning.sketch is None or not is_inverted(conditioning.sketch):
            return ()
        return (
            "The sketch looks inverted, white lines on black, where black lines on white are expected; if it is, give "
            "colorlab.sketches.invert_sketch(sketch), or --invert-sketch to the command.",
        )

    def encode_sketch(
        self, conditioning: Conditioning, size: tuple[int, int], settings: Settings
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Return the sketch at working size, its hints, and those of blank paper."""
        encoder = self.components["sketch_encoder"]

        def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            self.network_calls["sketch_encoder"] += 1
            hints: tuple[torch.Tensor, ...] = encoder(pixels.to(self.device, self.dtype))
            return hints

        def draw() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            drawing = self.read_sketch(conditioning)
            if settings.as_published:
                pixels = place_sketch(to_uint8(drawing.repeat(1, 3, 1, 1)), size).picture
            else:
                pixels = sketch_pixels(fit_sketch(drawing, size))
            return ((1 - pixels[:, :1]) / 2).clamp(0, 1), encode(pixels)

        key = (conditioning.content_hash("sketch", "gray"), size, settings.as_published)
        drawing, hints = self.cache.get("sketch", key, draw)
        blank = self.cache.get("blank_sketch", size, lambda: encode(torch.full((1, 3, *size), NO_SKETCH)))
        return drawing, hints, blank

    def encode_lines(
        self, drawing: torch.Tensor, conditioning: Conditioning, settings: Settings
    ) -> tuple[torch.Tensor, ...]:
        """Return the taps of a sketch (1, 1, H, W) of working size; empty without a line encoder, and as published."""
        encoder: Any = self.components.get("line_encoder")
        if encoder is None or settings.as_published:
            return ()

        def encode() -> tuple[torch.Tensor, ...]:
            self.network_calls["line_encoder"] += 1
            taps: tuple[torch.Tensor, ...] = encoder(sketch_pixels(drawing).to(self.device, self.dtype))
            return taps

        return self.cache.get("lines", (conditioning.content_hash("sketch", "gray"), drawing.shape[-2:]), encode)

    def encode_exemplar(self, conditioning: Conditioning, settings: Settings) -> torch.Tensor:
        """Return the exemplar's tokens (1, 1 + N, D); zeros without an exemplar."""
        encoder: Any = self.components["projected_image_encoder"]
        if conditioning.exemplar is None:
            num_tokens = 1 + (encoder.config.image_size // encoder.config.patch_size) ** 2
            return torch.zeros(1, num_tokens, encoder.config.projection_dim, device=self.device, dtype=self.dtype)
        canvas = self.attention.canvas_scale(settings)

        def encode() -> torch.Tensor:
            picture = self._on_canvas(conditioning, settings)
            self.network_calls["image_encoder"] += 1
            return projected_tokens(encoder, picture.to(self.device, self.dtype))

        return self.cache.get("exemplar_tokens", (conditioning.content_hash("exemplar"), canvas), encode)

    def exemplar_view(self, conditioning: Conditioning, settings: Settings) -> torch.Tensor:
        """Return the exemplar squeezed to a square, (1, 3, S, S) uint8 at working size; white without one."""
        size = (self.working_px, self.working_px)
        if conditioning.exemplar is None:
            return torch.full((1, 3, *size), 255, dtype=torch.uint8)

        def squeeze() -> torch.Tensor:
            # Resizing rounds, so that white may come out a little above 1.
            squeezed = resize_image(self._on_canvas(conditioning, settings), size).clamp(0, 1)
            return torch.from_numpy(to_uint8(squeezed)).permute(2, 0, 1)[None]

        key = (conditioning.content_hash("exemplar"), self.attention.canvas_scale(settings), size)
        return self.cache.get("exemplar_view", key, squeeze)

    def _on_canvas(self, conditioning: Conditioning, settings: Settings) -> torch.Tensor:
        """Return the exemplar (1, 3, H, W) in [0, 1], on a wider white canvas where the settings ask for one."""
        picture = exemplar_picture(conditioning)
        canvas = self.attention.canvas_scale(settings)
        if canvas <= 1:
            return picture
        return torch.from_numpy(pad_exemplar(to_uint8(picture), canvas)).permute(2, 0, 1)[None].float() / 255

    def encode_edits(
        self, conditioning: Conditioning, tokens: torch.Tensor, settings: Settings
    ) -> tuple[list[TextEdit], list[str]]:
        """Encode the texts of all manipulations; return them with sentences for the user.

        As published nothing is edited where no target scale is above 0, an empty anchor is the empty sentence, and
        "everything" is a control text like any other.
        """
        asked = conditioning.manipulations
        if settings.as_published and not any(one.target_scale > 0 for one in asked):
            asked = ()
        edits, notes = [], []
        before = tokens
        for one in asked:
            texts = {"target": one.target_text, **self._optional_texts(one, settings)}
            encoded = {name: self.encode_text(text, settings) for name, text in texts.items()}
            notes += [note for text in encoded.values() for note in text.notes]
            edit = TextEdit(one, **{name: text.tokens[0, 0] for name, text in encoded.items()})
            notes += self._edit_notes(edit, before, has_exemplar=conditioning.exemplar is not None)
            before, *_ = self.edit_tokens(before, [edit], settings)
            edits.append(edit)
        return edits, list(dict.fromkeys(notes))

    def encode_text(self, text: str, settings: Settings) -> EncodedText:
        """Encode a text into one unit vector, once; as published the last block of the text tower is skipped."""
        skipped = 1 if settings.as_published else 0

        def encode() -> EncodedText:
            self.network_calls["text_encoder"] += 1
            parts = (self.components["tokenizer"], self.components["projected_text_encoder"])
            return encode_text_vector(text, *parts, num_skipped_blocks=skipped)

        return self.cache.get("text_vector", (text, skipped), encode)

    def edit_tokens(
        self, tokens: torch.Tensor, edits: Sequence[TextEdit], settings: Settings
    ) -> tuple[torch.Tensor, tuple[Any, ...], torch.Tensor]:
        """Apply the text edits to what the model reads: patches or class token."""
        none = torch.zeros(0, 2, 2)
        if self.exemplar_part == "global":
            if not self.global_manipulation.is_on(settings):
                return tokens, (), none
            cls, projections = self.global_manipulation.apply(tokens[:, :1], edits)
            return torch.cat([cls, tokens[:, 1:]], dim=1), (), projections
        if not self.position_weights.is_on(settings):
            return tokens, (), none
        polarity = self.components["exemplar_projection"].config.polarity
        edited, done = self.position_weights.apply(tokens, edits, settings, polarity=polarity)
        return edited, done, none

    def project(self, tokens: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Return what cross-attention receives; zeros without an exemplar, whatever the projection makes of them."""
        projected: torch.Tensor = self.components["exemplar_projection"](tokens)
        return torch.zeros_like(projected) if conditioning.exemplar is None else projected

    def encode_latents(
        self, conditioning: Conditioning, size: tuple[int, int], settings: Settings
    ) -> torch.Tensor | None:
        """Return the exemplar's latents where something needs them.

        Raises:
            RangeError: something does, and there is no exemplar.
        """
        wanted = [one.name for one in (self.start, self.lending) if one.is_wanted(settings)]
        if not wanted:
            return None
        if conditioning.exemplar is None:
            raise RangeError(f"{wanted[0]} needs an exemplar, but the conditioning has none; pass exemplar=...")

        def encode() -> torch.Tensor:
            return self.encode_picture(resize_image(exemplar_picture(conditioning), size) * 2 - 1).float().cpu()

        return self.cache.get("exemplar_latents", (conditioning.content_hash("exemplar"), size), encode)

    def exemplar_hints(
        self, conditioning: Conditioning, size: tuple[int, int], settings: Settings
    ) -> tuple[torch.Tensor, ...]:
        """Return the hints of the exemplar's negative, taken for a sketch, where the injection asks for them."""
        strength = self.lending.sketch_fidelity(settings)
        if not strength:
            return ()

        def encode() -> tuple[torch.Tensor, ...]:
            negative = 1 - 2 * resize_image(exemplar_picture(conditioning), size)
            self.network_calls["sketch_encoder"] += 1
            hints: tuple[torch.Tensor, ...] = self.components["sketch_encoder"](negative.to(self.device, self.dtype))
            return hints

        hints = self.cache.get("exemplar_hints", (conditioning.content_hash("exemplar"), size), encode)
        return tuple(hint * strength for hint in hints)

    @property
    def exemplar_part(self) -> Any:
        """What of the exemplar the model reads: `local` (patches) or `global` (class token)."""
        return self.components["exemplar_projection"].config.reads

    def _optional_texts(self, one: Manipulation, settings: Settings) -> dict[str, str]:
        """Return anchor and control text of a manipulation, those that count."""
        anchor, control = one.anchor_text.strip(), one.control_text.strip()
        texts = {}
        if anchor != NO_ANCHOR if settings.as_published else anchor not in ("", NO_ANCHOR):
            texts["anchor"] = anchor
        if settings.as_published or control not in ("", EVERYTHING):
            texts["control"] = control
        return texts

    def _edit_notes(self, edit: TextEdit, tokens: torch.Tensor, *, has_exemplar: bool) -> list[str]:
        """Return sentences for the user about what of an edit does not act on the tokens that it meets."""
        one = edit.manipulation
        if self.exemplar_part == "global":
            if one.control_text.strip() in ("", EVERYTHING):
                return []
            return ["This model reads the class token alone, so that a control text does not limit where edits act."]
        notes = []
        if one.enhance and edit.anchor is None:
            notes.append(
                f"The edit toward {one.target_text!r} is to erase its anchor (enhance), but has none; give "
                "anchor_text, or leave enhance out."
            )
        if edit.control is not None and has_exemplar:
            notes += self._absence(one.control_text, edit.control, tokens)
        return notes

    def _absence(self, text: str, control: torch.Tensor, tokens: torch.Tensor) -> list[str]:
        """Return a sentence for the user where no patch resembles the control text; edits before it count."""
        config = self.components["exemplar_projection"].config
        if config.present_similarity <= 0 or config.polarity != "high":
            return []
        best = float(torch.nn.functional.cosine_similarity(tokens[0, 1:], control[None], dim=-1).max())
        if best >= config.present_similarity:
            return []
        return [
            f"Nothing in the exemplar resembles {text!r} (similarity at most {best:.2f}; what is there has at least "
            f"{config.present_similarity:.2f}), so that its weights fall on whatever comes nearest."
        ]
