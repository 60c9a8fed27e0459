# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRITON := $(VENV)/triton
INSTALL_TRITON = $(BIN)/python -m pip --python $(TRITON)/bin/python install --quiet
DEMO := demo
NODE := .cache/node

.PHONY: demo test test-hosts lint docs release-check setup node-modules clean

## demo: set up, generate with the packaged model, then paint birds, train the tiny preset, export, generate, show both
demo: $(VENV)/ready
	mkdir -p $(DEMO)
	$(BIN)/dmgan-generate --overwrite --grid --seed 1 -o $(DEMO)/emoji.png \
	  "red heart" "alarm clock" "cat face" sailboat "flexed biceps, dark skin tone" "grinning face" \
	  "green apple" dragon radioactive
	test -d $(DEMO)/birds || $(BIN)/python -m dmgan_train prepare synthetic $(DEMO)/birds --count 3000
	$(BIN)/python -m dmgan_train fit --preset tiny --data $(DEMO)/birds --source synthetic --run $(DEMO)/run
	rm -rf $(DEMO)/bundle && $(BIN)/dmgan-export $(DEMO)/run -o $(DEMO)/bundle --name tiny-birds
	$(BIN)/dmgan-generate -b $(DEMO)/bundle --overwrite --grid --seed 1 -o $(DEMO)/birds.png \
	  "this bird has a red crown, a white belly and black wings" \
	  "a bird with a blue crown, a yellow belly and green wings" \
	  "this bird has a yellow crown, a red belly, blue wings and an orange bill" \
	  "a bird with a black crown, an orange belly and white wings" \
	  "this bird has a green crown, a purple belly and yellow wings" \
	  "a bird with a white crown, a blue belly and red wings"
	$(BIN)/python -m scripts.part_colours $(DEMO)/bundle
	@if [ -n "$$DISPLAY" ] && command -v xdg-open >/dev/null; then xdg-open $(DEMO)/emoji.png; xdg-open $(DEMO)/birds.png; fi
	@echo "The pictures: $(DEMO)/emoji.png (the packaged model) and $(DEMO)/birds.png (trained just now)"

## test: style, types, import rules and tests
# Two workers are enough for two CPUs: threads of PyTorch beside them would only wait for each other.
test: lint node-modules
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

## node-modules: what the tests of dmgan_runtime/web need, if npm is there; without it they are skipped by name
node-modules: $(if $(shell command -v npm),$(NODE)/ready)

$(NODE)/ready: tests/web/package.json
	mkdir -p $(NODE) && cp $< $(NODE)
	npm install --prefix $(NODE) --ignore-scripts --no-audit --no-fund --silent && touch $@ || \
	  echo "npm could not install them; the tests that need them are skipped"

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

## test-hosts: dmgan inside of Ray and of Triton, which are half a gigabyte to install
test-hosts: $(VENV)/ready $(TRITON)/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test-hosts]"
	$(BIN)/python -m pytest tests/test_ray_batch.py tests/dmgan_runtime/server/test_ray.py tests/export/triton

## docs: the site, into site/; site/index.html opens from disk
docs: $(VENV)/ready
	$(BIN)/mkdocs build --strict

## release-check: build wheel and sdist, and use each in fresh environments of every Python that is on PATH
release-check:
	PYTHON=$(PYTHON) .ci/release-check

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# The tests of `dmgan-export triton` run the tritonserver in this wheel of 55 MB. Its Python backend needs numpy 1, so it
# has an environment of its own. There is a wheel for Linux on x86_64 alone; without it the tests are skipped by name.
$(TRITON)/ready: $(VENV)/ready
	$(PYTHON) -m venv --without-pip $(TRITON)
	grep -v "^numpy==" constraints.txt > $(TRITON)/constraints.txt
	$(INSTALL_TRITON) --constraint $(TRITON)/constraints.txt --only-binary numpy "numpy<2" --editable ".[cpu]" \
	  && $(INSTALL_TRITON) --no-deps nvidia-pytriton==0.7.0 \
	  && touch $@ || echo "no tritonserver could be installed here: tests that need it will be skipped"

clean:
	rm -rf $(VENV) $(DEMO) build dist site *.egg-info
