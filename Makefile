# The two commands of the README: `make lab` and `make test`. Everything is installed into .venv.
#   PYTHON=python3.12        the interpreter that makes the environment (3.11 or newer)
#   TORCH_INDEX=URL          one more package index to take torch from, such as PyTorch's own index of CPU builds
#   LAB_FLAGS="--no-browser" handed to JupyterLab;  PYTEST_FLAGS="-k color" handed to pytest

PYTHON ?= python3
TORCH_INDEX ?=
LAB_FLAGS ?=
PYTEST_FLAGS ?=

VENV := .venv
RUN := $(VENV)/bin/python -m
# A stamp carries the checksum of what it was installed from, so a changed pin reinstalls and nothing else does.
KEY := $(shell cat pyproject.toml constraints/cpu.txt | cksum | cut -d ' ' -f 1)
LAB_STAMP := $(VENV)/.lab-$(KEY)
TEST_STAMP := $(VENV)/.test-$(KEY)
INSTALL = $(RUN) pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints/cpu.txt -e

.DEFAULT_GOAL := help
.PHONY: help lab test figures clean

help:
	@echo "make lab    make the environment and open JupyterLab on notebooks/00_tour.ipynb"
	@echo "make test   make the environment, check the code, run all tests and all notebooks"
	@echo "make figures  measure every figure of docs/figures.md anew (PHOTOS=DIR JUDGE=DIR)"
	@echo "make clean  remove the environment"

lab: $(LAB_STAMP)
	$(RUN) colorlab lab $(LAB_FLAGS)

# One pytest run over tests and notebooks, so that its last line sums up everything.
test: $(TEST_STAMP)
	$(RUN) ruff check .
	$(RUN) mypy
	COLORLAB_PRESET=smoke OMP_NUM_THREADS=1 $(RUN) pytest $(wildcard tests notebooks) --nbval-lax --nbval-current-env \
		--nbval-cell-timeout 300 $(PYTEST_FLAGS)

# Every figure of docs/figures.md, measured anew:  make -j2 figures PHOTOS=DIR JUDGE=DIR  (about two hours).
FIGURES := $(addprefix docs/figures/,scenes.md instances.md masks.md solvers.md photographs.md clip.md ctrlcolor.md flicker.md colorizediffusion.md ablations.md provenance.md judge.md speed.md inspection.md studio.md)

figures: $(FIGURES)
	@{ printf '# Figures\n\nMeasured by `make -j2 figures PHOTOS=DIR JUDGE=DIR`, where PHOTOS holds validation photographs'; \
	   printf ' and JUDGE an outside classifier; see `benchmarks/`.\n'; \
	   for part in $(FIGURES); do printf '\n## %s\n\n' "$$(basename $$part .md)"; cat $$part; done; } > docs/figures.md

# Phony, because what they depend on (weights, code, photographs) is not listed.
.PHONY: $(FIGURES)
$(FIGURES): $(TEST_STAMP)
# Alone, at the end, one after the other: with another command beside it every figure of speed would be too slow.
docs/figures/speed.md: $(filter-out %/speed.md %/inspection.md %/ctrlcolor.md %/studio.md,$(FIGURES))
docs/figures/inspection.md: docs/figures/speed.md
docs/figures/studio.md: docs/figures/ctrlcolor.md

docs/figures/scenes.md: ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/lcad --scenes 200 > $@
docs/figures/instances.md: ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/lcad --scenes 200 --protocol instances > $@
docs/figures/masks.md: ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/lcad --scenes 200 --protocol masks > $@
docs/figures/solvers.md: ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/lcad --scenes 200 --protocol solvers > $@
docs/figures/photographs.md: ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/lcad --images "$(PHOTOS)" > $@
docs/figures/clip.md: ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/clip --scenes 200 --images "$(PHOTOS)" > $@
# It times pictures, too: with nothing beside it, as those of speed.
docs/figures/ctrlcolor.md: docs/figures/inspection.md ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/ctrlcolor --scenes 200 > $@
docs/figures/flicker.md: ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/ctrlcolor --clips 8 > $@
docs/figures/colorizediffusion.md: ; @mkdir -p $(@D) && for model in colorizediffusion colorizediffusion-cls; do $(RUN) colorlab evaluate mini/$$model --scenes 200; echo; done > $@
# Not among those of `make figures`: it tunes on every picture, which takes more than an hour.
docs/figures/diffcolor.md: $(TEST_STAMP) ; @mkdir -p $(@D) && $(RUN) colorlab evaluate mini/diffcolor --scenes 30 --images "$(PHOTOS)" --limit 20 > $@
docs/figures/ablations.md: ; @mkdir -p $(@D) && for model in lcad ctrlcolor colorizediffusion; do $(RUN) colorlab ablate mini/$$model; echo; done > $@
docs/figures/provenance.md: ; @mkdir -p $(@D) && $(VENV)/bin/python benchmarks/provenance.py > $@
docs/figures/judge.md: ; @mkdir -p $(@D) && $(VENV)/bin/python benchmarks/judge.py --judge "$(JUDGE)" --photos "$(PHOTOS)" > $@
docs/figures/speed.md: ; @mkdir -p $(@D) && $(VENV)/bin/python benchmarks/speed.py > $@
docs/figures/studio.md: ; @mkdir -p $(@D) && OMP_NUM_THREADS=1 COLORLAB_LATENCY_REPORT=$(abspath $@) $(RUN) pytest tests/browser/test_studio_latency.py -m slow -q >&2
docs/figures/inspection.md: ; @mkdir -p $(@D) && $(VENV)/bin/python benchmarks/inspection.py --sd-size --cpu-time --threads 1 > $@

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "colorlab needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Whatever a notebook, the Studio or a command can ask for; [test] contains it: where that is installed, the lab has
# nothing left to install.
LAB_EXTRAS := lab,eval,tune,video
$(LAB_STAMP): $(VENV)/bin/python
	@test -e $(TEST_STAMP) || { echo "Installing colorlab (about two minutes) ..."; $(INSTALL) ".[$(LAB_EXTRAS)]"; }
	@touch $@

$(TEST_STAMP): $(VENV)/bin/python
	@echo "Installing colorlab with its test tools (about two minutes) ..."
	$(INSTALL) ".[test]"
	@touch $@
