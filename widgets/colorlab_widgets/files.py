"""FilePanel: pictures in, run files and pages out."""

from pathlib import Path

import ipywidgets
import numpy as np

from colorlab.errors import ColorlabError
from colorlab_widgets.page import Picture
from colorlab_widgets.pictures import open_upload
from colorlab_widgets.view import View, button, caption, heading, row, tell_label
from colorlab_widgets.view_model import ViewModel, in_words

__all__ = ["FilePanel"]

_FORMATS = "image/png,image/jpeg,image/webp"


class FilePanel(View):
    """Load another picture or an exemplar, save all runs, export a page.

    Args:
        model: the view-model.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.upload = ipywidgets.FileUpload(accept=_FORMATS, description="Picture", tooltip="Color another picture")
        self.upload.observe(lambda change: self._take("gray", self.upload), "value")
        self.exemplar_upload = ipywidgets.FileUpload(
            accept=_FORMATS, description="Exemplar", tooltip="Borrow the colors of this picture"
        )
        self.exemplar_upload.observe(lambda change: self._take("exemplar", self.exemplar_upload), "value")
        self.no_exemplar = button("Without exemplar", "Borrow no colors", lambda: self._give(exemplar=None), "times")
        self.exemplar = Picture(description="The exemplar: its colors are borrowed", max_height_px=180)
        self.name = ipywidgets.Text("picture", description="name", layout=ipywidgets.Layout(width="260px"))
        self.name.tooltip = "Of the file, beside the notebook, without its ending"
        tell_label(self.name)
        self.save = button(
            "Save runs", "Write all runs into NAME.colorlab; colorlab.open reads them back", self._save, "save"
        )
        self.export = button(
            "Export page",
            "Write NAME.html: a page with slider and word maps that needs no kernel",
            self._export,
            "file-code-o",
        )
        self.caption = caption()
        self._exemplar_part = ipywidgets.VBox(
            [heading("Exemplar"), row(self.exemplar_upload, self.no_exemplar), self.exemplar]
        )
        self.children = [
            heading("Another picture"),
            self.upload,
            self._exemplar_part,
            heading("Keep"),
            row(self.name, self.save, self.export),
            self.caption,
        ]
        reads_exemplar = "exemplar" in model.colorizer.method.fields_read()
        self._exemplar_part.layout.display = None if reads_exemplar else "none"
        self.follow(("conditioning",), self._show_exemplar)
        self.follow(("run",), self._offer)

    def _take(self, field: str, upload: ipywidgets.FileUpload) -> None:
        """Put an uploaded picture into the conditioning; strokes and masks of another size do not fit and go."""
        if not upload.value:
            return
        content = bytes(upload.value[0].content)
        # Emptied, so that the same file can be taken again and its bytes are not kept twice.
        upload.value = ()
        try:
            picture = open_upload(content)
        except ColorlabError as problem:
            self.caption.value = in_words(problem)
            return
        if field == "gray" and picture.shape[:2] != self.model.image_size:
            self._give(gray=picture, strokes=(), masks={}, base_image=None, sketch=None)
        else:
            self._give(**{field: picture})

    def _give(self, **fields: object) -> None:
        """Change the conditioning, or say why it cannot be."""
        try:
            self.model.conditioning = self.model.conditioning.replace(**fields)
            self.caption.value = ""
        except ColorlabError as problem:
            self.caption.value = in_words(problem)

    def _show_exemplar(self) -> None:
        """Show the exemplar that is given."""
        exemplar = self.model.conditioning.exemplar
        self.exemplar.layout.display = "none" if exemplar is None else None
        self.no_exemplar.disabled = exemplar is None
        if exemplar is not None:
            self.exemplar.show(np.round(exemplar * 255).astype(np.uint8))

    def _offer(self) -> None:
        """Offer to save what there is."""
        self.save.disabled = self.export.disabled = self.model.run is None

    def _save(self) -> None:
        """Write the run file."""
        run, path = self.model.run, Path(f"{self.name.value.strip() or 'picture'}.colorlab")
        self.model.ask("save", lambda: run.save(path), self._wrote, failed=self._say)

    def _export(self) -> None:
        """Write the page."""
        run, path = self.model.run, Path(f"{self.name.value.strip() or 'picture'}.html")
        self.model.ask("export", lambda: run.to_html(path), self._wrote, failed=self._say)

    def _wrote(self, path: Path) -> None:
        """Say where it is."""
        self.caption.value = f"Written: {path} ({path.stat().st_size / 2**20:.1f} MiB)."

    def _say(self, why: str) -> None:
        """Say why it is not written."""
        self.caption.value = why
