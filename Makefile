# What people do with Peel4D. Every target installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CORE := $(shell find cuda -type f -not -path '*/build/*' -not -path '*.egg-info*')

.PHONY: help install demo test lint format bench cuda extension clean

help:
	@echo "make demo       film a small scene with Blender, reconstruct it, render it in Blender"
	@echo "make test       run the tests"
	@echo "make lint       ruff, check and format"
	@echo "make bench      run the benchmarks, results in build/bench"
	@echo "make cuda       compile the GPU's kernels (build/peel4d.fatbin), needs nvcc 12 or later"
	@echo "make extension  build and validate the Blender extension (build/*.zip)"
	@echo "make clean      remove build/ and .venv/"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt $(CORE)
	@sh tools/prerequisites.sh $(PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps -c constraints.txt ./cuda
	PYTHONWARNINGS='ignore:Editable installation' \
	  $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,blender,test]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py build/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/peel.py --json build/bench/peel.json
	$(BIN)/python benchmarks/peel.py --scaling --json build/bench/peel_scaling.json
	$(BIN)/python benchmarks/train_step.py --json build/bench/train_step.json
	$(BIN)/python benchmarks/playback.py --json build/bench/playback.json

cuda: $(INSTALLED)
	@mkdir -p build
	$(BIN)/python cuda/fatbin.py build/peel4d.fatbin

extension: $(INSTALLED)
	$(BIN)/python tools/build_extension.py

clean:
	rm -rf build .venv
